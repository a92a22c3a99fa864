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

from contracts.tracing import exporters

Signal = Literal["TRACES", "METRICS"]
"""As OpenTelemetry's variables spell it."""

log = logging.getLogger("plugbus.telemetry")
_CHATTY = logging.getLogger("opentelemetry.exporter.otlp.proto.http")
_MODULES: Mapping[Signal, str] = {"TRACES": "trace_exporter", "METRICS": "metric_exporter"}
_TELLS_WHY = re.compile(r"reason|error|exceeds", re.IGNORECASE)
_LONGEST = 200
"""Characters of the exporter's reason."""


class _Listener(logging.Handler):
    """The exporters write several lines for each batch that fails: while one of ours speaks, they are only
    listened to, because nothing else says why."""

    def __init__(self) -> None:
        super().__init__()
        self._speakers = 0
        self._reasons: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if _TELLS_WHY.search(text):  # the last line of a try may only say that it was the last
            self._reasons[record.name] = _without_login(text)[:_LONGEST]

    def reason(self, signal: Signal) -> str:
        """Why the last try failed, in the exporter's words; empty where it has not said."""
        return self._reasons.get(f"{_CHATTY.name}.{_MODULES[signal]}", "")

    def forget(self, signal: Signal) -> None:
        self._reasons.pop(f"{_CHATTY.name}.{_MODULES[signal]}", None)

    def begin(self) -> None:
        if not self._speakers:
            _CHATTY.addHandler(self)
            _CHATTY.propagate = False
        self._speakers += 1

    def end(self) -> None:
        self._speakers -= 1
        if not self._speakers:
            _CHATTY.propagate = True
            _CHATTY.removeHandler(self)
            self._reasons.clear()


def _listener() -> _Listener:
    """One for the process: another generation of this plugin finds it at the logger."""
    found: _Listener | None = getattr(_CHATTY, "plugbus_listener", None)
    if found is None:
        found = _Listener()
        _CHATTY.plugbus_listener = found  # type: ignore[attr-defined]  # where they find it
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
        _listener().begin()

    def end(self) -> None:
        """Safe twice, and without a beginning."""
        if self._has_begun:
            self._has_begun = False
            _listener().end()

    def told(self, is_taken: bool, lost: str = "") -> bool:
        """After each try; `lost`: what that cost so far, in words."""
        if is_taken == self._is_down:
            self._is_down = not is_taken
            if is_taken:
                _listener().forget(self._signal)
                log.warning("%s are exported to %s again%s", self._what, self._where, lost)
            else:
                reason = _listener().reason(self._signal)
                log.warning(
                    "%s cannot be exported to %s%s: nothing else is affected; fix: start the backend, correct"
                    " OTEL_EXPORTER_OTLP_ENDPOINT, or set OTEL_%s_EXPORTER=none",
                    self._what, self._where, f" ({reason})" if reason else "", self._signal,
                )  # fmt: skip
        return is_taken


def endpoint(environment: Mapping[str, str], signal: Signal) -> str:
    """As the exporter understands the variables; for messages."""
    wanted = (environment.get(f"OTEL_EXPORTER_OTLP_{what}") for what in (f"{signal}_ENDPOINT", "ENDPOINT"))
    url = next(filter(None, wanted), "http://localhost:4318")
    return _without_login(url)


def _without_login(text: str) -> str:
    """Whoever reads a log need not know the password in a URL."""
    return re.sub(r"//[^/@]*@", "//••••@", text)


def can_export(environment: Mapping[str, str], signal: Signal) -> bool:
    """Whether the variables ask for OTLP, which is what there is; what else they ask for is said."""
    named = exporters(environment, signal)
    if others := named - {"otlp"}:
        log.warning(
            "OTEL_%s_EXPORTER names %s, which is not to be had here; fix: otlp, or none",
            signal, " and ".join(map(repr, sorted(others))),
        )  # fmt: skip
    if "otlp" not in named:
        return False
    said = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    variable = next((name for name in said if environment.get(name)), "")
    if variable and environment[variable] != "http/protobuf":
        log.warning(
            "%s is %r, but http/protobuf is what is sent; fix: unset it, and let OTEL_EXPORTER_OTLP_ENDPOINT"
            " name the backend's port for HTTP (often 4318)", variable, environment[variable],
        )  # fmt: skip
    return True


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
