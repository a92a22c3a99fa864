"""One step of a plugin: its deadline, and what is done and told where it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from contracts.errors import MESSAGE_LIMIT, ErrorInfo, PluginStepFailed
from contracts.messages import PluginFailed
from contracts.plugin import PluginStatus

from .registry import Activity, PluginRecord, make_reason
from .services import Services
from .step_failure import told, traceback_of
from .tracing import step_of

S = PluginStatus
T = TypeVar("T")


class Steps:
    """Runs the steps of every plugin, and announces what becomes of them."""

    def __init__(self, services: Services, log: logging.Logger) -> None:
        self._services = services
        self._log = log

    @asynccontextmanager
    async def step(
        self,
        record: PluginRecord,
        step: str,
        activity: Activity,
        deadline: float,
        *,
        clear_up: Callable[[], Awaitable[None]] | None = None,
    ) -> AsyncIterator[None]:
        """Run the body under the deadline; a failure is recorded, announced and raised.

        `clear_up` undoes the steps before it, once the failure is announced. Raises `PluginStepFailed`.
        """
        record.activity = activity
        try:
            with step_of(record.plugin_id, step):
                async with asyncio.timeout(deadline):
                    yield
        except Exception as error:
            info = told(error, record, step, deadline)
            self._log.debug("%s", info.traceback)
            self.refuse(record, step, info)
            if clear_up is not None:
                await clear_up()
            raise _failed(record, step, info) from error
        finally:
            record.activity = Activity.NONE

    async def anyway(self, record: PluginRecord, what: str, doing: Awaitable[T], deadline: float) -> T | None:
        """Do what must be done whether it works or not; what it raises is logged, the answer then None."""
        try:
            async with asyncio.timeout(deadline):
                return await doing
        except Exception:  # noqa: BLE001 - the plugin goes in any case; what was raised is logged
            self._log.exception("%s: %s failed", record.plugin_id, what)
            return None

    def refuse(self, record: PluginRecord, step: str, info: ErrorInfo) -> None:
        """Put a plugin into `error` with the reason, and announce it."""
        short = info.type.rpartition(".")[2]
        text = _bounded(info.message)
        next_step = info.fix or f"plugbus plugin start {record.plugin_id}"
        place = f" ({info.place})" if info.place else ""
        self._log.error("plugin %s failed to %s: %s: %s%s", record.plugin_id, step, short, text, place)
        record.traceback = traceback_of(info)
        if record.status is S.ERROR:
            record.transition(S.UNLOADED)
        record.transition(S.ERROR, make_reason(short, text, place=info.place, next_step=next_step))
        self._services.tell(
            PluginFailed, record, f"{step} failed",
            step=step, code=short, error=text, place=info.place, fix=info.fix,
        )  # fmt: skip


def raise_together(plugin_id: str, errors: list[PluginStepFailed]) -> None:
    """Nothing for none; the one there is, or the first with all as its cause (an `ExceptionGroup`)."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        group = ExceptionGroup(f"plugin {plugin_id!r} did not stop cleanly", errors)
        first = errors[0]
        raise PluginStepFailed(
            "; ".join(error.message for error in errors),
            plugin_id=plugin_id,
            step=first.step,
            info=first.info,
            where=first.where,
            fix=first.fix,
        ) from group


def _failed(record: PluginRecord, step: str, info: ErrorInfo) -> PluginStepFailed:
    return PluginStepFailed(
        f"plugin {record.plugin_id!r} failed to {step}: {_bounded(str(info))}",
        plugin_id=record.plugin_id,
        step=step,
        info=info,
        where=info.place,
        fix=info.fix,
    )


def _bounded(text: str) -> str:
    return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]} …"
