"""The files of what may be a plugin, listed once, and read once for what they say and for the checksum."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from .bounded import Read, read_start, read_whole
from .marks import Marks, marks_of

MAX_FILES = 10_000
MAX_BYTES = 256 * 1024 * 1024


class TooLarge(ValueError):
    """The folder holds more than a plugin can reasonably be."""


class PluginFiles:
    """What lies at `root`, a folder or one file. Everything here raises `OSError`.

    Hidden files and bytecode do not count, and linked folders are not entered. The status of a folder is
    taken before it is listed, that of a file when it is opened: what changes later does not fit them.
    """

    def __init__(self, root: Path, *, is_marked: bool = False) -> None:
        """`is_marked`: somebody will ask for `marks`."""
        self.root = root
        self._place = str(root)
        self._statuses: dict[str, os.stat_result] = {}
        self._begun: dict[str, Read] = {}
        self._has_marks = is_marked
        listing = self._listing(self._place)
        self.is_folder = listing is not None
        with listing or nullcontext(()) as entries:
            self._first = list(entries)
        self.names = [entry.name for entry in self._first]
        """All that the folder itself holds."""

    def read(self, path: Path) -> bytes:
        """What a file begins with, as `read_bounded`."""
        name = str(path)
        if name not in self._begun:
            self._begun[name] = read_start(name)
        return self._begun[name].content

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Each file that counts, by its path from beside the root. Raises `TooLarge`."""
        size, skip = 0, self._place.rfind(os.sep) + 1
        for name in sorted(self._walk()):
            read = self._begun.get(name)
            if read is None or not read.is_whole:
                read = read_whole(name, MAX_BYTES - size)
            size += len(read.content) if read else 0
            if read is None or size > MAX_BYTES:
                raise TooLarge(f"more than {MAX_BYTES >> 20} MiB")
            self._statuses[name] = read.status
            yield name[skip:], read.content

    def marks(self) -> Marks:
        """Those of all that was listed and read; none where nobody wants them, or links lead elsewhere."""
        if not self._has_marks:
            return Marks()
        skip = len(self._place) + 1
        return marks_of({name[skip:]: status for name, status in self._statuses.items()})

    def _listing(self, folder: str) -> AbstractContextManager[Iterable[os.DirEntry[str]]] | None:
        """What a folder holds; None where it is none."""
        status = os.stat(folder)  # noqa: PTH116 - a Path for each of a thousand costs more than the call
        if not stat.S_ISDIR(status.st_mode):
            return None
        self._statuses[folder] = status
        return os.scandir(folder)

    def _walk(self) -> list[str]:
        """All files below the root, or the root itself. Raises `TooLarge`."""
        if not self.is_folder:
            return [self._place]
        files: list[str] = []
        waiting = self._sorted_out(self._first, files)
        while waiting:
            folder = waiting.pop()
            listing = self._listing(folder)
            if listing is None:  # it was a folder a moment ago
                files.append(folder)
                continue
            with listing as entries:
                waiting += self._sorted_out(entries, files)
        return files

    def _sorted_out(self, entries: Iterable[os.DirEntry[str]], files: list[str]) -> list[str]:
        """The folders to be entered; files are added to `files`."""
        folders = []
        for entry in entries:
            name = entry.name
            if name[0] == "." or name == "__pycache__" or name.endswith(".pyc"):
                continue
            if entry.is_symlink():
                self._has_marks = False
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif entry.is_file():
                files.append(entry.path)
                if len(files) > MAX_FILES:
                    raise TooLarge(f"more than {MAX_FILES} files")
        return folders
