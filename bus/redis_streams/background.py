"""Loops that run as long as the bus: a mistake of ours in one turn is said, and the next comes all the same.

A task that ends with an exception nobody looks at is a bus that stands still without a word.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("plugbus.bus")

_PAUSE = 0.2
"""Seconds after a turn that broke; much less than a lease."""


def _never() -> bool:
    return False


async def keep_on(
    what: str, turn: Callable[[], Awaitable[None]], is_over: Callable[[], bool] = _never
) -> None:
    """Do `turn` again and again. The same error twice in a row is said once. `is_over`: the bus is closed."""
    said = ""
    while True:
        try:
            await turn()
        except Exception as error:
            if is_over():
                return
            if repr(error) != said:
                said = repr(error)
                log.exception("%s broke; it goes on", what)
            await asyncio.sleep(_PAUSE)
