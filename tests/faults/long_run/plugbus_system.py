"""Plugbus, as the conductor sees it."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from pathlib import Path

import redis
from fault_tools.servers import Server

from bus.redis_streams.layout import Keys
from contracts.patterns import topic_of

from .children import module
from .plan import GROUPS, ITEM, MADE, Plan
from .plugbus_side import NAMESPACE, opened, spec_of
from .side import Words
from .system import Entries, Rest

MOST = 1_000_000
"""Pending entries that are listed of one stream."""
_EMPTY = ("lot", "slips", "suspects")
_PATIENCE = 60.0
"""Seconds for one question to a server that may be loading, or waiting for its disk."""


class PlugbusSystem:
    """Looked at through its own face where that tells, and in Redis where a moment after a kill counts."""

    name = "Plugbus"

    def __init__(self, plan: Plan, server: Server, folder: Path) -> None:
        self.plan = plan
        self._server = server
        self._folder = folder
        self._keys = Keys(NAMESPACE)

    def versions(self) -> dict[str, str]:
        return {"plugbus": version("plugbus"), "redis-py": version("redis")}

    def settings(self) -> str:
        plan = self.plan
        return (
            f"{plan.partitions} partitions, lease {plan.lease} s, `concurrency={plan.concurrency}`,"
            f" `dedupe=True` for the group that returns effects, `retain={plan.retain}`, `limit={plan.limit}`"
        )

    def replica(self, name: str) -> list[str]:
        return self._command("replica", name)

    def publisher(self, number: int) -> list[str]:
        return self._command("publisher", str(number))

    def _command(self, role: str, name: str) -> list[str]:
        return module("plugbus_side", *Words(role, name, self._server.url, self._folder, self.plan).line())

    def prepare(self) -> None:
        asyncio.run(self._declare())

    async def _declare(self) -> None:
        async with opened(self._server.url, self.plan) as bus:
            for group in GROUPS:
                await bus.declare_group(spec_of(self.plan, group))

    # --- at a kill ------------------------------------------------------------------------------------

    def fetched(self, replica: str | None = None) -> Entries:
        found: Entries = set()
        with self._server.client(socket_timeout=_PATIENCE) as client:
            for group, stream, p in self._places():
                if replica is None or self._owner(client, group, p) == replica:
                    found |= self._held(client, group, stream, p)
        return found

    def _places(self) -> list[tuple[str, str, int]]:
        """(group, topic, partition)."""
        return [
            (group, topic_of(pattern), p)
            for group, patterns in GROUPS.items()
            for pattern in patterns
            for p in range(self.plan.partitions)
        ]

    def _owner(self, client: redis.Redis, group: str, p: int) -> str:
        known = client.hget(self._keys.own(p), group)
        return known.decode().partition(" ")[2] if isinstance(known, bytes) else ""

    def _held(self, client: redis.Redis, group: str, topic: str, p: int) -> Entries:
        """Taken from the stream, and what waits in the lot: its owner may have started that as well."""
        stream = self._keys.stream(topic, p)
        if not client.exists(stream):
            return set()
        pending = client.xpending_range(stream, group, "-", "+", MOST)
        lot = client.hkeys(self._keys.slips(group, topic, p))
        names = [*(item["message_id"] for item in pending), *lot]
        return {(group, stream, _text(name)) for name in names}

    # --- at the end -----------------------------------------------------------------------------------

    def rest(self) -> Rest:
        rest = asyncio.run(self._look())
        if rest.is_quiet:
            with self._server.client(socket_timeout=_PATIENCE) as client:
                rest.keys = [key for key in self._ought_to_be_empty() if client.exists(key)]
            rest.pending = len(self.fetched())
        return rest

    async def _look(self) -> Rest:
        rest = Rest()
        async with opened(self._server.url, self.plan) as bus:
            for group in await bus.groups():
                rest.waiting += group.waiting
                rest.pending += group.in_flight
                rest.parked += group.parked
                rest.dead += group.dead
            for topic in await bus.topics():
                rest.kept[topic.topic] = topic.events
                rest.published[topic.topic] = topic.published
        return rest

    def left(self) -> list[str]:
        found = []
        with self._server.client(socket_timeout=_PATIENCE) as client:
            for group, topic, p in self._places():
                stream = self._keys.stream(topic, p)
                for info in client.xinfo_groups(stream) if client.exists(stream) else ():
                    read, last = _text(info["last-delivered-id"]), _last(client, stream)
                    if _text(info["name"]) == group and (info["pending"] or read != last):
                        found.append(
                            f"{group} in {stream}: {info['pending']} pending, read to {read} of {last},"
                            f" owned by {self._owner(client, group, p) or 'nobody'}"
                        )
        return found

    def _ought_to_be_empty(self) -> list[str]:
        return [
            getattr(self._keys, kind)(group, topic, p)
            for group, topic, p in self._places()
            for kind in _EMPTY
        ]

    def is_trimmed(self, rest: Rest) -> bool:
        most = self.plan.partitions * self.plan.retain
        return all(rest.kept.get(topic_of(name), 0) <= most for name in (ITEM, MADE))

    def dead_letters(self) -> list[tuple[str, str, str, str]]:
        return asyncio.run(self._dead())

    async def _dead(self) -> list[tuple[str, str, str, str]]:
        async with opened(self._server.url, self.plan) as bus:
            return [
                (letter.group, letter.envelope.source, letter.envelope.id, letter.reason)
                for letter in await bus.dead_letters(limit=10_000)
            ]


def _last(client: redis.Redis, stream: str) -> str:
    return _text(client.xinfo_stream(stream)["last-generated-id"])


def _text(name: object) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
