"""Server-sent events, read from bytes.

Lines end at CR, LF or CRLF and nowhere else: text that holds U+2028 or U+0085 stays on its line.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_END = re.compile(rb"\r\n|\n|\r")


@dataclass
class ServerEvent:
    """One event: its name, its data, the id to resume after it, and the pause that the server asks for."""

    event: str = "message"
    lines: list[str] = field(default_factory=list)
    id: str | None = None
    retry: float | None = None
    """Seconds to wait before connecting again."""

    @property
    def data(self) -> str:
        return "\n".join(self.lines)


def parse(chunks: Iterable[bytes]) -> Iterator[ServerEvent]:
    """The complete events in `chunks`; an event that is cut off at the end is none."""
    current = ServerEvent()
    for line in _lines(chunks):
        if line:
            _take(current, line)
            continue
        if current != ServerEvent():
            yield current
        current = ServerEvent()


def _take(event: ServerEvent, line: str) -> None:
    name, _, value = line.partition(":")
    value = value.removeprefix(" ")
    if name == "event":
        event.event = value
    elif name == "data":
        event.lines.append(value)
    elif name == "id":
        event.id = value
    elif name == "retry" and value.isdecimal():
        event.retry = int(value) / 1000


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        rest += chunk
        held = rest.endswith(b"\r")  # perhaps the first half of CRLF
        *lines, rest = _END.split(rest[:-1] if held else rest)
        rest += b"\r" if held else b""
        yield from (line.decode("utf-8", "replace") for line in lines)
