"""Trying again after a failure: how long to wait, and plugins that said that they are not ready yet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from contracts.errors import PlugbusError, PluginNotReady, PluginStateError, PluginStepFailed

from .dependents import failed_dependency
from .operations import Operations
from .registry import Activity, PluginRecord, PluginRegistry
from .scope import Scope

RETRY_FIRST = 1.0
RETRY_LONGEST = 60.0
"""Seconds between tries; doubled each time."""
RETRY_SHORTEST = 0.01
"""Seconds that lie between two tries whatever the plugin and the test kit say."""


def is_not_ready(error: PluginStepFailed) -> bool:
    """Whether a plugin itself asked to be tried again."""
    return error.info is not None and error.info.matches(PluginNotReady.__name__)


def pause_after(failures: int, error: PlugbusError, backoff: float) -> float:
    """Seconds until the next try, of which `failures` came before: what the plugin asks for, else doubled."""
    info = error.info if isinstance(error, PluginStepFailed) else None
    if info is not None and info.retry_after is not None:
        pause = info.retry_after
    else:
        pause = min(RETRY_FIRST * 2 ** min(failures, 10), RETRY_LONGEST)  # no float holds 2**1024
    return max(RETRY_SHORTEST, pause * backoff)


class Retries:
    """Tries a plugin that is not ready again until it is, or fails in another way."""

    def __init__(
        self,
        registry: PluginRegistry,
        operations: Operations,
        scope: Scope,
        log: logging.Logger,
        *,
        backoff: float,
        bring_up: Callable[[PluginRecord], Coroutine[Any, Any, None]],
        failed: Callable[[PluginRecord, PluginStepFailed], None],
        started: Callable[[str], Awaitable[None]],
    ) -> None:
        """`failed` and `started` are told how it ended. `backoff` scales every pause."""
        self._registry = registry
        self._operations = operations
        self._scope = scope
        self._log = log
        self._backoff = backoff
        self._bring_up = bring_up
        self._failed = failed
        self._started = started
        self._retries: dict[str, asyncio.Task[None]] = {}

    def begin(self, record: PluginRecord, error: PluginStepFailed) -> None:
        """Try it again by itself, after it failed with `error`."""
        self.forget(record)
        record.activity = Activity.WAITING
        name, context = f"retry {record.plugin_id}", self._operations.context
        self._retries[record.plugin_id] = self._scope.spawn(
            self._retry(record, error), name=name, context=context
        )

    def forget(self, record: PluginRecord) -> bool:
        """Try no more by itself; whether it would have."""
        retry = self._retries.pop(record.plugin_id, None)
        if retry is None or retry.done():
            return False
        retry.cancel()
        record.activity = Activity.NONE
        return True

    async def _retry(self, record: PluginRecord, error: PluginStepFailed) -> None:
        failures = 0
        while is_not_ready(error):
            await asyncio.sleep(pause_after(failures, error, self._backoff))
            failures += 1
            if failed_dependency(record, self._registry) is not None:
                continue
            try:
                await self._operations.run(record, Activity.LOADING, self._bring_up(record))
            except PluginStateError as failure:
                self._log.debug("%s", failure)  # what it depends on
            except PluginStepFailed as failure:
                error = failure
                record.activity = Activity.WAITING if is_not_ready(error) else Activity.NONE
                if not is_not_ready(error):
                    self._failed(record, error)
            else:
                await self._started(record.plugin_id)
                return
