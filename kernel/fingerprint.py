"""How large a plugin is, the checksum of its files, and by what one sees that they have changed."""

from __future__ import annotations

import hashlib
import os
import stat
from array import array
from pathlib import Path
from typing import NamedTuple

MAX_FILES = 10_000
MAX_BYTES = 256 * 1024 * 1024


class Marks(NamedTuple):
    """By what one sees that files have changed: the plugin itself (an empty path), and all that lies below.

    Nothing is there where links lead elsewhere, so that marks would not tell.
    """

    paths: tuple[str, ...] = ()
    digest: str = ""
    """Of the inode, the times of content and of inode, and the size of each."""
    newest: int = 0
    """The latest of these times, in nanoseconds."""

    def fit(self, place: str) -> bool:
        """Whether all is as it was at `place`."""
        taking = _Taking()
        try:
            for path in self.paths:
                name = f"{place}/{path}" if path else place
                taking.add(path, os.stat(name))  # noqa: PTH116 - a Path costs more than the call
        except OSError:
            return False
        return bool(self.paths) and taking.marks().digest == self.digest


class _Taking:
    """Marks that are being taken."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._seen: list[int] = []
        self._newest = 0

    def add(self, path: str, status: os.stat_result) -> None:
        self._paths.append(path)
        written, changed = status.st_mtime_ns, status.st_ctime_ns
        self._newest = max(self._newest, written, changed)
        self._seen += (status.st_ino, written, changed, status.st_size)

    def marks(self) -> Marks:
        try:
            seen = array("q", self._seen).tobytes()
        except OverflowError:  # inodes of some file systems are longer
            seen = repr(self._seen).encode()
        return Marks(tuple(self._paths), hashlib.sha256(seen).hexdigest(), self._newest)


class TooLarge(ValueError):
    """The folder holds more than a plugin can reasonably be."""


class Fingerprint(NamedTuple):
    """What the files of a plugin are."""

    size: int
    checksum: str
    marks: Marks = Marks()


def fingerprint(path: Path) -> Fingerprint:
    """Bytes and SHA-256 of a file, or of a folder's files with their names.

    Hidden files and bytecode do not count, and linked folders are not entered. Raises `OSError` for what
    cannot be read, and `TooLarge` above `MAX_FILES` files or `MAX_BYTES`.
    """
    walk = _Walk(str(path))
    skip = len(str(path.parent)) + 1
    size, digest = 0, hashlib.sha256()
    for name in sorted(walk.files):
        descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(descriptor)
            size += status.st_size
            if size > MAX_BYTES:
                raise TooLarge(f"more than {MAX_BYTES >> 20} MiB")
            content = _whole(descriptor, status.st_size)
        finally:
            os.close(descriptor)
        walk.mark(name, status)
        digest.update(f"{name[skip:]}\0{len(content)}\0".encode(errors="surrogateescape"))
        digest.update(content)
    return Fingerprint(size, digest.hexdigest(), walk.marks())


def _whole(descriptor: int, size: int) -> bytes:
    """The file to its end, as it is by now."""
    content = os.read(descriptor, size + 1)
    if len(content) == size:
        return content
    parts = [content]
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
        if sum(map(len, parts)) > MAX_BYTES:
            raise TooLarge(f"more than {MAX_BYTES >> 20} MiB")
    return b"".join(parts)


class _Walk:
    """The files of a plugin, and the marks of its folders, each taken before it is listed."""

    def __init__(self, root: str) -> None:
        self._skip = len(root) + 1
        self._taking = _Taking()
        self.files: list[str] = []
        self._has_links = False
        folders = [root]
        while folders:
            folder = folders.pop()
            status = os.stat(folder)  # noqa: PTH116 - a Path for each costs more than the call
            if not stat.S_ISDIR(status.st_mode):
                self.files.append(folder)
                continue
            self.mark(folder, status)
            with os.scandir(folder) as entries:
                folders += [entry.path for entry in entries if self._is_folder(entry)]

    def mark(self, path: str, status: os.stat_result) -> None:
        self._taking.add(path[self._skip :], status)

    def marks(self) -> Marks:
        return Marks() if self._has_links else self._taking.marks()

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        """Whether it is to be entered; files are noted."""
        if entry.name.startswith(".") or entry.name == "__pycache__" or entry.name.endswith(".pyc"):
            return False
        if entry.is_symlink():
            self._has_links = True
        if entry.is_dir(follow_symlinks=False):
            return True
        if entry.is_file():
            if len(self.files) >= MAX_FILES:
                raise TooLarge(f"more than {MAX_FILES} files")
            self.files.append(entry.path)
        return False
