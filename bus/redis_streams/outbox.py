"""What waits to be sent, by partition, in the order in which it came."""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterator

from ..clock import Clock
from .flight import Batch
from .item import Item, Place

_MOST = 500
"""Events of one script call: Redis does nothing else meanwhile."""
_MOST_BYTES = 4 << 20
"""Of their data, about. With less, much data would wait for one answer after another."""
_LAST = 0.04
"""Seconds before its deadline in which what was refused is not tried again: an answer that comes too late
would leave open what is known now."""


class Outbox:
    """See above. `address`: of the server, for people."""

    def __init__(self, clock: Clock, address: str) -> None:
        self._clock = clock
        self._address = address
        self._queues = defaultdict[Place, deque[Item]](deque)
        self.count = 0
        """Events in all of them."""

    def __iter__(self) -> Iterator[Item]:
        return itertools.chain.from_iterable(self._queues.values())

    def append(self, place: Place, item: Item) -> None:
        """Behind what waits there."""
        self._queues[place].append(item)
        self.count += 1

    def put_back(self, place: Place, item: Item) -> None:
        """In front of its queue: it was sent, and is to be sent again."""
        self._queues[place].appendleft(item)
        self.count += 1

    def gather(self) -> list[Batch]:
        """What goes out next, one batch for each partition. What nobody waits for any more goes nowhere."""
        batches = list[Batch]()
        for place, queue in list(self._queues.items()):
            items, size = list[Item](), 0
            while queue and len(items) < _MOST and size < _MOST_BYTES:
                item = queue.popleft()
                if item.why is not None and item.deadline - self._clock.monotonic() < _LAST:
                    item.give_up(self._address)
                elif not item.future.done():  # nobody waits for it, and it was not sent: it need not be
                    item.sent, item.why = True, None
                    items.append(item)
                    size += len(item.fields[2])
            if not queue:
                del self._queues[place]
            if items:
                batches.append((place, items))
        self.count = sum(map(len, self._queues.values()))
        return batches

    def hand_over(self, place: Place, takes: Callable[[Place, Item], bool]) -> None:
        """What is next there goes to who takes it, in turn; what he does not take stays."""
        queue = self._queues.pop(place, deque())
        left = deque(item for item in queue if not takes(place, item))
        if left:
            self._queues[place] = left
        self.count -= len(queue) - len(left)

    def close(self, error: Exception) -> None:
        """All of it fails, and it is empty."""
        for item in self:
            item.end(error, self._address)
        self._queues.clear()
        self.count = 0
