"""The CloudEvents side of an event: its envelope, and how versions and times are spelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .errors import InvalidEvent

JSON = "application/json"
_SCHEMA = "urn:plugbus:"
_LONGEST = 10
"""Digits of a version; more is nonsense, and slow to read."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The CloudEvents 1.0.2 attributes of an event, with the official extensions that Plugbus uses."""

    id: str
    source: str
    type: str
    time: datetime
    specversion: str = "1.0"
    subject: str | None = None
    datacontenttype: str = "application/json"
    dataschema: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    partitionkey: str | None = None
    """The ordering key."""
    correlationid: str | None = None
    """Id of the event with which the causal chain began."""
    causationid: str | None = None
    """Id of the event while handling which this one was published."""
    expirytime: datetime | None = None
    extensions: Mapping[str, str | int | bool] = field(default_factory=dict)
    """Further extension attributes that came from outside; handed on untouched."""

    def attributes(self) -> dict[str, str | int | bool]:
        """All attributes that are set, as CloudEvents spells them (times as RFC 3339)."""
        known: dict[str, str | int | bool | None] = {
            "specversion": self.specversion,
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": format_time(self.time),
            "datacontenttype": self.datacontenttype,
            "dataschema": self.dataschema,
            "traceparent": self.traceparent,
            "tracestate": self.tracestate,
            "partitionkey": self.partitionkey,
            "correlationid": self.correlationid,
            "causationid": self.causationid,
            "expirytime": format_time(self.expirytime) if self.expirytime else None,
        }
        return {**self.extensions, **{name: value for name, value in known.items() if value is not None}}


def schema_uri(type_name: str, version: int) -> str:
    """`dataschema` of our own events: how the version travels in CloudEvents."""
    return f"{_SCHEMA}{type_name}:{version}"


def schema_version(uri: str | None, type_name: str) -> int:
    """The version in a `dataschema` of ours; 1 where it says nothing of that type.

    Raises `InvalidEvent` where it is of that type and its version is no number from 1.
    """
    prefix = f"{_SCHEMA}{type_name}:"
    if not uri or not uri.startswith(prefix):
        return 1
    digits = uri.removeprefix(prefix)
    if not (digits.isascii() and digits.isdigit() and len(digits) < _LONGEST and int(digits)):
        raise InvalidEvent(
            f"dataschema names a version of {type_name} that cannot be one", fix=schema_uri(type_name, 1)
        )
    return int(digits)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC, with `Z`."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def moment_of(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def nanoseconds_of(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6) * 1_000
