"""Where messages of the Redis protocol (RESP2, RESP3 and inline commands) begin and end. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_CRLF = b"\r\n"
_BULK = frozenset(b"$=!")
_LISTS = frozenset(b"*~>")
_PAIRS = frozenset(b"%|")
_ATTRIBUTE = ord("|")
PUSH = b">"


class Element(NamedTuple):
    """One element of a message, with its positions there; a list is its header, its members follow."""

    kind: str
    start: int
    body: int
    """Where the payload of a bulk begins; for others the same as `end`."""
    end: int


class Frames:
    """Cuts a byte stream into whole messages, however it was torn apart. Each byte is looked at once."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._position = 0
        self._missing = 1
        """Elements until the message is complete."""

    def feed(self, data: bytes) -> list[bytes]:
        """What is complete now, each message as it came."""
        self._bytes += data
        frames, start = [], 0
        while self._step():
            if self._missing == 0:
                frames.append(bytes(self._bytes[start : self._position]))
                start, self._missing = self._position, 1
        del self._bytes[:start]
        self._position -= start
        return frames

    def _step(self) -> bool:
        """Go past one element, if all of it is there."""
        line = self._bytes.find(_CRLF, self._position)
        if line < 0:
            return False
        end, more = _extent(self._bytes, self._position, line)
        if end > len(self._bytes):
            return False
        self._position = end
        self._missing += more - 1
        return True


def _extent(data: bytes | bytearray, start: int, line: int) -> tuple[int, int]:
    """Where the element that begins at `start` ends, and how many more belong to it."""
    kind, after = data[start] if line > start else 0, line + 2
    if kind in _BULK:
        length = int(data[start + 1 : line])
        return (after + length + 2 if length >= 0 else after), 0
    if kind in _LISTS:
        return after, max(0, int(data[start + 1 : line]))
    if kind in _PAIRS:
        return after, 2 * int(data[start + 1 : line]) + (kind == _ATTRIBUTE)
    return after, 0


def elements(frame: bytes) -> Iterator[Element]:
    """The elements of one message in their order."""
    position = 0
    while position < len(frame):
        line = frame.index(_CRLF, position)
        end, _ = _extent(frame, position, line)
        kind = chr(frame[position])
        is_bulk = frame[position] in _BULK and end > line + 2
        yield Element(kind, position, line + 2 if is_bulk else end, end)
        position = end


def arguments(frame: bytes) -> list[bytes]:
    """The words of a command."""
    if not frame.startswith(b"*"):
        return frame.split()
    return [frame[element.body : element.end - 2] for element in elements(frame) if element.kind == "$"]


def command(*words: str | bytes | int) -> bytes:
    """A command as clients send it."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
