"""W3C trace context, and the switch that says whether flows are traced in this process.

Rules: W3C Trace Context, level 2. What breaks one is left out, and a new trace begins: a header of a stranger
never keeps an event from being delivered. Nothing here imports OpenTelemetry.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .errors import ErrorInfo

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
"""The semantic conventions that our spans follow."""
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KEY = re.compile(r"[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}")
_VALUE = re.compile(r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_MEMBERS = 32
_LENGTH = 512
"""Characters of a tracestate that are handed on; one that is longer loses its long members, then the last."""
_LONGEST = _MEMBERS * (256 + 1 + 256 + 1)
"""Characters that one which keeps the rules can have: a stranger's header costs no more."""
_LONG = 128
_SAMPLED = 1


class TraceContext(NamedTuple):
    """Where a flow comes from: a span, in this process or another one, or what stands for one."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    flags: int
    state: str = ""
    """`tracestate`, well-formed."""

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & _SAMPLED)

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def __str__(self) -> str:
        """As it travels with an event: `traceparent`, and behind a space `tracestate`, if there is one."""
        return f"{self.traceparent} {self.state}" if self.state else self.traceparent


def unsampled_trace(trace_id: int) -> str:
    """As `str` of a context: of a flow that begins here and is not sampled; `trace_id` is random."""
    return f"00-{trace_id:032x}-{random.getrandbits(64) or 1:016x}-02"


def read_trace(text: str) -> TraceContext | None:
    """What `str` of a context says. None: it says nothing that can be used."""
    parent, _, state = text.partition(" ")
    return trace_of([parent], [state] if state else [])


def trace_of(parents: Sequence[str], states: Sequence[str]) -> TraceContext | None:
    """From the values of the headers `traceparent` and `tracestate`. None: a new trace begins.

    Several `traceparent` are none; several `tracestate` are one. One that breaks a rule is left out.
    """
    found = _PARENT.fullmatch(parents[0].strip(" \t")) if len(parents) == 1 else None
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    is_known = version != "ff" and (version != "00" or rest is None)
    if not is_known or not int(trace_id, 16) or not int(span_id, 16):
        return None
    kept = int(flags, 16) & 0x03  # sampled, and that its id is random: others are not known yet
    return TraceContext(trace_id, span_id, kept, _state_of(states))


def _state_of(states: Sequence[str]) -> str:
    members: dict[str, str] = {}
    given = ",".join(states)
    if len(given) > _LONGEST:
        return ""
    for member in given.split(","):
        text = member.strip(" \t")
        if not text:
            continue
        key, equals, value = text.partition("=")
        if not equals or key in members or not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
            return ""
        members[key] = value
    if len(members) > _MEMBERS:
        return ""
    return _bounded([f"{key}={value}" for key, value in members.items()])


def _bounded(members: list[str]) -> str:
    for shortest in (_LONG, 0):
        for at in reversed(range(len(members))):
            if len(",".join(members)) <= _LENGTH:
                break
            if len(members[at]) > shortest:
                del members[at]
    return ",".join(members)


def exception_of(error: ErrorInfo) -> dict[str, str]:
    """Attributes of a span's event `exception`."""
    found = {"exception.type": error.type, "exception.message": error.message}
    if error.traceback:
        found["exception.stacktrace"] = error.traceback
    return found


def is_disabled(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry is switched off as a whole."""
    return environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def exporters(environment: Mapping[str, str], signal: str) -> frozenset[str]:
    """What `OTEL_TRACES_EXPORTER`, or `OTEL_METRICS_EXPORTER`, names; `otlp` where only an endpoint is said.

    Without `none`, which takes back whatever else is there, and without `prometheus`: its metrics are served
    at `/metrics` in any case.
    """
    if is_disabled(environment):
        return frozenset()
    named = frozenset(environment.get(f"OTEL_{signal}_EXPORTER", "").replace(" ", "").split(",")) - {""}
    if named:
        return frozenset() if "none" in named else named - {"prometheus"}
    said = any(environment.get(f"OTEL_EXPORTER_OTLP_{what}") for what in ("ENDPOINT", f"{signal}_ENDPOINT"))
    return frozenset({"otlp"} if said else ())


def is_export_wanted(environment: Mapping[str, str], signal: str = "TRACES") -> bool:
    """Whether OpenTelemetry's standard variables ask for an export of `TRACES`, or `METRICS`."""
    return bool(exporters(environment, signal))


class Switch:
    """Whether spans are made. Off costs the reading of one attribute."""

    __slots__ = ("_users", "is_on")

    def __init__(self) -> None:
        self.is_on = False
        self._users = 0

    def turn_on(self) -> None:
        """By whoever has given OpenTelemetry a provider, or knows of one. Each is to turn it off once."""
        self._users += 1
        self.is_on = True

    def turn_off(self) -> None:
        """It is off when nobody wants it any more: several kernels may run in one process."""
        self._users -= 1
        self.is_on = self._users > 0


TRACING = Switch()
