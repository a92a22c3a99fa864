"""Asking one plugin how it is: once at a time, within a deadline, and whatever it does is an answer."""

from __future__ import annotations

import asyncio
import contextvars
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from contracts.errors import ErrorInfo
from contracts.health import HEALTH, HealthCheck, HealthReport, HealthStatus, PerformanceMetrics

from .contain import CANCEL_GRACE
from .hosts import Host

MOST_TEXT = 1_000
"""Characters of a message that are kept."""
MOST_DETAILS = 10_000
"""Characters of the details, as JSON, beyond which they are left out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one question."""

    check: HealthCheck
    figures: PerformanceMetrics
    asked_at: datetime
    seconds: float


class HealthState:
    """What one generation of a plugin has answered, and what that counts as."""

    def __init__(self, host: Host, plugin_id: str) -> None:
        self._host = host
        self._plugin_id = plugin_id
        self._asking: asyncio.Task[Answer] | None = None
        self._running: asyncio.Task[tuple[HealthCheck, PerformanceMetrics]] | None = None
        """The plugin's own code; it may go on although the question is answered."""
        self._worse: list[HealthStatus] = []
        """Answers in a row that are worse than what it counts as."""
        self.last: Answer | None = None
        self.counts_as: HealthStatus = "healthy"
        self.failures = 0
        self._is_over = False

    # --- asking ---------------------------------------------------------------------------------------

    async def ask(self, deadline: float) -> Answer:
        """Who comes while somebody asks hears the same answer. Never raises but for cancellation."""
        if self._is_over:
            return _stopping(self.last)
        if self._asking is None or self._asking.done():
            # In an empty context: a question is no part of anybody's trace, nor of what caused an event.
            self._asking = asyncio.create_task(
                self._ask(deadline), name=f"health of {self._plugin_id}", context=contextvars.Context()
            )
        asking = self._asking
        await asyncio.wait([asking])  # who is cancelled goes alone
        return _stopping(self.last) if asking.cancelled() else asking.result()

    async def _ask(self, deadline: float) -> Answer:
        asked_at, began = datetime.now(UTC), time.monotonic()
        figures = self.last.figures if self.last else PerformanceMetrics()
        if self.left():
            check = HealthCheck(
                status="unhealthy", message="the check before does not end, and was cancelled"
            )
            return Answer(check, figures, asked_at, 0.0)
        task = self._running = asyncio.create_task(
            _both(self._host), name=f"health check of {self._plugin_id}"
        )
        task.add_done_callback(_failure_told)
        await asyncio.wait([task], timeout=deadline)
        seconds = time.monotonic() - began
        if not task.done():
            task.cancel()
            check = HealthCheck(status="unhealthy", message=f"no answer within {deadline:g} s")
        elif task.cancelled():
            check = HealthCheck(status="unhealthy", message="the check cancelled itself")
        elif (error := task.exception()) is not None:
            check = HealthCheck(status="unhealthy", message=_told(error))
        elif seconds > deadline:
            check = HealthCheck(
                status="unhealthy", message=f"the answer took {seconds:.1f} s, longer than {deadline:g} s"
            )
        else:
            check, figures = task.result()
        return Answer(_bounded(check), figures, asked_at, seconds)

    def left(self) -> tuple[str, ...]:
        """What of it still runs, for the proof that nothing is left of a plugin."""
        running = self._running
        return () if running is None or running.done() else (f"task {running.get_name()}",)

    async def end(self) -> None:
        """Ask nothing more; what runs is cancelled."""
        self._is_over = True
        tasks = [task for task in (self._asking, self._running) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_GRACE)

    # --- what it makes of the answers -------------------------------------------------------------------

    def take(self, answer: Answer, in_a_row: int) -> HealthStatus | None:
        """Write an answer down. What it counted as before, where that has changed.

        It gets worse after `in_a_row` answers that are, as bad as the mildest of them; better at once.
        """
        status, before = answer.check.status, self.counts_as
        self.last = answer
        self.failures = 0 if status == "healthy" else self.failures + 1
        if _badness(status) <= _badness(before):
            self._worse.clear()
            self.counts_as = status
        else:
            self._worse.append(status)
            if len(self._worse) >= in_a_row:
                self.counts_as = min(self._worse, key=_badness)
                self._worse.clear()
        return before if self.counts_as != before else None

    def report(self) -> HealthReport:
        more = {"plugin_id": self._plugin_id, "counts_as": self.counts_as, "failures": self.failures}
        if (last := self.last) is None:
            return HealthReport.model_validate(more)
        told = {**last.check.model_dump(), "checked_at": last.asked_at, "seconds": round(last.seconds, 6)}
        return HealthReport.model_validate({**told, **more})


async def _both(host: Host) -> tuple[HealthCheck, PerformanceMetrics]:
    """Health, and the figures; an answer of a class of the plugin's own is taken for what it promises."""
    check = HealthCheck.model_validate((await host.health()).model_dump())
    try:
        figures = PerformanceMetrics.model_validate((await host.metrics()).model_dump())
    except Exception as error:  # noqa: BLE001 - it is told, as all that it answers
        figures = PerformanceMetrics()
        if check.status == "healthy":
            check = check.model_copy(update={"status": "degraded", "message": _told(error)})
    return check, figures


def _stopping(last: Answer | None) -> Answer:
    figures = last.figures if last else PerformanceMetrics()
    check = HealthCheck(status="unhealthy", message="the plugin is stopping")
    return Answer(check, figures, datetime.now(UTC), 0.0)


def _failure_told(task: asyncio.Task[tuple[HealthCheck, PerformanceMetrics]]) -> None:
    """What is raised after the answer was given is nobody's any more."""
    if not task.cancelled():
        task.exception()


def _told(error: BaseException) -> str:
    info = ErrorInfo.of(error)
    place = f" ({info.place})" if info.place else ""
    return f"{info.type.rpartition('.')[2]}: {info.message}{place}"


def _bounded(check: HealthCheck) -> HealthCheck:
    details = check.details
    if len(check.model_dump_json(include={"details"})) > MOST_DETAILS:
        details = {"left_out": f"more than {MOST_DETAILS} characters"}
    return check.model_copy(update={"message": check.message[:MOST_TEXT], "details": details})


def _badness(status: HealthStatus) -> int:
    return HEALTH.index(status)
