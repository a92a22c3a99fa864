"""What manifests said the last time, so that a start reads only those that have changed since.

An entry holds as long as every file and folder of the plugin has the inode, the times and the size that it
had. What was changed within `TICK` of being read has no entry: it might be saved once more before the clock
of its file system moves on, with the same size, and nobody could tell. Its next reading, when it is old,
makes one. The file is nobody's word for what a plugin may do: it is believed only where the user that runs
the kernel alone can have written it, and every manifest out of it is validated as if it were read.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from contracts.metadata import PluginMetadata

from .collector import rarely_collected
from .discovered import Discovered
from .marks import still_fit
from .whole_file import write_whole

FILE_NAME = "manifests.json"
FORMAT = 2
"""Raised whenever a manifest is read differently, or an entry looks different."""
TICK = 2_000_000_000
"""Nanoseconds between two times that the coarsest file system (FAT) can tell apart."""
MAX_BYTES = 64 * 1024 * 1024


_Marks = tuple[tuple[str, ...], str, int]
_Entry = tuple[str, str, str, bool, tuple[str, ...], _Marks, PluginMetadata]
"""One plugin, as it was read at a path: source, module, class name, whether it is a single file,
requirements, marks, metadata. Plain tuples, which are validated a good deal faster than named ones."""


class _Unfit(ValueError):
    """The file is there, but not to be used."""


class ManifestIndex:
    """The index in the file `path`, for one look around: `get` and `put`, then `save`.

    What is not asked for is forgotten by `save`. `version` is Plugbus's own: another one reads everything
    anew. A file that cannot be used is passed over, and the log says why.
    """

    def __init__(self, path: Path, version: str, log: logging.Logger) -> None:
        self._path = path
        self._version = f"{FORMAT} {version}"
        self._log = log
        self._known = self._load()
        self._kept: dict[str, _Entry] = {}
        self._is_changed = False

    def get(self, place: str, source: str) -> Discovered | None:
        """The plugin at the path `place`, if nothing of it has changed since it was read."""
        entry = self._known.get(place)
        if entry is None or entry[0] != source:
            return None
        _, module, class_name, single_file, requirements, (paths, seen, _), metadata = entry
        if not still_fit(place, paths, seen):
            return None
        self._kept[place] = entry
        return Discovered(
            metadata,
            os.path.dirname(place) if single_file else place,  # noqa: PTH120 - it stays text
            module,
            class_name,
            single_file=single_file,
            requirements=requirements,
        )

    def put(self, place: str, source: str, found: Discovered, began: int) -> None:
        """Remember what was found, unless it is too new for that; `began`: `time.time_ns` before reading."""
        marks = found.marks
        if marks.paths and marks.newest + TICK < began and _is_text(place, source, *marks.paths):
            self._is_changed = True
            self._kept[place] = (
                source,
                found.module,
                found.class_name,
                found.single_file,
                found.requirements,
                marks,
                found.metadata,
            )

    def save(self) -> None:
        """Write what is known now, in one step; a failure costs time at the next start and nothing else."""
        if not self._is_changed and self._kept.keys() == self._known.keys():
            return
        try:
            content = _INDEX.dump_json((self._version, self._kept), exclude_unset=True)
            write_whole(self._path, content, is_durable=False)
        except OSError as error:
            self._log.info("the index of manifests cannot be written: %s", error)

    def _load(self) -> dict[str, _Entry]:
        try:
            with rarely_collected():
                version, entries = _INDEX.validate_json(_read(self._path))
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError, _Unfit) as error:
            why = "it is not an index" if isinstance(error, ValidationError) else error
            self._log.info("the index of manifests is read anew, %s cannot be used: %s", self._path, why)
            return {}
        return entries if version == self._version else {}


_INDEX: TypeAdapter[tuple[str, dict[str, _Entry]]] = TypeAdapter(
    tuple[str, dict[str, _Entry]],
    config=ConfigDict(cache_strings="keys"),  # hardly any other text comes twice
)


def _is_text(*names: str) -> bool:
    """Whether JSON can hold them: names of files may be any bytes."""
    try:
        return bool("".join(names).encode())
    except UnicodeEncodeError:
        return False


def now() -> int:
    return time.time_ns()


def _read(path: Path) -> bytes:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:  # noqa: PTH123 - it is open already
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise _Unfit("it is no file of a fitting size")
        if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
            raise _Unfit("others may have written it")
        return file.read()
