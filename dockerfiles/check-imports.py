"""Imports what every installed distribution offers, once; a broken wheel ends the base's build, not the app's start.

    check-imports.py [--no-requirements]

Before that, every distribution has to find what it requires, in a version that fits; `--no-requirements` leaves that to the
caller.

Runs where packages are installed. What a distribution offers is read from its RECORD: the modules and packages at the top of
site-packages, and those below a folder that is only a namespace. Data is never imported. What is passed over is listed with its
reason, on lines that begin with `passed over: `:

- what a project has next to its package and gets into a wheel by accident (PROJECT_FILES in install.py), unless the distribution is called
  so or has nothing else;
- private modules (`_x`) that no public one has loaded, unless the distribution has nothing else;
- a distribution without a module: stubs, data;
- a module that needs an extra which is not installed; the module that the distribution is called like, only if an extra names what it needs;
- a module that needs one which only the distribution's own program has, as uWSGI's decorators do;
- a single module in a namespace that cannot be imported, where other modules of the distribution can.

The imports run in a child, so that one which ends or kills the process is named.
"""

import ast
import csv
import glob
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import time
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

# Where the pip is that installed the installer: it brings a reader of requirements, of the image's own Python.
INSTALLER = "/opt/installer/lib/python3*/site-packages"

# Its rules for what belongs to a package are those of this check.
spec = importlib.util.spec_from_file_location("install", Path(__file__).with_name("install.py"))
install = importlib.util.module_from_spec(spec)
spec.loader.exec_module(install)

NAMESPACE = re.compile(r"\bextend_path\b|\bdeclare_namespace\b")


def module_of(name: str, file: Path) -> str | None:
    """The module that a file is; a library that lies next to Python's modules is none."""
    if name.endswith(".py"):
        return name[:-3]
    for suffix in EXTENSION_SUFFIXES:
        if name.endswith(suffix):
            module = name[: -len(suffix)]
            return module if file.is_file() and f"PyInit_{module}".encode() in file.read_bytes() else None
    return None


def says_nothing(source: str) -> bool:
    """Whether an `__init__.py` holds a docstring at most."""
    try:
        return all(isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) for one in ast.parse(source).body)
    except (SyntaxError, ValueError):
        return False


class Offered:
    """What one distribution offers: packages and single modules, by their full names."""

    def __init__(self, distribution: importlib.metadata.Distribution) -> None:
        self.distribution = distribution
        self.own = install.normalised(distribution.name)
        self.modules: list[str] = []
        # Modules in namespaces without packages: some projects leave scripts there.
        self.single: set[str] = set()
        self.passed: dict[str, str] = {}
        self.read(self.tree(), "")
        self.choose()

    def listed(self) -> list[list[str]]:
        """Its files, as the parts of their paths; `files` of a distribution asks for each whether it exists, which takes longer than most imports."""
        record = self.distribution.read_text("RECORD")
        if record is None:
            return [list(file.parts) for file in self.distribution.files or []]
        return [[part for part in row[0].split("/") if part not in ("", ".")] for row in csv.reader(record.splitlines()) if row]

    def tree(self) -> dict:
        tree: dict = {}
        for parts in self.listed():
            if not parts or parts[0] == ".." or "__pycache__" in parts or parts[0].endswith((".dist-info", ".data")):
                continue
            inner = tree
            for part in parts[:-1]:
                inner = inner.setdefault(f"{part}/", {})
            inner[parts[-1]] = "/".join(parts)
        return tree

    def place(self, path: str) -> Path:
        return Path(self.distribution.locate_file(path))

    def read(self, tree: dict, above: str) -> None:
        for name, value in sorted(tree.items()):
            if not isinstance(value, dict):
                file = self.place(value)
                module = module_of(name, file) if file.exists() else None
                if module and module.isidentifier() and module not in ("__init__", "__main__"):
                    self.modules.append(above + module)
                    self.single.update([above + module] if above else [])
                continue
            name = name[:-1]
            if not name.isidentifier() or (above and name in ("test", "tests")):
                continue
            inner = {file: self.place(path) for file, path in value.items() if not isinstance(path, dict)}
            found = {file: path for file, path in inner.items() if path.exists()}
            files = {module_of(file, path) for file, path in found.items()}
            init = found.get("__init__.py")
            source = init.read_text("utf-8", "replace") if init and init.is_file() else ""
            if "__init__" not in files:
                self.read(value, f"{above}{name}.")
            elif init and says_nothing(source) and not files - {None, "__init__"}:
                # Nothing but packages below: those say whether they can be imported.
                self.modules.append(above + name)
                self.read(value, f"{above}{name}.")
            elif install.declares_namespace(source) and NAMESPACE.search(source):
                self.read(value, f"{above}{name}.")
            else:
                self.modules.append(above + name)

    def choose(self) -> None:
        reasons = {module: self.why_not(module) for module in self.modules}
        if any(reason is None for reason in reasons.values()):
            self.passed = {module: reason for module, reason in reasons.items() if reason}
            self.modules = [module for module in self.modules if not reasons[module]]
        elif not reasons:
            self.passed = {"": "it has no module to import"}

    def why_not(self, module: str) -> str | None:
        if install.is_beside(f"{module.replace('.', '/')}.py", {self.own}):
            return "it is next to the package in its project"
        return "it is private" if module.split(".")[-1].startswith("_") else None

    def programs(self) -> set[str]:
        """Names of its programs that do not begin in one of its modules."""
        files = self.distribution.files or []
        programs = {file.name for file in files if file.parts[0] == ".." and file.parts[-2:-1] == ("bin",)}
        return programs - {point.name for point in self.distribution.entry_points}

    def extras(self) -> set[str]:
        """The normalised names of optional requirements that are not installed."""
        found = set()
        for requirement in self.distribution.requires or []:
            name, _, marker = requirement.partition(";")
            name = re.match(r"[\w.-]+", name.strip())
            if name and "extra" in marker:
                try:
                    importlib.metadata.distribution(name[0])
                except importlib.metadata.PackageNotFoundError:
                    found.add(install.normalised(name[0]))
        return found


def needed(error: BaseException | None) -> str | None:
    """The module for want of which an import failed."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.split(".")[0]
        error = error.__cause__ or error.__context__
    return None


def is_installed(module: str) -> bool:
    return module in sys.stdlib_module_names or bool(importlib.metadata.packages_distributions().get(module))


def tried(offered: Offered, module: str) -> tuple[bool, str] | None:
    """Imports a module. If that fails: whether it may, and why it did."""
    try:
        importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except SystemExit:
        return module in offered.single, "it ends Python"
    except BaseException as error:  # any failure to import is the finding
        missing = needed(error)
        extras = offered.extras() if missing and not is_installed(missing) else set()
        named = "." not in module and install.normalised(module) == offered.own
        if extras and (not named or install.normalised(missing) in extras):
            return True, f"it needs `{missing}`, and an extra is not installed"
        if missing and install.normalised(missing) == offered.own and missing in offered.programs():
            return True, f"it works only inside the program `{missing}`"
        cause = str(error).strip().splitlines() or [type(error).__name__]
        # A library's advice comes first and the loader's own words last.
        return module in offered.single, cause[-1]
    return None


def check_one(offered: Offered, title: str, say) -> int:
    """Imports what a distribution offers; the number of failures."""
    failures: dict[str, tuple[bool, str]] = {}
    for module in offered.modules:
        began = time.monotonic()
        say(f"{title}: cannot import {module}")
        found = tried(offered, module)
        if found:
            failures[module] = found
        else:
            print(f"{title}: {module} {time.monotonic() - began:.2f} s")
    # Of what a distribution has, something must work, or be for an extra.
    nothing = len(failures) == len(offered.modules) and all(module in offered.single for module in failures)
    failed = 0
    for module, (allowed, cause) in failures.items():
        if allowed and not (nothing and not cause.endswith("an extra is not installed")):
            print(f"passed over: {title}: {module}: {cause}")
        else:
            failed += 1
            print(f"{title}: cannot import {module}: {cause}", file=sys.stderr)
    return failed


def check(say) -> int:
    failed = 0
    passed = []
    for distribution in sorted(importlib.metadata.distributions(), key=lambda d: d.name.lower()):
        offered = Offered(distribution)
        title = f"{distribution.name} {distribution.version}"
        failed += check_one(offered, title, say)
        passed += [(title, module, reason) for module, reason in offered.passed.items()]
    for title, module, reason in passed:
        if module not in sys.modules:
            print(f"passed over: {title}: {module + ': ' if module else ''}{reason}")
    return 1 if failed else 0


def locked() -> tuple[dict[str, set[str]], list[str]]:
    """The extras that the lock next to this script asks for, by distribution, and the bounds of Python it was resolved for."""
    extras: dict[str, set[str]] = {}
    bounds: list[str] = []
    for lock in Path(__file__).resolve().parent.glob("*.lock"):
        text = lock.read_text(encoding="utf-8")
        bounds += re.findall(r"^# python: (.*)$", text, re.MULTILINE)
        for name, list_of in re.findall(r"^([A-Za-z0-9._-]+)\[([^]]*)\]", text, re.MULTILINE):
            extras.setdefault(install.normalised(name), set()).update(install.normalised(one.strip()) for one in list_of.split(","))
    return extras, bounds


def unmet() -> list[str]:
    """What distributions require and do not find: as markers and extras say for this Python and this machine."""
    installed = {install.normalised(d.name): d for d in importlib.metadata.distributions()}
    path = list(sys.path)
    sys.path += glob.glob(INSTALLER)
    try:
        from pip._vendor.packaging.requirements import InvalidRequirement, Requirement
        from pip._vendor.packaging.specifiers import InvalidSpecifier, SpecifierSet
    except ImportError:
        return [f"cannot check what distributions require: no pip in {INSTALLER}"]
    finally:
        sys.path[:] = path
    python = "%d.%d.%d" % sys.version_info[:3]
    extras, bounds = locked()
    found = [f"the lock is for Python {b}, this is {python}" for b in bounds if python not in SpecifierSet(b)]
    todo = [(name, extra) for name in installed for extra in {"", *extras.get(name, set())}]
    seen = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen or name not in installed:
            continue
        seen.add((name, extra))
        distribution = installed[name]
        who = f"{distribution.name} {distribution.version}"
        try:
            if not SpecifierSet(distribution.metadata["Requires-Python"] or "").contains(python, prereleases=True):
                found.append(f"{who} requires Python {distribution.metadata['Requires-Python']}, this is {python}")
        except InvalidSpecifier:
            pass  # a form of before PEP 440, which no installer judges either
        for text in distribution.requires or []:
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                found.append(f"{who}: cannot read what it requires: {text}")
                continue
            if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
                continue
            other = installed.get(install.normalised(wanted.name))
            wanted.marker = None
            if other is None:
                found.append(f"{who} requires {wanted}, which is not installed")
            elif not wanted.specifier.contains(other.version, prereleases=True):
                found.append(f"{who} requires {wanted}, but {other.version} is installed")
            todo += [(install.normalised(wanted.name), install.normalised(one)) for one in wanted.extras]
    return sorted(set(found))


def main(arguments: list[str]) -> int:
    missing = [] if "--no-requirements" in arguments else unmet()
    for line in missing:
        print(line, file=sys.stderr)
    if missing:
        return 1
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        # Libraries of linear algebra start as many threads as there are cores, which wait in loops: a third of the processor time of all.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        code = check(lambda what: os.write(writer, f"{what}\n".encode()))
        os.write(writer, b"done\n")
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads and exit handlers of what was imported have no say.
        os._exit(code)
    os.close(writer)
    with open(reader, encoding="utf-8") as sent:
        said = sent.read().splitlines()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if said and said[-1] == "done":
        return code
    how = f"signal {-code} ended Python" if code < 0 else f"it ended Python with exit code {code}"
    print(f"{said[-1] if said else 'the check has not begun'}: {how}", file=sys.stderr)
    return code if code > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
