"""Runs an installer, then settles which file stays where several distributions have one of the same path.

    install.py SITE-PACKAGES COMMAND...
    install.py --judge

Installers write such a file as often as they meet it, in an order that depends on the moment. Here the last in the order of the lock
(by normalised name) wins, always: COMMAND is run again with `--reinstall-package NAME` for each distribution concerned, in that order.

Different bytes at one path are a warning where Python does not import the path as a part of a package:

- outside of site-packages (`bin`, `share`), and in a folder of site-packages that holds no module;
- at the top of site-packages, files that are not modules (`LICENSE`);
- what a project has next to its package, `tests` in any folder and the names of PROJECT_FILES at the top, but for those of a
  distribution that is called so;
- what only type checkers read (`py.typed`, `*.pyi`);
- an `__init__.py` of which every version only declares a namespace, or is empty.

Everything else ends with exit code 3, and so do

- a module that hides another distribution's under another path, as `six/__init__.py` hides `six.py`, but for the module of the
  distribution that is called like it (pytest brings a `py.py` for whoever does not have `py`);
- byte code for another distribution's source;
- a file in place of the environment's own: `bin/python3`, `pyvenv.cfg`.

A file that a wheel has and its RECORD does not list counts as the distribution's: uv lists all that it installs. Everything in
the environment gets the time that files have in layers of the native engine.

With --judge, nothing is installed: stdin has the RECORDs of all distributions and the contents of the files that differ, as JSON,
and stdout gets the warnings. Both engines run this script: the rule exists once. Needs Python 3.8 and nothing but the standard
library.
"""

import ast
import base64
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

# Files next to the package in a project's repository that get into a wheel by accident: nothing that is imported by an app.
PROJECT_FILES = {"benchmark", "benchmarks", "conftest", "doc", "docs", "example", "examples", "noxfile", "sample", "samples", "scripts", "setup"}
PROJECT_FILES |= {"test", "tests"}

# The time of every file in a layer, as the native engine writes it.
TIME = 1_767_225_600

MODULE = re.compile(r"\.py$|\.pyc$|\.so$|\.pth$")
OWN = re.compile(r"bin/python[0-9.]*|pyvenv\.cfg")

# Python looks for a package before a module, and for compiled modules before sources.
RANK = re.compile(r"(/__init__)?(\.(?:cpython-[^./]*|abi3)\.so|\.so|\.py|\.pyc)$")


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(site):
    """The paths and hashes of each distribution, by normalised name."""
    found = {}
    for record in site.glob("*.dist-info/RECORD"):
        name = normalised(record.parent.name[: -len(".dist-info")].split("-")[0])
        with record.open(newline="", encoding="utf-8") as rows:
            found[name] = {row[0]: row[1] if len(row) > 1 else "" for row in csv.reader(rows) if row}
    return dict(sorted(found.items()))


def hash_of(data):
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def shared(site, found):
    """The paths that distributions have with different bytes, as their RECORDs or the file itself say, with their owners."""
    owners = {}
    for name, rows in found.items():
        for path in rows:
            owners.setdefault(path, []).append(name)
    out = {}
    for path, names in sorted(owners.items()):
        if len(names) > 1:
            hashes = {found[name][path] for name in names}
            file = site / path
            if len(hashes) > 1 or (file.is_file() and hash_of(file.read_bytes()) not in hashes):
                out[path] = names
    return out


def is_named(path, names):
    """Whether a distribution is called like the top of a path."""
    return normalised(path.split("/")[0].split(".")[0]) in names


def is_beside(path, names):
    parts = path.split("/")
    top = parts[0].split(".")[0]
    if "tests" in parts[1:-1]:
        return True
    return (top in PROJECT_FILES or (len(parts) == 1 and top.startswith("test_"))) and not is_named(path, names)


def declares_namespace(source):
    """Whether an `__init__.py` does nothing but that, or nothing at all."""
    try:
        return all(map(is_declaration, ast.parse(source).body))
    except (SyntaxError, ValueError, RecursionError):
        return False


def is_declaration(statement):
    if isinstance(statement, ast.Pass):
        return True
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        names = [statement.module] if isinstance(statement, ast.ImportFrom) else [alias.name for alias in statement.names]
        return set(names) <= {"__future__", "modulefinder", "pkg_resources", "pkgutil"}
    if isinstance(statement, ast.Try):
        handlers = [inner for handler in statement.handlers for inner in handler.body]
        return all(map(is_declaration, statement.body + handlers + statement.orelse + statement.finalbody))
    if isinstance(statement, ast.For):
        return all(map(is_declaration, statement.body))
    if isinstance(statement, ast.Assign):
        targets = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        plain = isinstance(statement.value, (ast.Constant, ast.List, ast.Tuple)) and all(t.startswith("__") for t in targets)
        return plain or (targets == ["__path__"] and calls(statement.value))
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant) or calls(statement.value)
    return False


def calls(value):
    known = {"AddPackagePath", "declare_namespace", "extend_path"}
    if not isinstance(value, ast.Call):
        return False
    called = value.func
    return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)) in known


def may_differ(path, names, versions, folders):
    """Whether the file of one distribution may be used for all; `folders` are those of site-packages with modules."""
    top, _, below = path.partition("/")
    if top == ".." or is_beside(path, names) or path.endswith((".pyi", "/py.typed")):
        return True
    if not (top in folders if below else MODULE.search(path)):
        return True
    return path.endswith("/__init__.py") and all(map(declares_namespace, versions))


def said(names):
    quoted = [f"`{name}`" for name in names]
    return ", ".join(quoted[:-1]) + " and " + quoted[-1]


def listed(paths, limit=5):
    text = ", ".join(f"`{path}`" for path in paths[:limit])
    return text if len(paths) <= limit else f"{text} and {len(paths) - limit} more"


def hidden(found):
    """The entry at a path where only one distribution's file can be used, although the paths are not the same."""
    modules, out = {}, []
    for name, rows in found.items():
        for path in rows:
            code = re.fullmatch(r"(.*/)?__pycache__/([^/]+?)\.[^/.]+(?:\.opt-\d)?\.pyc", path)
            if code:
                source = f"{code[1] or ''}{code[2]}.py"
                out += [
                    f"`{name}` has byte code at `{path}` for the source of `{other}`"
                    for other, others in found.items()
                    if other != name and source in others and source not in rows
                ]
            kind = RANK.search(path)
            if kind and not code and not path.startswith("../") and not is_beside(path, {name}):
                rank = (not kind[1], not kind[2].endswith(".so"), kind[2])
                modules.setdefault(path[: kind.start()], []).append((rank, path, name))
            if OWN.fullmatch(os.path.normpath(f"lib/python/site-packages/{path}")):
                out.append(f"`{name}` has a file in place of the environment's own: `{path}`")
    for module, files in sorted(modules.items()):
        (rank, path, name), *others = sorted(files)
        for other_rank, other, owner in others:
            if owner != name and other != path and other not in found[name] and not is_named(module, {name}):
                out.append(f"`{path}` of `{name}` hides `{other}` of `{owner}`")
    return out


def judged(found, owners, versions):
    """The warnings and errors about these distributions; `versions` has the bytes of each owner of a path."""
    errors = hidden(found)
    folders = {path.split("/")[0] for rows in found.values() for path in rows if "/" in path and MODULE.search(path)}
    allowed, refused = {}, {}
    for path, names in owners.items():
        if len(set(versions[path])) > 1:
            which = allowed if may_differ(path, names, versions[path], folders) else refused
            which.setdefault(tuple(names), []).append(path)
    errors += [f"{said(names)} have different files at {listed(paths)}" for names, paths in refused.items()]
    warnings = [
        f"{said(names)} have different files at {listed(paths)}; the image has those of `{names[-1]}`"
        for names, paths in allowed.items()
    ]
    return warnings, errors


def settle(site, command):
    """Installs what shares paths again, in order; returns warnings and errors."""
    found = distributions(site)
    owners = shared(site, found)
    versions = {path: [] for path in owners}
    prefix = site.parent.parent.parent
    for name in sorted({name for names in owners.values() for name in names}):
        # The one call that is known to write the files of this distribution and no others.
        code = subprocess.run([*command, "--reinstall-package", name], stdout=sys.stderr).returncode
        if code:
            sys.exit(code)
        for path in (path for path, names in owners.items() if name in names):
            file = Path(os.path.normpath(site / path))
            if file.is_file() and prefix in file.parents:
                versions[path].append(file.read_bytes())
    return judged(found, owners, versions)


def judge():
    """The same for wheels that are not installed."""
    facts = json.load(sys.stdin)
    versions = {path: [base64.b64decode(data) for _, data in sorted(of.items())] for path, of in facts["versions"].items()}
    return judged(facts["rows"], {path: sorted(of) for path, of in facts["versions"].items()}, versions)


def forget_caches(site):
    """Removes what uv notes of a wheel from a folder: the time of the file, which makes two equal environments differ."""
    for note in site.glob("*.dist-info/uv_cache.json"):
        record, row = note.parent / "RECORD", f"{note.parent.name}/{note.name},".encode()
        rows = record.read_bytes().splitlines(keepends=True)
        record.write_bytes(b"".join(line for line in rows if not line.startswith(row)))
        note.unlink()


def set_times(prefix):
    """Gives one time to everything in an environment: when it was installed shows in no layer."""
    if not (prefix / "pyvenv.cfg").is_file():
        return
    for where, folders, files in os.walk(prefix, topdown=False):
        for name in folders + files:
            os.utime(os.path.join(where, name), (TIME, TIME), follow_symlinks=False)
    os.utime(prefix, (TIME, TIME))


def main(args):
    if args == ["--judge"]:
        warnings, errors = judge()
        print(json.dumps({"warnings": warnings}))
        print(*errors, sep="\n", file=sys.stderr)
        return 3 if errors else 0
    site, command = Path(args[0]), args[1:]
    code = subprocess.run(command, stdout=sys.stderr).returncode
    if code:
        return code
    warnings, errors = settle(site.absolute(), command)
    forget_caches(site)
    set_times(site.absolute().parent.parent.parent)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 3 if errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
