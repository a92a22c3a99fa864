"""FastStream, as the conductor sees it. It runs in an environment of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from fault_tools.servers import Server

from .children import RunFailed, module
from .plan import EFFECT, LEDGER, ORDER, Plan
from .side import Words
from .system import Entries, Rest

ITEMS, EFFECTS = "work", "effect"
STREAMS = {ORDER: ITEMS, EFFECT: ITEMS, LEDGER: EFFECTS}
MOST = 1_000_000
"""Pending entries that are listed."""
_ASK = "from importlib.metadata import version as v; print(v('faststream'), v('redis'))"


class FaststreamSystem:
    """One stream for each topic, one consumer group for each handler."""

    name = "FastStream"

    def __init__(self, plan: Plan, server: Server, folder: Path, python: Path) -> None:
        self.plan = plan
        self._server = server
        self._folder = folder
        self._python = python

    def versions(self) -> dict[str, str]:
        asked = subprocess.run([self._python, "-c", _ASK], capture_output=True, text=True, check=False)  # noqa: S603
        if asked.returncode:
            raise RunFailed(f"{self._python} has no faststream[redis]; fix: install it there")
        faststream, redis = asked.stdout.split()
        return {"faststream": faststream, "redis-py": redis}

    def settings(self) -> str:
        return (
            "consumer groups; `AckPolicy.NACK_ON_ERROR`; `max_records=10`; beside each subscriber one with"
            f" `min_idle_time={int(1000 * self.plan.lease)}`; the effect is what the handler returns"
            " (`@broker.publisher`); the publisher repeats after every error"
        )

    def replica(self, name: str) -> list[str]:
        return self._command("replica", name)

    def publisher(self, number: int) -> list[str]:
        return self._command("publisher", str(number))

    def _command(self, role: str, name: str) -> list[str]:
        words = Words(role, name, self._server.url, self._folder, self.plan)
        return module("faststream_side", *words.line(), python=self._python)

    def prepare(self) -> None:
        """The groups, from the beginning: a replica that starts late would make them at the end."""
        with self._server.client() as client:
            for group, stream in STREAMS.items():
                client.xgroup_create(stream, group, id="0", mkstream=True)

    def fetched(self, replica: str | None = None) -> Entries:
        found: Entries = set()
        with self._server.client() as client:
            for group, stream in STREAMS.items():
                for item in client.xpending_range(stream, group, "-", "+", MOST):
                    owner = item["consumer"].decode()
                    if replica is None or owner in (replica, f"{replica}-claims"):
                        found.add((group, stream, item["message_id"].decode()))
        return found

    def rest(self) -> Rest:
        rest = Rest()
        with self._server.client() as client:
            for group, stream in STREAMS.items():
                info = next(one for one in client.xinfo_groups(stream) if one["name"] == group.encode())
                rest.pending += info["pending"]
                rest.waiting += _behind(client, stream, info["last-delivered-id"].decode())
            for stream in (ITEMS, EFFECTS):
                rest.kept[stream] = rest.published[stream] = client.xlen(stream)
        return rest

    def left(self) -> list[str]:
        with self._server.client() as client:
            return [
                f"{group} in {stream}: {item['name'].decode()} holds {item['pending']}"
                for group, stream in STREAMS.items()
                for item in client.xinfo_consumers(stream, group)
                if item["pending"]
            ]

    def is_trimmed(self, rest: Rest) -> bool:
        """It trims nothing of its own accord; nobody waits for it."""
        return True

    def dead_letters(self) -> list[tuple[str, str, str, str]]:
        return []


def _behind(client: Any, stream: str, entry: str) -> int:
    """Whether a stream holds anything behind an entry: 0 or 1."""
    return len(client.xrange(stream, f"({entry}", "+", count=1))
