"""What one flush has sent, until it is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .item import Item, Place
from .wire import Answer

Batch = tuple[Place, list[Item]]


class Along(NamedTuple):
    """A group that is given what is published in the very call that publishes it."""

    own: str
    """The key of ownerships, which `publish.lua` wants beside its own."""
    arguments: tuple[bytes | str | int, ...]
    done: Callable[[Answer | None], None]
    """Gets what `fetch` would say; why the call was refused, so nothing was read; None: it is lost."""


class Flight:
    """One call for each partition. Each is answered by itself: who waits for the first need not wait for the
    last, so while Redis works on one, this process makes what follows the other."""

    __slots__ = ("_open", "alongs", "answered", "must_pause")

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._open = dict(batches)
        self.alongs: dict[Place, Along] = {}
        self.answered = 0
        """Events of which Redis has said something."""
        self.must_pause = False
        """Redis does not take something now: what is left is tried again a little later."""

    @property
    def is_over(self) -> bool:
        return not self._open

    def land(self, place: Place) -> list[Item]:
        """The call for `place` is answered, or lost. Empty where that was known."""
        return self._open.pop(place, [])

    def still_open(self) -> list[Place]:
        return list(self._open)

    def items(self) -> Iterator[Item]:
        """What is not answered."""
        for items in self._open.values():
            yield from items
