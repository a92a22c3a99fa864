"""The last log records of the process, in memory, without what may be the data of an event."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any, NamedTuple

from contracts.errors import ErrorInfo, qualified_name
from contracts.logs import Quoted
from contracts.messages import LogLine

MOST = 1_000
LEFT_OUT = "…"
_LONGEST = 2_000
"""Characters of one part of a text."""
_HARMLESS = (int, float, Enum, PurePath)


class _Kept(NamedTuple):
    """A record, without any object of those who logged it: none of them lives longer for it."""

    at: float
    level: str
    logger: str
    template: str
    parts: tuple[Any, ...] | dict[str, Any]
    error: str
    belongs_to: tuple[str, str, str, str]


class RecentLog(logging.Handler):
    """Keeps the last `most` records that come to it. Texts are made when they are asked for."""

    def __init__(self, most: int = MOST) -> None:
        super().__init__()
        self.most = most
        self._kept: deque[_Kept] = deque(maxlen=most)
        self._came = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._came += 1
        self._kept.append(_reduced(record))

    @property
    def dropped(self) -> int:
        return max(0, self._came - self.most)

    def lines(self) -> tuple[LogLine, ...]:
        """The oldest first."""
        return tuple(map(_line, list(self._kept)))  # in one step: other threads log meanwhile


def recent_log() -> RecentLog | None:
    """That of this process, at the root of its loggers; None where an application has its own logging."""
    handlers = logging.getLogger().handlers
    return next((handler for handler in handlers if isinstance(handler, RecentLog)), None)


def _reduced(record: logging.LogRecord) -> _Kept:
    template, parts = f"({record.filename}:{record.lineno})", ()
    if f"{record.name}.".startswith("plugbus."):
        template, parts = str(_part(record.msg)), _parts(record.args)
    of = record.__dict__
    return _Kept(
        record.created, record.levelname, record.name, template[:_LONGEST], parts, _error(record),
        (of.get("plugin_id", ""), of.get("event_id", ""), of.get("event_type", ""), of.get("trace_id", "")),
    )  # fmt: skip


def _parts(args: Any) -> Any:
    if isinstance(args, Mapping):
        return {str(name): _part(value) for name, value in args.items()}
    return tuple(map(_part, args or ()))


def _part(value: object) -> object:
    """What of an argument is told: names and numbers, the type of an error, of anything else nothing."""
    if isinstance(value, str):
        return LEFT_OUT if isinstance(value, Quoted) else value[:_LONGEST]
    if isinstance(value, ErrorInfo):
        return value.type
    if isinstance(value, BaseException):
        return qualified_name(type(value))
    if value is None or isinstance(value, _HARMLESS):
        return value if type(value) in (int, float, bool) else str(value)
    return LEFT_OUT


def _error(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return ""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return qualified_name(type(error)) + place


def _line(kept: _Kept) -> LogLine:
    text = kept.template
    if kept.parts:
        try:
            text = text % kept.parts
        except (TypeError, ValueError, KeyError):  # what was left out was to be shown as a number
            text = f"{text} {LEFT_OUT}"
    plugin_id, event_id, event_type, trace_id = kept.belongs_to
    return LogLine(
        at=datetime.fromtimestamp(kept.at, UTC), level=kept.level, logger=kept.logger, text=text,
        error=kept.error, plugin_id=plugin_id, event_id=event_id, event_type=event_type, trace_id=trace_id,
    )  # fmt: skip
