"""Garbage is collected rarely while much is made that stays.

Python looks for garbage whenever some hundred more objects were made than let go. While manifests are read
and plugins imported, nearly all that is made stays: the search takes a sixth of the time and finds next to
nothing. It goes on meanwhile, only less often, so that what is left lying there cannot pile up.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

RARELY = 50_000
"""Objects made and not let go between two searches; some megabytes of garbage at most."""

_lock = threading.Lock()
_usual: list[int] = []
"""What was set before, once for each block that is inside."""


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Raise the threshold of the collector within the block, or in several that overlap, in any threads.

    The last one to leave restores it, unless somebody else has set it meanwhile. A collector that is off, or
    set to search less often, is left as it is.
    """
    with _lock:
        usual, *others = gc.get_threshold()
        _usual.append(_usual[0] if _usual else usual)
        if 0 < usual < RARELY:
            gc.set_threshold(RARELY, *others)
    try:
        yield
    finally:
        with _lock:
            usual = _usual.pop()
            current, *others = gc.get_threshold()
            if not _usual and current == RARELY:
                gc.set_threshold(usual, *others)
