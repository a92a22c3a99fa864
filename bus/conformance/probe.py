"""Handlers that write down every start and every end of theirs, and then do what the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from contracts.bus import BusSubscription
from contracts.event import EventResult
from contracts.message import PluginEvent

from .history import History, How, digest_of

Act = Callable[[int, int], Any]
"""(number of the event, attempt) → None, an `EventResult`, or an awaitable of one; may raise."""


class Gate:
    """Holds handlers: `await gate(n, attempt)` waits until it is opened. `waiting` counts who came."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self.waiting = 0

    def open(self) -> None:
        self._open.set()

    async def __call__(self, n: int = 0, attempt: int = 1) -> None:
        self.waiting += 1
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1


class Probe:
    """A handler. What it saw is in `starts` (number, attempt), `events`, and the history."""

    subscription: BusSubscription

    def __init__(self, history: History, group: str, replica: str, act: Act | None = None) -> None:
        self.history = history
        self.group = group
        self.replica = replica
        self.act = act
        self.starts: list[tuple[int, int]] = []
        self.events: list[PluginEvent] = []
        self.done: list[int] = []
        """Numbers of the events whose handling returned."""
        self.running = 0
        self.most = 0
        """Attempts that ran at once, at most."""
        self.times: list[float] = []

    @property
    def numbers(self) -> list[int]:
        return [n for n, _ in self.starts]

    async def __call__(self, event: PluginEvent) -> EventResult | None:
        n, run = number_of(event), self._start(event)
        how: How = "cancelled"
        try:
            result = None if self.act is None else self.act(n, event.attempt)
            if isinstance(result, Awaitable):
                result = await result
            how = "failed" if isinstance(result, EventResult) and result.action == "retry" else "returned"
            self.done.append(n)
        except Exception:
            how = "failed"
            raise
        finally:
            self._end(event, run, how)
        self._note_decision(event, result)
        return result if isinstance(result, EventResult) else None

    def _start(self, event: PluginEvent) -> str:
        message, run = event.message, self.history.next_run(self.replica)
        self.starts.append((number_of(event), event.attempt))
        self.times.append(_now())
        self.events.append(event)
        self.running += 1
        self.most = max(self.most, self.running)
        self.history.add(
            "started", _now(), source=message.source, id=message.id, type=message.type, key=message.key,
            digest=digest_of(
                message.data, key=message.key, subject=message.subject, version=message.version
            ),
            group=self.group, replica=self.replica, run=run, attempt=event.attempt,
        )  # fmt: skip
        return run

    def _end(self, event: PluginEvent, run: str, how: How) -> None:
        self.running -= 1
        self.history.add(
            "ended", _now(), source=event.message.source, id=event.id, group=self.group,
            replica=self.replica, run=run, how=how,
        )  # fmt: skip

    def _note_decision(self, event: PluginEvent, result: Any) -> None:
        if isinstance(result, EventResult) and result.action in ("discard", "dead_letter"):
            self.history.add(
                "given_up", _now(), source=event.message.source, id=event.id, group=self.group,
                note=result.action,
            )  # fmt: skip


def fail_if(is_bad: bool) -> None:
    """What a handler does that fails on purpose."""
    if is_bad:
        raise ValueError("not yet")


def number_of(event: PluginEvent) -> int:
    """The field `n` of an event's data; -1 where there is none."""
    try:
        data = json.loads(event.message.data)
    except ValueError:
        return -1
    n = data.get("n", -1) if isinstance(data, dict) else -1
    return n if isinstance(n, int) else -1


def _now() -> float:
    return asyncio.get_running_loop().time()
