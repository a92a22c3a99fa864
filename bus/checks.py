"""What may be asked of a bus, and when; all else is refused where it is written, with the fix. Pure."""

from __future__ import annotations

import math
from datetime import datetime

from contracts.errors import BusClosed, BusError, InvalidOption


def closed() -> BusClosed:
    return BusClosed("the bus is closed", fix="open a new one")


def check_open(state: str) -> None:
    """`state`: "new", "open", "closing" or "closed"."""
    if state == "new":
        raise BusError("the bus is not open", fix="await bus.open()")
    if state != "open":
        raise closed()


def checked_id(id: str) -> str:
    if not id:
        raise InvalidOption("an event's id must not be empty", fix="leave it out, and the bus makes one")
    check_unicode("id", id)
    return id


def checked_source(source: str) -> str:
    if not source:
        raise InvalidOption(
            "an event's source must not be empty", fix="a URI reference, such as /plugins/shop"
        )
    check_unicode("source", source)
    return source


def check_unicode(name: str, text: str) -> None:
    """A lone half of a surrogate pair cannot be written down. JSON and file names can bring one."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidOption(
            f"an event's {name} is no Unicode: {text!r}", fix="text without lone surrogates"
        ) from None


def checked_text(name: str, text: str | None) -> str | None:
    if text:
        check_unicode(name, text)
    return text


def checked_timeout(timeout: float) -> float:
    if not 0 < timeout < math.inf:
        raise InvalidOption(f"timeout is {timeout!r}", fix="seconds, more than 0")
    return timeout


def due(now_ns: int, delay: float | None, at: datetime | None) -> int:
    """When an event that is kept back becomes visible."""
    if at is not None:
        if delay is not None:
            raise InvalidOption("both delay and at are given", fix="give one of them")
        return nanoseconds(at, "at")
    if delay is None or not 0 <= delay < math.inf:
        raise InvalidOption(f"delay is {delay!r}", fix="seconds, from 0")
    return now_ns + int(delay * 1e9)


def expiry(now_ns: int, expires: datetime) -> int:
    """When an event is handled no more."""
    until = nanoseconds(expires, "expires")
    if until <= now_ns:
        raise InvalidOption(f"expires is {expires}, which has passed", fix="give a moment that is to come")
    return until


def nanoseconds(moment: datetime, name: str) -> int:
    if moment.tzinfo is None:
        raise InvalidOption(f"{name} has no time zone", fix="datetime.now(UTC) + timedelta(...)")
    return int(moment.timestamp() * 1e9)
