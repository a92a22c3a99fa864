"""Logging of `run` and `demo`: plain `logging`, one line a record, to stderr."""

import logging
import traceback

from .. import records
from ..recent_log import RecentLog
from .output import clean

_QUIET = ("asyncio", "httpcore", "httpx", "uvicorn.access")
"""Loggers whose information is noise beside ours."""


def configure_logging(level: str) -> None:
    """Write records from `level` on, and keep the last. Below `info`, errors come with their traceback."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    records.install()
    logging.basicConfig(level=level.upper(), handlers=[handler, RecentLog()], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


class LineFormatter(logging.Formatter):
    """Time, level, logger, message; an error as its last line and place, unless debugging."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        line = clean(self.formatMessage(record) + _belongs_to(record))
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return line
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            return line + "\n" + "".join(traceback.format_exception(error)).rstrip()
        return f"{line} | {clean(_summary(error))}"


def _belongs_to(record: logging.LogRecord) -> str:
    """What a handler says while it handles something says of what."""
    event_id, trace_id = getattr(record, "event_id", ""), getattr(record, "trace_id", "")
    event = f" event={event_id}" if event_id and event_id not in record.message else ""
    return f"{event} trace={trace_id}" if trace_id else event


def _summary(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
