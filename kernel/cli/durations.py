"""Spans and moments on the command line: `2h`, `1h30m`, `oldest`, `2026-01-31T08:00`."""

import re
from datetime import UTC, datetime, timedelta

from .errors import usage

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_LONGEST = 100 * 365 * 86_400.0
"""Seconds; longer ago than this was nothing."""
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
_NEARLY = re.compile(r"[+-]?\d+(\.\d+)?\s*[A-Za-z]+")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


def seconds_of(text: str) -> float:
    """The seconds of `90s`, `10m`, `2h`, `1h30m`, `3d`. Raises a usage error for anything else."""
    if not _WHOLE.fullmatch(text):
        raise usage(f"{text!r} is not a span of time", "a number with its unit: 90s, 10m, 2h, 1h30m, 3d, 1w")
    return min(sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text)), _LONGEST)


def moment_of(text: str) -> str:
    """A moment as the kernel takes it: `2h` is two hours ago; a time without a zone is this place's.

    What is neither is a position (or `oldest`), and handed on as it is.
    """
    if _WHOLE.fullmatch(text):
        return (datetime.now(UTC) - timedelta(seconds=seconds_of(text))).isoformat()
    if not _DAY.match(text) and not _NEARLY.fullmatch(text):
        return text
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError):
        raise usage(
            f"{text!r} is not a time", "write it like 2026-01-31T08:00, or 2h for two hours ago"
        ) from None


def span(seconds: float | None) -> str:
    """A span for people, in its largest unit: `0.4s`, `12s`, `3m`, `2h`, `5d`."""
    if seconds is None:
        return "-"
    for unit in ("d", "h", "m"):
        if seconds >= 2 * _SECONDS[unit]:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.1f}s"


def per_second(rate: float) -> str:
    """A rate for people."""
    return f"{rate:.0f}/s" if rate >= 10 or not rate else f"{rate:.1f}/s"
