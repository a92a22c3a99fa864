"""By what one sees that the files of a plugin have changed, without reading them."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable
from typing import NamedTuple


class Marks(NamedTuple):
    """Those of the plugin itself (an empty path), and of all that lies below.

    Nothing is there where links lead elsewhere, so that marks would not tell.
    """

    paths: tuple[str, ...] = ()
    digest: str = ""
    """Of the inode, the times of content and of inode, and the size of each."""
    newest: int = 0
    """The latest of these times, in nanoseconds."""

    def fit(self, place: str) -> bool:
        """Whether all is as it was at `place`."""
        try:
            # A Path for each of some thousand costs more than the calls.
            statuses = [os.stat(f"{place}/{path}" if path else place) for path in self.paths]  # noqa: PTH116
        except OSError:
            return False
        return bool(statuses) and _digest(statuses) == self.digest


def marks_of(statuses: dict[str, os.stat_result]) -> Marks:
    """The marks of what lies at these paths."""
    newest = max(max(one.st_mtime_ns, one.st_ctime_ns) for one in statuses.values())
    return Marks(tuple(statuses), _digest(statuses.values()), newest)


def _digest(statuses: Iterable[os.stat_result]) -> str:
    seen: list[int] = []
    for one in statuses:
        seen += (one.st_ino, one.st_mtime_ns, one.st_ctime_ns, one.st_size)
    try:
        packed = array("q", seen).tobytes()
    except OverflowError:  # inodes of some file systems are longer
        packed = repr(seen).encode()
    return hashlib.sha256(packed).hexdigest()
