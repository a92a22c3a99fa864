"""What a run is: how many events, keys, processes and kills, and where the kills fall. All from one seed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

SOURCE = "/long-run"
ITEM = "work.item"
"""Type of what is published."""
MADE = "effect.made"
"""Type of what the handlers of `EFFECT` return: one for each item."""

ORDER = "long.order"
"""Group: handles items, and nothing else."""
EFFECT = "long.effect"
"""Group: handles items and returns an effect for each; with dedupe where the system has it."""
LEDGER = "long.ledger"
"""Group: handles the effects."""
GROUPS = {ORDER: (ITEM,), EFFECT: (ITEM,), LEDGER: (MADE,)}
DELIVERIES = len(GROUPS)
"""Of one event, its effect's included."""

PADDING = "x" * 80


_SLOW, _LONG = 20, 0.01
"""Of so many events one takes its handlers so many seconds; the others none."""


class Item(NamedTuple):
    """One event to publish."""

    n: int
    key: str

    @property
    def id(self) -> str:
        return str(self.n)

    @property
    def data(self) -> str:
        return json.dumps({"n": self.n, "text": PADDING})


@dataclass(frozen=True)
class Fault:
    """Something is killed when so many deliveries have been handled, and comes back after a pause."""

    at: int
    whom: Literal["replica", "server"]
    victim: int
    """Which of the replicas that live then: the remainder by their number."""
    pause: float
    """Seconds until it (a replica: one of another name) is started again."""


@dataclass(frozen=True)
class Plan:
    """The size of a run. The same plan publishes the same events and kills at the same counts."""

    seed: int
    events: int = 1_000_000
    keys: int = 10_000
    replicas: int = 4
    publishers: int = 2
    replica_kills: int = 50
    server_kills: int = 10
    lanes: int = 32
    """Publishes under way at once in each publisher; those of one key never are."""
    concurrency: int = 32
    """Lanes of a handler on each replica."""
    lease: float = 2.0
    partitions: int = 8
    retain: int = 1_000
    """Events of each partition that stay when everything is settled."""
    limit: int = 20_000
    """Events of each partition that may wait; then publishing waits."""
    failing: int = 0
    """Of so many items, one fails at its first attempt in `ORDER`; 0: none does."""

    @property
    def deliveries(self) -> int:
        return DELIVERIES * self.events

    def faults(self) -> list[Fault]:
        """In the order in which they fall; the first and the last of the run are left in peace."""
        chance = random.Random(self.seed)  # noqa: S311 - a seed is the same run for ever
        kills: list[Literal["replica", "server"]] = ["replica"] * self.replica_kills
        kills += ["server"] * self.server_kills
        low, high = int(0.02 * self.deliveries), int(0.9 * self.deliveries)
        return sorted(
            (
                Fault(
                    chance.randrange(low, high),
                    whom,
                    chance.randrange(1_000),
                    round(chance.uniform(0.1, 1.0), 3),
                )
                for whom in kills
            ),
            key=lambda fault: fault.at,
        )

    def items(self, publisher: int) -> Iterator[tuple[int, Item]]:
        """(lane, item) of one publisher, in order. A key belongs to one lane of one publisher."""
        chance = random.Random(f"{self.seed} items")  # noqa: S311
        for n in range(self.events):
            key = chance.randrange(self.keys)
            if key % self.publishers == publisher:
                yield key // self.publishers % self.lanes, Item(n, f"k{key}")

    def fails(self, n: int, attempt: int) -> bool:
        return self.failing > 0 and n % self.failing == 0 and attempt == 1

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Plan:
        return cls(**json.loads(text))


async def work(n: int) -> None:
    """What a handler does with an event."""
    await asyncio.sleep(0.0 if n % _SLOW else _LONG)
