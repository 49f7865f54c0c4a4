"""Builds a wheel from source (PEP 517) with the root's own Python, in a container without a network.

Reads plan.json and the files next to this script; prints a line of JSON and the wheel. Everything that the build itself prints
goes to stderr.
"""

import configparser
import csv
import importlib
import importlib.metadata
import io
import json
import os
import re
import sys
import tarfile
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
WORK = "/xtask-work"
PREFIX = f"{WORK}/environment"
PYTHON = f"{PREFIX}/bin/python3"
SITE = f"{PREFIX}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
FOLDERS = {
    "purelib": SITE,
    "platlib": SITE,
    "scripts": f"{PREFIX}/bin",
    "data": PREFIX,
    "headers": f"{PREFIX}/include",
}


def write(path, data, executable):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, 0o755 if executable else 0o644)


def install(path):
    """Installs a wheel into the environment of the build."""
    with zipfile.ZipFile(path) as wheel:
        for entry in wheel.infolist():
            if entry.is_dir():
                continue
            first, _, rest = entry.filename.partition("/")
            kind = "purelib"
            if first.endswith(".data"):
                kind, _, rest = rest.partition("/")
            else:
                rest = entry.filename
            data, executable = wheel.read(entry), entry.external_attr >> 16 & 0o111
            if kind == "scripts":
                executable = True
                if data.startswith(b"#!python"):
                    data = f"#!{PYTHON}\n".encode() + data.partition(b"\n")[2]
            write(os.path.join(FOLDERS[kind], rest), data, executable)
            if re.fullmatch(r"[^/]+\.dist-info/entry_points\.txt", entry.filename):
                programs(data.decode())


def programs(text):
    points = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    points.optionxform = str
    points.read_string(text)
    for name, value in points.items("console_scripts") if points.has_section("console_scripts") else ():
        module, _, function = value.partition("[")[0].strip().partition(":")
        first = function.split(".")[0]
        script = f"#!{PYTHON}\nimport sys\nfrom {module.strip()} import {first}\nsys.exit({function.strip()}())\n"
        write(f"{PREFIX}/bin/{name.strip()}", script.encode(), True)


def unpack(path, folder):
    """Unpacks an archive of one folder; returns that folder."""
    os.makedirs(folder)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                made = archive.extract(entry, folder)
                if entry.external_attr >> 16 & 0o111 and not entry.is_dir():
                    os.chmod(made, 0o755)
    else:
        with tarfile.open(path) as archive:
            if hasattr(tarfile, "data_filter"):
                archive.extractall(folder, filter="data")
            else:
                archive.extractall(folder)
    found = [name for name in os.listdir(folder) if os.path.isdir(os.path.join(folder, name))]
    if len(found) != 1:
        sys.exit("the source archive does not have one folder at its top")
    return os.path.join(folder, found[0])


def normalised(path):
    """The wheel's bytes, with entries in a fixed order and without times."""
    made = io.BytesIO()
    with zipfile.ZipFile(path) as wheel, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as new:
        entries = {entry.filename: entry for entry in wheel.infolist() if not entry.is_dir()}
        last = lambda name: (bool(re.fullmatch(r"[^/]+\.dist-info/.*", name)), name.endswith("/RECORD"), name)
        for name in sorted(entries, key=last):
            data, mode = wheel.read(entries[name]), entries[name].external_attr >> 16
            if re.fullmatch(r"[^/]+\.dist-info/RECORD", name):
                rows = sorted(csv.reader(io.StringIO(data.decode())))
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(rows)
                data = text.getvalue().encode()
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.compress_type = 3, zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if mode & 0o111 else 0o100644) << 16
            new.writestr(entry, data)
    return made.getvalue()


def prepare(plan):
    """Makes the environment, and starts its Python with this script."""
    os.makedirs(f"{PREFIX}/bin")
    os.makedirs(SITE)
    home = os.path.dirname(os.path.realpath(sys.executable))
    with open(f"{PREFIX}/pyvenv.cfg", "w") as file:
        file.write(f"home = {home}\ninclude-system-site-packages = false\n")
    os.symlink(sys.executable, PYTHON)
    os.symlink("python3", f"{PREFIX}/bin/python")
    for name in plan["wheels"]:
        install(f"{HERE}/wheels/{name}")
    folder = unpack(f"{HERE}/{plan['source']}", f"{WORK}/source")
    project = os.path.normpath(os.path.join(folder, plan["subdirectory"]))
    if not os.path.isdir(project):
        sys.exit(f"the source has no folder `{plan['subdirectory']}`")
    for name in ("home", "tmp", "wheel"):
        os.makedirs(f"{WORK}/{name}")
    environment = dict(os.environ)
    environment.update(
        HOME=f"{WORK}/home",
        TMPDIR=f"{WORK}/tmp",
        LANG="C.UTF-8",
        PATH=f"{PREFIX}/bin:{os.environ.get('PATH', os.defpath)}",
        PYTHONHASHSEED="0",
        PYTHONDONTWRITEBYTECODE="1",
        SOURCE_DATE_EPOCH=str(plan["epoch"]),
        VIRTUAL_ENV=PREFIX,
        XTASK_PROJECT=project,
    )
    os.execve(PYTHON, [PYTHON, "-s", os.path.abspath(__file__)], environment)


def missing(requirement):
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    try:
        return not name or not importlib.metadata.version(name.group())
    except importlib.metadata.PackageNotFoundError:
        return True


def build(plan):
    out = os.dup(1)
    os.dup2(2, 1)
    project = os.environ.pop("XTASK_PROJECT")
    os.chdir(project)
    # Python puts this script's folder first.
    sys.path[:1] = [os.path.join(project, folder) for folder in plan["path"]]
    module, _, names = plan["backend"].partition(":")
    backend = importlib.import_module(module)
    for name in filter(None, names.split(".")):
        backend = getattr(backend, name)
    late = getattr(backend, "get_requires_for_build_wheel", lambda settings=None: [])()
    absent = sorted(set(filter(missing, late)))
    if absent:
        sys.exit(f"the build asks for {', '.join(absent)} while it runs, which `build-system.requires` does not list")
    name = os.path.basename(backend.build_wheel(f"{WORK}/wheel"))
    sys.stdout.flush()
    with os.fdopen(out, "wb") as answer:
        answer.write(json.dumps({"filename": name}).encode() + b"\n")
        answer.write(normalised(f"{WORK}/wheel/{name}"))


if __name__ == "__main__":
    with open(f"{HERE}/plan.json") as file:
        wanted = json.load(file)
    build(wanted) if "XTASK_PROJECT" in os.environ else prepare(wanted)
