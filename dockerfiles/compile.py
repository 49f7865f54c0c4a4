"""Compiles a site-packages folder to byte code: the same distribution gives the same bytes, whatever else is installed, in whatever
order and by however many jobs.

    compile.py FOLDER [PATH [NAME...]]
    compile.py --pipe PATH

PATH is where FOLDER will be in the image, as tracebacks show it, if that is elsewhere. Without it, FOLDER is the image's own
`lib/python3.x/site-packages`: byte code and the environment's folders get the time that files have in layers of the native engine. With NAMEs, only sources of these distributions
and those of none are compiled. With `--pipe`, sources come on stdin
and byte code goes to stdout. A source that is not Python (a template, a parser's test) is passed over, as installers do. Needs Python 3.11, the first that writes
sets in an order of their own, and nothing but the standard library: both engines run it with the image's own Python, as
`python3 -I -S compile.py`, so that it begins in one state.
"""

import csv
import importlib.util
import marshal
import os
import re
import sys
import warnings
from _imp import source_hash
from pathlib import Path

# Neither checked against the source's time, which a copy changes, nor against its contents, which would cost reading both.
UNCHECKED_HASH = (0b01).to_bytes(4, "little")

# Folders of which nothing is imported while an app runs, and half of what there is to compile in a scientific set.
LEFT_OUT = {"__pycache__", "test", "tests"}

# The time of every file in a layer, as the native engine writes it and install.py sets it.
TIME = 1_767_225_600

# What was compiled before in a process shows in byte code: a text that Python has interned is another object than one that it has not.
# So a few sources of one distribution, always the same, share a process that has seen nothing else. One for each would cost as much again.
TOGETHER = 48


def byte_code(source: bytes, path: str) -> bytes | None:
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return None
    # An object is marked as one that may come again where more than one reference to it is held, and interned texts may be held by
    # anyone. Those of the copy are held by `code` at least: they are all marked, always.
    copy = marshal.loads(marshal.dumps(code))
    hashed = source_hash(importlib.util._RAW_MAGIC_NUMBER, source)
    return importlib.util.MAGIC_NUMBER + UNCHECKED_HASH + hashed + marshal.dumps(copy)


def compile_together(folder: Path, path: str, sources: list[str], others: set[str]) -> None:
    for source in sources:
        code = byte_code((folder / source).read_bytes(), f"{path}/{source}")
        if code is None or source in others:
            continue
        cached = Path(importlib.util.cache_from_source(str(folder / source), optimization=""))
        cached.parent.mkdir(exist_ok=True)
        # Under another name first: the existing path may be a link to a file that is not ours.
        new = cached.with_name(f".{cached.name}.new")
        new.write_bytes(code)
        os.utime(new, (TIME, TIME))
        new.replace(cached)


def answer(path: str, sources: list[tuple[str, bytes]]) -> bytes:
    """The byte code of each source, after its length; a length of zero where there is none."""
    codes = [byte_code(source, f"{path}/{name}") or b"" for name, source in sources]
    return b"".join(len(code).to_bytes(4, "little") + code for code in codes)


def serve(path: str) -> int:
    """Answers each request on stdin: the sources that share a process. All numbers have four bytes, the lowest first; a request has the
    number of sources, then for each the lengths of its path and text, the path and the text."""
    warnings.simplefilter("ignore")
    read = sys.stdin.buffer.read
    while head := read(4):
        sources = []
        for _ in range(int.from_bytes(head, "little")):
            name, source = (int.from_bytes(read(4), "little") for _ in range(2))
            sources.append((read(name).decode(), read(source)))
        if os.fork() == 0:
            try:
                said = answer(path, sources)
                while said:
                    said = said[os.write(1, said) :]
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        if os.wait()[1]:
            return 1
    return 0


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(folder: Path, sources: set[str], names: set[str]) -> list[tuple[list[str], set[str]]]:
    """The sources of each distribution by its RECORD, with those that a later one writes; those that none lists are on their own."""
    listed = {}
    for record in folder.glob("*.dist-info/RECORD"):
        with record.open(newline="", encoding="utf-8") as rows:
            name = normalised(record.parent.name.removesuffix(".dist-info").split("-")[0])
            listed[name] = sources.intersection(row[0] for row in csv.reader(rows) if row)
    alone = sources.difference(*listed.values())
    found: list[tuple[list[str], set[str]]] = []
    later: set[str] = set()
    for name in sorted(names or listed, reverse=True):
        found.append((sorted(listed.get(name, ())), set(later)))
        later |= listed.get(name, set())
    return found + [([source], set()) for source in sorted(alone)]


def sources_of(folder: Path) -> set[str]:
    found = set()
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        found.update(os.path.relpath(os.path.join(where, name), folder) for name in files if name.endswith(".py"))
    return found


def set_times(prefix: Path) -> None:
    """Gives the folders of an environment their time; the files in them have it."""
    if not (prefix / "pyvenv.cfg").is_file():
        return
    for where, _, _ in os.walk(prefix):
        os.utime(where, (TIME, TIME))


def main(args: list[str]) -> int:
    if args[0] == "--pipe":
        return serve(args[1])
    folder = Path(args[0])
    path = args[1] if len(args) > 1 else args[0]
    warnings.simplefilter("ignore")
    os.umask(0o022)
    chunks = []
    for sources, later in distributions(folder, sources_of(folder), set(args[2:])):
        for start in range(0, len(sources), TOGETHER):
            together = sources[start : start + TOGETHER]
            size = sum((folder / source).stat().st_size for source in together)
            chunks.append((size, together, later.intersection(together)))
    # The largest first: none is left alone with much to do.
    chunks.sort(key=lambda chunk: chunk[:2], reverse=True)
    running = failed = 0
    for _, together, others in chunks:
        if running == len(os.sched_getaffinity(0)):
            failed |= os.wait()[1]
            running -= 1
        if os.fork() == 0:
            try:
                compile_together(folder, path, together, others)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        running += 1
    for _ in range(running):
        failed |= os.wait()[1]
    if len(args) == 1:
        set_times(folder.absolute().parent.parent.parent)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
