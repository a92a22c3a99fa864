"""What plugins' code did wrong, as data, however wrong it is. Pure."""

from __future__ import annotations

import math

from contracts.errors import ErrorInfo, qualified_name
from contracts.event import EventResult


def described(error: BaseException) -> ErrorInfo:
    """`ErrorInfo.of`, also for an error whose own text cannot be made."""
    try:
        return ErrorInfo.of(error)
    except Exception as broken:  # noqa: BLE001 - it is the code of whoever wrote the error
        kind = qualified_name(type(error))
        return ErrorInfo(type=kind, message=f"(its text cannot be made: {type(broken).__name__})")


def kind_of(error: BaseException) -> str:
    """`ErrorInfo.type` of it, without the rest."""
    carried = getattr(error, "remote_info", None)
    return carried.type if isinstance(carried, ErrorInfo) else qualified_name(type(error))


def wrong_with(result: object) -> str | None:
    """Why a handler cannot have returned this; None: it can."""
    if not isinstance(result, EventResult):
        return f"the handler returned {type(result).__name__}, not an EventResult"
    if result.action not in ("ok", "retry", "discard", "dead_letter"):
        return f"the handler returned an EventResult with the action {result.action!r}"
    if not isinstance(result.reason, str):
        return f"the reason of an EventResult is a {type(result.reason).__name__}, not a text"
    if not _is_seconds(result.after):
        return f"`after` of an EventResult is {result.after!r}, not seconds"
    return None


def _is_seconds(after: object) -> bool:
    return after is None or (isinstance(after, int | float) and not math.isnan(after))
