"""One process of FastStream on Redis streams: a replica that handles, or a publisher.

Configured as its documentation advises for work that must not be lost: consumer groups; acknowledged after
the handler has returned, left pending if it raised; beside each subscriber a second one that claims what has
been pending for `min_idle_time`. (`XREADGROUP … CLAIM`, one subscriber for both, needs Redis 8.4.) So few
records are read at once that what waits behind a slow handler is not claimed from a replica that lives. One
at a time in each replica: a subscriber with several workers gives up even the order that there is.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from faststream import AckPolicy  # type: ignore[import-not-found, unused-ignore]
from faststream.redis import RedisBroker, StreamSub  # type: ignore[import-not-found, unused-ignore]
from redis.exceptions import RedisError

from .plan import EFFECT, ITEM, LEDGER, MADE, ORDER, SOURCE, Item, Plan, work
from .publishing import Unknown, publish_all
from .side import Words, told_to_stop
from .witness import Witness

ITEMS, EFFECTS = "work", "effect"
"""Streams."""
RECORDS = 10
"""Read at once."""
POLLING = 100
"""Milliseconds; FastStream's own default."""
PATIENCE = 60.0
"""Seconds in which a process that was started while the server is down finds it."""

Body = dict[str, Any]


def claimer(replica: str) -> str:
    """Name of the consumer that claims for a replica."""
    return f"{replica}-claims"


class Handlers:
    """They write down each start before they do anything, and each end after they have done it."""

    def __init__(self, plan: Plan, witness: Witness) -> None:
        self._plan = plan
        self._witness = witness

    def subscribe(self, broker: RedisBroker) -> None:
        """Each handler twice: for what is new, and for what somebody else has left behind."""
        idle = int(1000 * self._plan.lease)
        for group, stream, handler in (
            (ORDER, ITEMS, self.order), (EFFECT, ITEMS, self.effect), (LEDGER, EFFECTS, self.ledger)
        ):  # fmt: skip
            for options in (
                {"consumer": self._witness.replica, "max_records": RECORDS},
                {"consumer": claimer(self._witness.replica), "min_idle_time": idle},
            ):
                sub = StreamSub(stream, group=group, polling_interval=POLLING, last_id=">", **options)
                subscriber = broker.subscriber(stream=sub, ack_policy=AckPolicy.NACK_ON_ERROR)
                if group == EFFECT:
                    subscriber(broker.publisher(stream=EFFECTS)(handler))
                else:
                    subscriber(handler)

    async def order(self, body: Body) -> None:
        with self._witness.attempt(ORDER, SOURCE, body["id"], ITEM, body["key"], body["data"]):
            await work(body["n"])

    async def effect(self, body: Body) -> Body:
        made = {"n": body["n"], "key": body["key"], "id": f"of-{body['n']}", "data": body["data"]}
        with self._witness.attempt(EFFECT, SOURCE, body["id"], ITEM, body["key"], body["data"]):
            self._witness.invoked(SOURCE, made["id"], MADE, made["key"], made["data"])
            await work(body["n"])
        return made

    async def ledger(self, body: Body) -> None:
        with self._witness.attempt(LEDGER, SOURCE, body["id"], MADE, body["key"], body["data"]):
            await work(body["n"])


async def replica(words: Words) -> None:
    await _server(words.url)
    broker = RedisBroker(words.url, logger=logging.getLogger("faststream"))
    Handlers(words.plan, Witness(words.journal, words.name)).subscribe(broker)
    async with broker:
        await broker.start()
        await told_to_stop()


async def publisher(words: Words) -> None:
    await _server(words.url)
    async with RedisBroker(words.url, logger=None) as broker:

        async def publish(item: Item) -> None:
            body = {"n": item.n, "key": item.key, "id": item.id, "data": item.data}
            try:
                await broker.publish(body, stream=ITEMS, correlation_id=item.id)
            except (RedisError, OSError) as error:
                raise Unknown(type(error).__name__) from error

        await publish_all(words.plan, int(words.name), Witness(words.journal), publish)


async def _server(url: str) -> None:
    """Returns when it answers: `start` gives up after three seconds."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + PATIENCE
    while True:
        try:
            async with RedisBroker(url, logger=None) as broker:
                if await broker.ping(1.0):
                    return
        except (RedisError, OSError):
            if clock() > deadline:
                raise
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    _words = Words.read()
    asyncio.run({"replica": replica, "publisher": publisher}[_words.role](_words))
