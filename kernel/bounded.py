"""Reading files to a bound: regular ones alone, and no more of them than was asked for."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MAX_BYTES = 1024 * 1024
"""The most of a manifest or of code that is read for what it says."""
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Without the second, opening a pipe would wait for somebody to write into it."""
_PART = 1024 * 1024

ReadFile = Callable[[Path], bytes]
"""`read_bounded`, or what has read the file already."""


class Read(NamedTuple):
    """What was read of a file, and how the file was when it was opened."""

    status: os.stat_result
    content: bytes

    @property
    def is_whole(self) -> bool:
        return len(self.content) == self.status.st_size


def read_bounded(path: Path | str) -> bytes:
    """At most one byte more than `MAX_BYTES`. Raises `OSError`, also for what is no regular file."""
    return read_start(path).content


def read_start(path: Path | str) -> Read:
    """The same, with the file's status."""
    descriptor = os.open(path, _FLAGS)
    try:
        status = _regular(descriptor)
        return Read(status, os.read(descriptor, min(status.st_size, MAX_BYTES) + 1))
    finally:
        os.close(descriptor)


def read_whole(path: str, most: int) -> Read | None:
    """The file to its end, as it is by now; None where it is longer than `most`. Raises `OSError`."""
    descriptor = os.open(path, _FLAGS)
    try:
        status = _regular(descriptor)
        content = None if status.st_size > most else _to_its_end(descriptor, status.st_size, most)
    finally:
        os.close(descriptor)
    return None if content is None else Read(status, content)


def _regular(descriptor: int) -> os.stat_result:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(None, "it is not a regular file")
    return status


def _to_its_end(descriptor: int, size: int, most: int) -> bytes | None:
    """The system's word for the size need not hold: a file may grow, and some have none."""
    content = os.read(descriptor, size + 1)
    if len(content) == size:
        return content
    parts, read = [content], len(content)
    while read <= most and (part := os.read(descriptor, _PART)):
        parts.append(part)
        read += len(part)
    return b"".join(parts) if read <= most else None
