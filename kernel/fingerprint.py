"""How large a plugin is, and the checksum of its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

MAX_FILES = 10_000
MAX_BYTES = 256 * 1024 * 1024


class TooLarge(ValueError):
    """The folder holds more than a plugin can reasonably be."""


def fingerprint(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file, or of a folder's files with their names.

    Hidden files and bytecode do not count, and linked folders are not entered. Raises `OSError` for what
    cannot be read, and `TooLarge` above `MAX_FILES` files or `MAX_BYTES`.
    """
    files = sorted(_files(str(path))) if path.is_dir() else [str(path)]
    skip = len(str(path.parent)) + 1
    size, digest = 0, hashlib.sha256()
    for name in files:
        with open(name, "rb", buffering=0) as file:  # noqa: PTH123 - a Path for each file costs more than the read
            size += os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise TooLarge(f"more than {MAX_BYTES >> 20} MiB")
            content = file.read()
        digest.update(f"{name[skip:]}\0{len(content)}\0".encode(errors="surrogateescape"))
        digest.update(content)
    return size, digest.hexdigest()


def _files(folder: str) -> Iterator[str]:
    folders, found = [folder], 0
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__pycache__" or entry.name.endswith(".pyc"):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file():
                    found += 1
                    if found > MAX_FILES:
                        raise TooLarge(f"more than {MAX_FILES} files")
                    yield entry.path
