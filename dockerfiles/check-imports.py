"""Imports every module of every installed distribution once; a broken wheel ends the base's build, not the app's start.

    check-imports.py [NAME...]

Runs where packages are installed; with names, only these distributions are imported. One without an importable module (stubs, data) is
named and passed over.
"""

import importlib
import importlib.metadata
import re
import sys
import time


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(names: list[str]) -> int:
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
