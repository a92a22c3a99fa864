"""What the proxy can do to one command and its reply. Each kind is one class with what it takes to do it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .resp import Element, elements

if TYPE_CHECKING:
    from .proxy import Exchange

Text = str | bytes


def as_bytes(text: Text) -> bytes:
    return text.encode() if isinstance(text, str) else text


class Fault:
    """Lets everything pass: of use to wait for a command (`await rule.fired`: its reply was delivered)."""

    async def request(self, exchange: Exchange) -> None:
        """What is done when the command has come; nothing behind it on its connection moves meanwhile."""
        await exchange.forward()

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        """What is done when the server has answered; nothing behind it on its connection moves meanwhile."""
        await exchange.deliver(raw)
        exchange.fire()


class CutBefore(Fault):
    """The connection ends before the command is sent to the server; earlier commands got their replies."""

    def __init__(self, *, reset: bool = False) -> None:
        self.reset = reset

    async def request(self, exchange: Exchange) -> None:
        await exchange.earlier_are_answered()
        exchange.cut(reset=self.reset)
        exchange.fire()


class CutAfter(Fault):
    """The server has executed the command; the connection ends in place of its reply."""

    def __init__(self, *, reset: bool = False) -> None:
        self.reset = reset

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        exchange.cut(reset=self.reset)
        exchange.fire()


class CutWaiting(Fault):
    """The connection ends when the command has been sent, at once: for commands that block."""

    async def request(self, exchange: Exchange) -> None:
        await exchange.earlier_are_answered()
        await exchange.forward()
        exchange.cut()
        exchange.fire()


class CutWithin(Fault):
    """The connection ends when `at` bytes of the reply have come (None: half of them)."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        await exchange.deliver(raw[: len(raw) // 2 if self.at is None else self.at])
        exchange.cut()
        exchange.fire()


class Hold(Fault):
    """The command is held back, with all that comes behind it on its connection, until `rule.release()`.

    Then it is sent, even if its client has gone since. `seconds`: by itself after that time. `cut`: its
    client loses the connection at once.
    """

    def __init__(self, seconds: float | None = None, *, cut: bool = False) -> None:
        self.seconds, self.cut = seconds, cut

    async def request(self, exchange: Exchange) -> None:
        if self.cut:
            exchange.connection.cut_client()
        exchange.fire()
        await exchange.released(self.seconds)
        await exchange.forward()

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        await exchange.deliver(raw)


class Delay(Fault):
    """The server has executed the command; its reply, and those behind it, come later."""

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        exchange.fire()
        await exchange.released(self.seconds)
        await exchange.deliver(raw)


class Stall(Fault):
    """The connection is half-open from now on: neither data nor its end pass, either way, until
    `rule.release()`. Then it goes on, as a network does that is whole again.

    `executed`: from the reply on; otherwise the command does not reach the server.
    """

    def __init__(self, *, executed: bool = False) -> None:
        self.executed = executed

    async def request(self, exchange: Exchange) -> None:
        if not self.executed:
            await self._stall(exchange)
        await exchange.forward()

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        if self.executed:
            await self._stall(exchange)
        await exchange.deliver(raw)

    async def _stall(self, exchange: Exchange) -> None:
        exchange.connection.stall()
        exchange.fire()
        await exchange.released(None)
        exchange.connection.release()


class Answer(Fault):
    """The command does not reach the server; the proxy answers in its place (`-LOADING wait\\r\\n`)."""

    def __init__(self, raw: Text) -> None:
        self.raw = as_bytes(raw)

    async def request(self, exchange: Exchange) -> None:
        await exchange.earlier_are_answered()
        await exchange.deliver(self.raw)
        exchange.fire()


class Refuse(Fault):
    """The server says so (`LOADING wait`) and carries nothing out; of a transaction neither."""

    def __init__(self, text: str) -> None:
        self.raw = as_bytes(f"-{text}\r\n")

    async def request(self, exchange: Exchange) -> None:
        if exchange.name == "EXEC":  # a server that refuses it has forgotten what was queued
            await exchange.forward(b"*1\r\n$7\r\nDISCARD\r\n")
        else:
            await Answer(self.raw).request(exchange)

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        await exchange.deliver(self.raw)
        exchange.fire()


class Trickle(Fault):
    """The reply comes byte by byte, with a pause of so many seconds before each."""

    def __init__(self, pause: float) -> None:
        self.pause = pause

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        exchange.fire()
        for position in range(len(raw)):
            await asyncio.sleep(self.pause)
            await exchange.deliver(raw[position : position + 1])


class Mangle(Fault):
    """Base of those that deliver something else than what the server has said."""

    def mangled(self, raw: bytes) -> bytes:
        raise NotImplementedError

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        await exchange.deliver(self.mangled(raw))
        exchange.fire()


class Corrupt(Mangle):
    """The first byte, which tells the type of the reply, is none of the protocol."""

    def mangled(self, raw: bytes) -> bytes:
        return b"?" + raw[1:]


class WrongLength(Mangle):
    """The first length in the reply (of a bulk, else of the list) lies by so much."""

    def __init__(self, by: int = 1) -> None:
        self.by = by

    def mangled(self, raw: bytes) -> bytes:
        found = _first(raw, "$") or _first(raw, "*")
        if found is None:
            raise ValueError(f"there is no length in {raw[:60]!r}")
        line = raw.index(b"\r\n", found.start)
        length = int(raw[found.start + 1 : line]) + self.by
        return raw[: found.start + 1] + str(length).encode() + raw[line:]


class FlipByte(Fault):
    """One bit of the payload is another: in the middle of the longest bulk, or at the end of `within`.

    `in_request`: of the command, so that the server stores it.
    """

    def __init__(self, within: Text | None = None, *, in_request: bool = False) -> None:
        self.within, self.in_request = within, in_request

    async def request(self, exchange: Exchange) -> None:
        await exchange.forward(self.flipped(exchange.raw) if self.in_request else None)

    async def reply(self, exchange: Exchange, raw: bytes) -> None:
        await exchange.deliver(raw if self.in_request else self.flipped(raw))
        exchange.fire()

    def flipped(self, raw: bytes) -> bytes:
        position = self._position(raw)
        return raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]

    def _position(self, raw: bytes) -> int:
        if self.within is not None:
            wanted = as_bytes(self.within)
            return raw.index(wanted) + len(wanted) - 1
        longest = max(elements(raw), key=lambda element: element.end - element.body)
        if longest.body == longest.end:
            raise ValueError(f"there is no payload in {raw[:60]!r}")
        return (longest.body + longest.end - 2) // 2


class Duplicate(Mangle):
    """The reply comes twice: from now on every command of the connection gets that of the one before."""

    def mangled(self, raw: bytes) -> bytes:
        return raw + raw


class Drop(Mangle):
    """The reply never comes: every command of the connection gets that of the next."""

    def mangled(self, raw: bytes) -> bytes:
        return b""


def _first(raw: bytes, kind: str) -> Element | None:
    return next((element for element in elements(raw) if element.kind == kind), None)
