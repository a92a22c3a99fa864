"""What traces and metrics have in common on their way to a backend, and what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import Callable, Mapping
from typing import Literal

from opentelemetry import context as variables
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY

Signal = Literal["TRACES", "METRICS"]
"""As OpenTelemetry's variables spell it."""

log = logging.getLogger("plugbus.telemetry")
_CHATTY = logging.getLogger("opentelemetry.exporter.otlp.proto.http")


class _Hush:
    """The exporters write several lines for each batch that fails: while one of ours speaks, they do not."""

    def __init__(self) -> None:
        self._speakers = 0
        self._former = 0

    def begin(self) -> None:
        if not self._speakers:
            self._former = _CHATTY.level
            _CHATTY.setLevel(logging.CRITICAL)
        self._speakers += 1

    def end(self) -> None:
        self._speakers -= 1
        if not self._speakers:
            _CHATTY.setLevel(self._former)


def _hush() -> _Hush:
    """One for the process: another generation of this plugin finds it at the logger."""
    found: _Hush | None = getattr(_CHATTY, "plugbus_hush", None)
    if found is None:
        found = _Hush()
        _CHATTY.plugbus_hush = found  # type: ignore[attr-defined]  # where they find it
    return found


class Backend:
    """Says once that it does not take what is sent, and once that it does again. `begin` it, and `end` it."""

    def __init__(self, what: str, signal: Signal, where: str) -> None:
        self._what = what
        self._signal = signal
        self._where = where
        self._is_down = False
        self._has_begun = False

    def begin(self) -> None:
        self._has_begun = True
        _hush().begin()

    def end(self) -> None:
        """Safe twice, and without a beginning."""
        if self._has_begun:
            self._has_begun = False
            _hush().end()

    def told(self, is_taken: bool, lost: str = "") -> bool:
        """After each try; `lost`: what that cost so far, in words."""
        if is_taken == self._is_down:
            self._is_down = not is_taken
            if is_taken:
                log.warning("%s are exported to %s again%s", self._what, self._where, lost)
            else:
                log.warning(
                    "%s cannot be exported to %s: nothing else is affected; fix: start the backend, correct"
                    " OTEL_EXPORTER_OTLP_ENDPOINT, or set OTEL_%s_EXPORTER=none",
                    self._what, self._where, self._signal,
                )  # fmt: skip
        return is_taken


def endpoint(environment: Mapping[str, str], signal: Signal) -> str:
    """As the exporter understands the variables; for messages."""
    wanted = (environment.get(f"OTEL_EXPORTER_OTLP_{what}") for what in (f"{signal}_ENDPOINT", "ENDPOINT"))
    url = next(filter(None, wanted), "http://localhost:4318")
    return re.sub(r"//[^/@]*@", "//••••@", url)  # whoever reads a log need not know the password


def not_installed(what: str, signal: Signal) -> None:
    log.error(
        "OTEL_* variables ask for an export of %s, but the exporter is not installed; fix:"
        " pip install 'plugbus[otlp]', or OTEL_%s_EXPORTER=none", what, signal,
    )  # fmt: skip


def wrong_variable(what: str, error: Exception) -> None:
    log.error("%s are not exported: an OTEL_* variable is wrong: %s", what, error)


async def in_thread(run: Callable[[], object]) -> None:
    """Return when `run` has ended, which may wait for a backend. Who is cancelled meanwhile does not wait for
    it, nor does the process: that is what a thread of `asyncio.to_thread` would not let go of."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        # As the SDK's own threads do it: what exports is not traced by who instruments HTTP clients.
        variables.attach(variables.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            run()
        except Exception:
            log.exception("an export failed")
        finally:
            with contextlib.suppress(RuntimeError):  # nobody waits any more, and the loop is closed
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=work, name="plugbus:telemetry", daemon=True).start()
    await done.wait()


async def within(seconds: float, end: Callable[[], object], what: str) -> None:
    """The same for the last of `what`, at most for so long."""
    try:
        async with asyncio.timeout(seconds):
            await in_thread(end)
    except TimeoutError:
        log.warning(
            "%s that were not exported within %g s are lost: the backend does not answer", what, seconds
        )
