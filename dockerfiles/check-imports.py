"""Imports every module of every installed distribution once; a broken wheel ends the base's build, not the app's start.

    check-imports.py [NAME...]

Before that, without names, every distribution has to find what it requires, in a version that fits.

Runs where packages are installed; with names, only these distributions are imported. One without an importable module (stubs, data) is
named and passed over.
"""

import glob
import importlib
import importlib.metadata
import re
import sys
import time
from pathlib import Path

# Where the pip is that installed the installer: it brings a reader of requirements, of the image's own Python.
INSTALLER = "/opt/installer/lib/python3*/site-packages"


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> tuple[dict[str, set[str]], list[str]]:
    """The extras that the lock beside this script asks for, by distribution, and the bounds of Python it was resolved for."""
    extras: dict[str, set[str]] = {}
    bounds: list[str] = []
    for lock in Path(__file__).resolve().parent.glob("*.lock"):
        text = lock.read_text(encoding="utf-8")
        bounds += re.findall(r"^# python: (.*)$", text, re.MULTILINE)
        for name, list_of in re.findall(r"^([A-Za-z0-9._-]+)\[([^]]*)\]", text, re.MULTILINE):
            extras.setdefault(normalised(name), set()).update(normalised(one.strip()) for one in list_of.split(","))
    return extras, bounds


def unmet() -> list[str]:
    """What distributions require and do not find: as markers and extras say for this Python and this machine."""
    installed = {normalised(d.name): d for d in importlib.metadata.distributions()}
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
            other = installed.get(normalised(wanted.name))
            wanted.marker = None
            if other is None:
                found.append(f"{who} requires {wanted}, which is not installed")
            elif not wanted.specifier.contains(other.version, prereleases=True):
                found.append(f"{who} requires {wanted}, but {other.version} is installed")
            todo += [(normalised(wanted.name), normalised(one)) for one in wanted.extras]
    return sorted(set(found))


def main(names: list[str]) -> int:
    missing = [] if names else unmet()
    for line in missing:
        print(line, file=sys.stderr)
    if missing:
        return 1
    modules: dict[str, list[str]] = {}
    for module, distributions in importlib.metadata.packages_distributions().items():
        if module.isidentifier() and not module.startswith("_"):
            for distribution in distributions:
                modules.setdefault(distribution, []).append(module)
    failed = 0
    for distribution in sorted(importlib.metadata.distributions(), key=lambda d: d.name.lower()):
        if names and normalised(distribution.name) not in names:
            continue
        found = sorted(set(modules.get(distribution.name, [])))
        if not found:
            print(f"{distribution.name} {distribution.version}: no module to import")
            continue
        for module in found:
            began = time.monotonic()
            try:
                importlib.import_module(module)
            except Exception as error:  # any failure to import is the finding
                failed += 1
                cause = str(error).strip().splitlines() or [type(error).__name__]
                # A library's advice comes first and the loader's own words last.
                print(f"{distribution.name} {distribution.version}: cannot import {module}: {cause[-1]}", file=sys.stderr)
            else:
                print(f"{distribution.name} {distribution.version}: {module} {time.monotonic() - began:.2f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
