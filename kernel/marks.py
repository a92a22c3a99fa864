"""By what one sees that the files of a plugin have changed, without reading them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Marks(NamedTuple):
    """Those of the plugin itself (an empty path), and of all that lies below.

    Nothing is there where links lead elsewhere, so that marks would not tell.
    """

    paths: tuple[str, ...] = ()
    seen: str = ""
    """The inode, the times of content and of inode, and the size of each."""
    newest: int = 0
    """The latest of these times, in nanoseconds."""


def still_fit(place: str, paths: Iterable[str], seen: str) -> bool:
    """Whether all is as it was at `place`, by what marks say."""
    try:
        # A Path for each of some thousand costs more than the calls.
        statuses = [os.stat(f"{place}/{path}" if path else place) for path in paths]  # noqa: PTH116
    except OSError:
        return False
    return bool(statuses) and _as_text(_seen(statuses)) == seen


def marks_of(statuses: Mapping[str, os.stat_result]) -> Marks:
    """The marks of what lies at these paths."""
    seen = _seen(statuses.values())
    return Marks(tuple(statuses), _as_text(seen), max(seen[1::4] + seen[2::4]))


def _seen(statuses: Iterable[os.stat_result]) -> list[int]:
    return [each for one in statuses for each in (one.st_ino, one.st_mtime_ns, one.st_ctime_ns, one.st_size)]


def _as_text(seen: list[int]) -> str:
    try:
        return array("q", seen).tobytes().hex()
    except OverflowError:  # inodes of some file systems are longer
        return repr(seen)
