"""Which plugin blocks the event loop: named while it does, with its stack, and written down."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from contracts.event import Event
from contracts.health import Stall
from contracts.messages import PluginStalled

from .hosts import Host
from .registry import Generation, PluginRecord, PluginRegistry
from .stall_watch import Stack, StallWatch

_SHOWN = 12
"""Frames that are told, the innermost first."""


@dataclass(frozen=True)
class _Found:
    """A stall while it lasts; without a plugin where none is on the stack."""

    at: datetime
    shown: Stack
    place: str
    record: PluginRecord | None = None
    generation: Generation | None = None

    @property
    def name(self) -> str:
        return self.record.plugin_id if self.record else "something that is no plugin"


class Stalls:
    """Of one kernel. `count`: all so far, also those in which no plugin was on the stack."""

    def __init__(
        self,
        registry: PluginRegistry,
        announce: Callable[[Event], None],
        log: logging.Logger,
        *,
        after: float,
        replica: str,
    ) -> None:
        """`after`: seconds; 0: nothing is watched."""
        self._registry = registry
        self._announce = announce
        self._log = log
        self._replica = replica
        self._after = after
        self._watch = StallWatch(after, self._began, self._ended) if after else None
        self._found_so_far: deque[_Found] = deque()
        """Those whose end was not told yet; the loop may come to it after the next one."""
        self.count = 0

    def start(self) -> None:
        if self._watch is not None:
            self._watch.start()

    def stop(self) -> None:
        """Safe twice."""
        if self._watch is not None:
            self._watch.stop()

    def _began(self, stack: Stack) -> None:
        """In the thread of the watch, while it lasts."""
        try:
            found = self._found(stack)
        except Exception:  # noqa: BLE001 - the watch goes on, and so does what it has seen
            self._log.exception("whose stall it is could not be told")
            found = _Found(datetime.now(UTC), stack[:_SHOWN], "")
        self._found_so_far.append(found)
        lines = "\n".join(f"  at {frame}" for frame in found.shown)
        self._log.warning(
            "%s blocks the event loop, for more than %g s so far:\n%s", found.name, self._after, lines
        )

    def _found(self, stack: Stack) -> _Found:
        """The innermost frame that is some plugin's tells whose stall it is: so a library that a plugin has
        called counts as the plugin."""
        at = datetime.now(UTC)
        hosts = [(record, host) for record in self._registry for host in _hosts(record)]
        for depth, frame in enumerate(stack):
            for record, host in hosts:
                if host.owns(frame.module, frame.function):
                    last = depth + 1
                    while last < len(stack) and host.owns(stack[last].module, stack[last].function):
                        last += 1
                    shown = stack[max(0, last - _SHOWN) : last]
                    return _Found(at, shown, frame.place, record, record.current)
        return _Found(at, stack[:_SHOWN], stack[0].place if stack else "")

    def _ended(self, seconds: float) -> None:
        """In the loop, afterwards."""
        found = self._found_so_far.popleft()
        self.count += 1
        self._log.warning("%s has blocked the event loop for %.1f s, at %s", found.name, seconds, found.place)
        record, generation = found.record, found.generation
        if record is None:
            return
        told, lasted = tuple(map(str, found.shown)), round(seconds, 3)
        if generation is not None:  # else it was being loaded
            generation.stalls += 1
            generation.last_stall = Stall(at=found.at, seconds=lasted, place=found.place, stack=told)
        self._announce(
            PluginStalled(
                plugin_id=record.plugin_id,
                version=record.metadata.version,
                generation=generation.number if generation is not None else record.loads,
                replica=self._replica,
                seconds=lasted,
                place=found.place,
                stack=told,
            )
        )


def _hosts(record: PluginRecord) -> tuple[Host, ...]:
    """Those that run code of it; one that is being loaded counts as well."""
    current = record.current.host if record.current is not None else None
    return tuple(host for host in (current, record.coming) if host is not None)
