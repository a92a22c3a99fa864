"""A message as it lies in Redis: four fields, in this order. Pure.

`t` type and version, `h` the CloudEvents attributes as JSON, `d` the data, untouched (together
CloudEvents' binary mode), `b` what the bus adds: a checksum of the other three, and the causal chain.
Readable with `redis-cli`, and nothing of the data is parsed on the way.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import Any
from zlib import crc32

from pydantic_core import from_json

from contracts.envelope import nanoseconds_of
from contracts.message import Message

from ..limits import ROUTE_CACHE
from .layout import order_of

Fields = tuple[bytes, bytes, bytes, bytes]
"""The values of `t`, `h`, `d`, `b`."""

_NAMES = (b"t", b"h", b"d", b"b")
_SECOND = 1_000_000_000
_CHECKSUM = re.compile(rb"[0-9a-f]{8}")
_kinds: dict[bytes, tuple[str, int]] = {}
"""Types that were read: there are few."""
_is_plain = re.compile(
    rb'\{"id":"[ !#-\[\]-~]+","source":"[ !#-\[\]-~]+","time":"[-0-9T:]{19}\.[0-9]{9}Z"\}'
).fullmatch
"""The attributes of most events, as `pack_plain` writes them: that they can be read is seen at a glance."""
_new = object.__new__
_KNOWN = frozenset(
    ("id", "source", "time", "subject", "partitionkey", "correlationid", "causationid", "expirytime")
)


class Damaged(Exception):
    """The bytes are not those that were written: their checksum says so."""


class Undecodable(Exception):
    """An entry that nobody of ours has written, or not in this form."""


class StoredMessage(Message):
    """A message of a stream: it knows its entry.

    Its attributes are read when somebody asks for one of them: most handlers want nothing but the data.
    """

    __slots__ = ("_head", "entry")

    entry: bytes
    """Its name in the stream, `<millisecond>-<sequence>`."""
    _head: bytes
    """Its attributes, as they came."""

    def _fill_in(self, name: str) -> None:
        """What was left empty, `name` among it."""
        if name == "sequence":
            self.sequence = order_of(self.entry)
            return
        head = from_json(self._head)
        self.id, self.source = head["id"], head["source"]
        try:
            self.time_ns = read_time(head["time"])
        except ValueError:  # a day that does not exist, of a stranger who knows our checksum: when it came
            self.time_ns = (self.sequence >> 64) * 1_000_000
        self.key = self.subject = self.correlationid = self.causationid = None
        self.extra = None


class _Later:
    """A slot of `Message` that a `StoredMessage` fills in when it is first read.

    One for each such slot, rather than one `__getattr__`, for which Python would look up every attribute of
    every message, also those that are there, in its slow way.
    """

    def __init__(self, name: str) -> None:
        slot = getattr(Message, name)
        self._name, self._read, self._write = name, slot.__get__, slot.__set__

    def __get__(self, message: StoredMessage | None, kind: object = None) -> Any:
        if message is None:
            return self
        try:
            return self._read(message)
        except AttributeError:
            pass
        message._fill_in(self._name)
        return self._read(message)

    def __set__(self, message: StoredMessage, value: object) -> None:
        self._write(message, value)


for _name in (
    "id",
    "source",
    "time_ns",
    "key",
    "subject",
    "correlationid",
    "causationid",
    "extra",
    "sequence",
):
    setattr(StoredMessage, _name, _Later(_name))


def pack(message: Message) -> Fields:
    kind = kind_of(message.type, message.version)
    head = _head(message).encode()
    data = message.data
    line = b"%08x" % crc32(kind + head + data)
    if message.depth or message.trace is not None:
        path = json.dumps(message.path) if message.path else "[]"
        line += f" {message.depth} {path}".encode()
    if message.trace is not None:
        line += b"\n" + message.trace.encode()
    return kind, head, data, line


def is_intact(entry: Sequence[bytes]) -> bool:
    """Whether it is as it was published; of what is not ours only that it has such fields."""
    try:
        kind, head, data, line = fields_of(entry)
    except Undecodable:
        return False
    return not _CHECKSUM.match(line) or line[:8] == b"%08x" % crc32(kind + head + data)


def unpack(fields: Sequence[bytes], entry: bytes) -> StoredMessage:
    """`fields`: names and values, as Redis gives them. Raises `Damaged` or `Undecodable`."""
    try:
        order_of(entry)
    except ValueError:
        raise Undecodable(f"its name is {entry[:80]!r}") from None
    return unpack_named(fields, entry)


def unpack_named(fields: Sequence[bytes], entry: bytes) -> StoredMessage:
    """The same of an entry whose name was looked at: its `sequence` is read later."""
    # This runs for each event, so `fields_of` is written out.
    try:
        t, kind, h, head, d, data, b, line = fields
    except ValueError:
        raise _foreign(fields) from None
    if t != b"t" or h != b"h" or d != b"d" or b != b"b":
        raise _foreign(fields)
    is_short = len(line) == 8
    try:
        is_right = int(line if is_short else line[:8], 16) == crc32(kind + head + data)
    except ValueError:
        is_right = False
    if not is_right:
        if not _CHECKSUM.match(line):
            raise Undecodable(f"its bus line is {line[:40]!r}")
        raise Damaged("its checksum is wrong")
    message = _new(StoredMessage)
    message.type, message.version = _kinds.get(kind) or parse_kind(kind)
    message.event, message._data = None, data
    message.entry = entry
    if _is_plain(head):
        message._head, message.expires_ns = head, None
    else:
        _fill(message, _parsed(head))
    if is_short:
        message.depth, message.path, message.trace = 0, (), None
    else:
        message.depth, message.path, message.trace = _chain(line)
    return message


def parse_kind(kind: bytes) -> tuple[str, int]:
    """Type name and version. Raises `Undecodable`."""
    try:
        name, _, version = kind.decode().rpartition("@")
        found = name, int(version)
    except ValueError as error:
        raise Undecodable(f"its type is {kind[:80]!r}") from error
    if len(_kinds) >= ROUTE_CACHE:
        _kinds.clear()
    _kinds[kind] = found
    return found


def kind_of(name: str, version: int) -> bytes:
    """As the field `t` has it."""
    return f"{name}@{version}".encode()


def fields_of(entry: Sequence[bytes]) -> Fields:
    """The four values of an entry as Redis gives it. Raises `Undecodable` for other fields."""
    if len(entry) != 8 or tuple(entry[::2]) != _NAMES:
        raise _foreign(entry)
    _, kind, _, head, _, data, _, line = entry
    return kind, head, data, line


def named(fields: Fields) -> list[bytes]:
    """The inverse of `fields_of`."""
    return [word for pair in zip(_NAMES, fields, strict=True) for word in pair]


def _foreign(entry: Sequence[bytes]) -> Undecodable:
    return Undecodable(f"its fields are {b', '.join(entry[::2])[:200]!r}, not t, h, d, b")


def packed(fields: Fields, entry: bytes) -> bytes:
    """One string of an entry's fields, for where a message lies outside of its stream."""
    kind, head, data, line = fields
    return b"%b %d %d %d\n%b%b%b%b" % (entry, len(kind), len(head), len(line), kind, head, line, data)


def unpacked(text: bytes) -> tuple[Fields, bytes]:
    """The inverse of `packed`. Raises `Undecodable`."""
    first, _, rest = text.partition(b"\n")
    try:
        entry, *sizes = first.split(b" ")
        kind, head, line = map(int, sizes)
    except ValueError as error:
        raise Undecodable(f"it begins with {first[:80]!r}") from error
    at, then = kind + head, kind + head + line
    return (rest[:kind], rest[kind:at], rest[then:], rest[at:then]), entry


def _parsed(head: bytes) -> dict[str, Any]:
    try:
        found = from_json(head)
    except ValueError as error:
        raise Undecodable(f"its attributes cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise Undecodable("its attributes cannot be read: they are no object")
    return found


def _fill(message: StoredMessage, head: dict[str, Any]) -> None:
    get, expires, extra = head.get, head.get("expirytime"), None
    try:
        if len(head) > 3 and not head.keys() <= _KNOWN:
            extra = {name: value for name, value in head.items() if name not in _KNOWN}
        message.id, message.source = _text(head["id"]), _text(head["source"])
        message.time_ns = read_time(head["time"])
        message.key, message.subject = _maybe(get("partitionkey")), _maybe(get("subject"))
        message.expires_ns = None if expires is None else read_time(expires)
        message.correlationid, message.causationid = _maybe(get("correlationid")), _maybe(get("causationid"))
    except (ValueError, TypeError, KeyError) as error:
        raise Undecodable(f"its attributes cannot be read: {error}") from error
    message.extra = extra


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no text")
    return value


def _maybe(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _chain(line: bytes) -> tuple[int, tuple[str, ...], str | None]:
    """Depth and path of what led to it; where flows are traced, the span that has sent it."""
    try:
        chain, newline, trace = line.partition(b"\n")
        _, depth, path = chain.split(b" ", 2)
        groups = () if path == b"[]" else tuple(json.loads(path))
        return int(depth), groups, trace.decode("ascii") if newline else None
    except (ValueError, TypeError) as error:
        raise Undecodable(f"its bus line is {line[:40]!r}") from error


def pack_plain(
    id: str, source: str, time_ns: int, kind: bytes, data: bytes, trace: str | None = None
) -> Fields:
    """The same for what most events are: nothing but its source, and an id that needs no escaping."""
    head = f'{{"id":"{id}","source":{quoted(source)},"time":"{write_time(time_ns)}"}}'.encode()
    line = b"%08x" % crc32(kind + head + data)
    return kind, head, data, line if trace is None else b"%b 0 []\n%b" % (line, trace.encode())


def _head(message: Message) -> str:
    text = (
        f'{{"id":{quoted(message.id)},"source":{quoted(message.source)},'
        f'"time":"{write_time(message.time_ns)}"'
    )
    for name, value in (
        ("partitionkey", message.key),
        ("subject", message.subject),
        ("correlationid", message.correlationid),
        ("causationid", message.causationid),
    ):
        if value is not None:
            text += f',"{name}":{quoted(value)}'
    if message.expires_ns is not None:
        text += f',"expirytime":"{write_time(message.expires_ns)}"'
    for name, other in (message.extra or {}).items():
        text += f",{quoted(name)}:{json.dumps(other)}"
    return text + "}"


# --- times: RFC 3339 to the nanosecond; most that are written or read share their second ------------------

_written: tuple[int, str] = (-1, "")
_read: tuple[str, int] = ("?", 0)
"""The last second that was read, with its point, and its nanoseconds."""


def write_time(nanoseconds: int) -> str:
    global _written  # noqa: PLW0603 - the last second that was spelled out
    second, rest = divmod(nanoseconds, _SECOND)
    if second != _written[0]:
        _written = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
    return f"{_written[1]}.{rest:09d}Z"


def read_time(text: str) -> int:
    """Nanoseconds since the epoch. Raises `ValueError` or `TypeError`."""
    global _read  # noqa: PLW0603 - the last second that was read
    if len(text) == 30 and text[19] == "." and text[29] == "Z":
        if not text.startswith(_read[0]):
            moment = datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)
            _read = (text[:20], int(moment.timestamp()) * _SECOND)
        return _read[1] + int(text[20:29])
    moment = datetime.fromisoformat(text)
    return nanoseconds_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
