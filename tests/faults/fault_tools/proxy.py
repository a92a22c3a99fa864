"""A TCP proxy in front of a Redis server that breaks what a test says, at exactly the command it says.

    async with FaultProxy(server) as proxy:
        rule = proxy.on("XADD", CutAfter(), nth=2)      # the reply to the second XADD is lost
        bus = open_bus(proxy.url)
        ...
        await rule.fired

The kinds of faults are in `faults`. Replies are matched to commands in the order of each connection,
pipelines included; what is pushed to subscribers passes as it is. (Not understood: CLIENT REPLY, MONITOR.)
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter, deque
from collections.abc import Callable, Generator
from functools import cached_property
from typing import Any, Self

from .faults import Fault, Text, as_bytes
from .resp import PUSH, Frames, arguments
from .servers import Server, free_port

_CHUNK = 1 << 16
_SUBSCRIBING = frozenset({"SUBSCRIBE", "PSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE"})
_NO_LINGER = struct.pack("ii", 1, 0)


class Fact:
    """Something that happens once: `await fact`, by as many as like, before or after."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def is_so(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()

    def __await__(self) -> Generator[Any, None, None]:
        yield from self._event.wait().__await__()


class Exchange:
    """One command on its way, and its reply."""

    def __init__(self, connection: Connection, raw: bytes) -> None:
        self.connection, self.raw = connection, raw
        self.rule: Rule | None = None
        self.queued: tuple[str, ...] = ()
        """Names of the commands that were queued before it in its transaction, where it is within one."""
        self.is_queued = False
        """It waits for the end of its transaction itself."""
        self.is_answered = False
        """The server has executed it, whoever still hears its answer."""

    @cached_property
    def args(self) -> list[bytes]:
        """The words of the command, its name first."""
        return arguments(self.raw)

    @cached_property
    def name(self) -> str:
        return self.args[0].decode(errors="replace").upper() if self.args else ""

    def contains(self, text: bytes) -> bool:
        return any(text in argument for argument in self.args[1:])

    # --- what faults are made of ----------------------------------------------------------------------------

    async def forward(self, raw: bytes | None = None) -> None:
        """Send it to the server, or `raw` in its place."""
        self.connection.expect(self)
        await self.connection.send_up(self.raw if raw is None else raw)

    async def deliver(self, raw: bytes) -> None:
        """Send the client what is to be its reply, or a part of it."""
        await self.connection.send_down(raw)

    async def earlier_are_answered(self) -> None:
        """Return when the replies to all commands before it have been delivered."""
        await self.connection.answered.wait()

    async def released(self, seconds: float | None) -> None:
        """Return when the rule is released, or after so many seconds."""
        assert self.rule is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.rule.released.wait()

    def cut(self, *, reset: bool = False) -> None:
        self.connection.cut(reset=reset)

    def fire(self) -> None:
        assert self.rule is not None
        self.rule.count += 1
        self.rule.fired.set()


class Rule:
    """When a fault happens: at the `nth` command that fits, and `times` in a row (None: from then on).

    A command fits that has this name (None: any), an argument that contains `containing`, and `where` of it.
    Commands that an earlier rule takes are not seen by later ones.
    """

    def __init__(
        self, command: str | None, fault: Fault, nth: int, times: int | None, containing: Text | None,
        where: Callable[[Exchange], bool] | None,
    ) -> None:  # fmt: skip
        self.command = command and command.upper()
        self.fault, self.nth, self.times, self.where = fault, nth, times, where
        self.containing = None if containing is None else as_bytes(containing)
        self.matched = 0
        """Commands that did fit so far."""
        self.count = 0
        """How often the fault has happened."""
        self.fired = Fact()
        """That the fault has happened (once)."""
        self.taken: list[Exchange] = []
        """Commands that it took so far."""
        self.released = asyncio.Event()
        self.is_active = True

    def release(self) -> None:
        """Let go on what `Hold`, `Delay` and `Stall` keep, and do nothing more."""
        self.is_active = False
        self.released.set()

    def remove(self) -> None:
        """Do nothing more; what is held stays so."""
        self.is_active = False

    def takes(self, exchange: Exchange) -> bool:
        """Count the command, and tell whether it is the one."""
        if not self.is_active or not self._fits(exchange):
            return False
        self.matched += 1
        if self.times is not None and self.matched >= self.nth + self.times - 1:
            self.is_active = False
        if self.matched < self.nth:
            return False
        self.taken.append(exchange)
        return True

    def _fits(self, exchange: Exchange) -> bool:
        return (
            self.command in {None, exchange.name}
            and (self.containing is None or exchange.contains(self.containing))
            and (self.where is None or self.where(exchange))
        )


class Connection:
    """One client's connection and the one to the server behind it."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.sent: Counter[str] = Counter()
        """How many of each command have come."""
        self.name = ""
        """As the client has set it (CLIENT SETNAME, HELLO … SETNAME)."""
        self.is_blocking_reader = False
        """Whether it has sent an XREAD or XREADGROUP that blocks."""
        self.is_over = False
        self.ended = Fact()
        """That both sides are gone."""
        self.answered = asyncio.Event()
        self.answered.set()
        self._client_reader, self._client = reader, writer
        self._server: asyncio.StreamWriter | None = None
        self._expected: deque[Exchange] = deque()
        self._gate = asyncio.Event()
        self._gate.set()
        self._is_subscribed = self._is_resp3 = self._is_queueing = False
        self._queued: tuple[str, ...] = ()

    # --- what tests do ----------------------------------------------------------------------------------

    def stall(self) -> None:
        """Half-open until `release`: nothing passes, either way, not even that one side has ended."""
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()

    def cut(self, *, reset: bool = False) -> None:
        """End it, both sides; with a RST to the client, or after what was sent before."""
        self.is_over = True
        self.cut_client(reset=reset)
        if self._server is not None:
            self._server.close()
        self.answered.set()
        self.release()

    def cut_client(self, *, reset: bool = False) -> None:
        """End the client's side alone; what was taken from it is sent on."""
        if reset and not self._client.is_closing():
            self._client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._client.transport.abort()
        self._client.close()

    # --- the two directions -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until both sides have ended."""
        try:
            await self._gate.wait()
            reader, self._server = await asyncio.open_connection(*self.proxy.server.address)
        except OSError:
            self.cut(reset=True)  # as near as an accepted connection comes to a refused one
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump_requests())
                group.create_task(self._pump_replies(reader))
        finally:
            self.cut()

    async def _pump_requests(self) -> None:
        frames, plain = Frames(), bytearray()
        while not self.is_over and (data := await _read(self._client_reader)):
            for raw in frames.feed(data):
                await self._gate.wait()
                exchange = self._note(raw)
                if exchange.rule is None:
                    self.expect(exchange)
                    plain += raw
                    continue
                await self._flush(plain)
                await exchange.rule.fault.request(exchange)
                if self.is_over:
                    return
            await self._flush(plain)
        await self._gate.wait()
        if self._server is not None and not self._server.is_closing():
            with contextlib.suppress(OSError):  # it has gone meanwhile
                self._server.write_eof()

    async def _flush(self, plain: bytearray) -> None:
        """What nobody is interested in goes on together, as it came."""
        await self.send_up(bytes(plain))
        plain.clear()

    async def _pump_replies(self, reader: asyncio.StreamReader) -> None:
        frames, plain = Frames(), bytearray()
        while not self.is_over and (data := await _read(reader)):
            for raw in frames.feed(data):
                exchange = self._asked(raw)
                if exchange is None or exchange.rule is None:
                    plain += raw
                    continue
                await self._hand_down(plain)
                exchange.is_answered = True
                await exchange.rule.fault.reply(exchange, raw)
                if self.is_over:
                    return
            await self._hand_down(plain)
        await self._gate.wait()
        self.cut_client()

    async def _hand_down(self, plain: bytearray) -> None:
        await self.send_down(bytes(plain))
        plain.clear()
        if not self._expected:
            self.answered.set()

    def _note(self, raw: bytes) -> Exchange:
        """Count a command that has come, and find what is to be done to it."""
        exchange = Exchange(self, raw)
        name, words = exchange.name, [word.upper() for word in exchange.args[1:]]
        self.sent[name] += 1
        self.proxy.sent[name] += 1
        self._note_transaction(exchange)
        self.is_blocking_reader |= name in {"XREAD", "XREADGROUP"} and b"BLOCK" in words
        self._is_subscribed |= name in _SUBSCRIBING
        self._is_resp3 |= name == "HELLO" and words[:1] == [b"3"]
        if name in {"CLIENT", "HELLO"} and b"SETNAME" in words:
            self.name = exchange.args[words.index(b"SETNAME") + 2].decode()
        exchange.rule = self.proxy.rule_for(exchange)
        return exchange

    def _note_transaction(self, exchange: Exchange) -> None:
        is_end = exchange.name in {"EXEC", "DISCARD"}
        exchange.queued = self._queued
        exchange.is_queued = self._is_queueing and not is_end
        self._queued = (*self._queued, exchange.name) if exchange.is_queued else ()
        self._is_queueing = exchange.name == "MULTI" or exchange.is_queued

    def expect(self, exchange: Exchange) -> None:
        """The next reply that nobody else waits for is that to `exchange`."""
        is_answered_aside = self._is_subscribed and (exchange.name in _SUBSCRIBING or not self._is_resp3)
        if not is_answered_aside:
            self._expected.append(exchange)
            self.answered.clear()

    def _asked(self, raw: bytes) -> Exchange | None:
        """What `raw` answers; None: it was not asked for."""
        is_pushed = raw.startswith(PUSH) or not self._expected
        return None if is_pushed else self._expected.popleft()

    async def send_up(self, raw: bytes) -> None:
        await self._gate.wait()
        if self._server is not None:
            await _write(self._server, raw)

    async def send_down(self, raw: bytes) -> None:
        await self._gate.wait()
        await _write(self._client, raw)


class FaultProxy:
    """The proxy, with the address that clients use in place of the server's. Used from one event loop."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.port = free_port()
        self.connections: list[Connection] = []
        """Those that live."""
        self.accepted = 0
        """How many there were."""
        self.sent: Counter[str] = Counter()
        """How many of each command have come."""
        self.rules: list[Rule] = []
        self._errors: list[Exception] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._is_stalled = False

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        return self.server.url.replace(f"127.0.0.1:{self.server.port}", f"127.0.0.1:{self.port}")

    # --- what tests do ----------------------------------------------------------------------------------

    def on(
        self, command: str | None, fault: Fault, *, nth: int = 1, times: int | None = 1,
        containing: Text | None = None, where: Callable[[Exchange], bool] | None = None,
    ) -> Rule:  # fmt: skip
        """Do `fault` at the nth command from now on that fits; see `Rule`."""
        rule = Rule(command, fault, nth, times, containing, where)
        self.rules.append(rule)
        return rule

    def seen(self, command: str | None, *, nth: int = 1, **options: Any) -> Fact:
        """That the nth command from now on that fits has been answered."""
        return self.on(command, Fault(), nth=nth, **options).fired

    def clear(self) -> None:
        """Take all rules away, and let go on what they hold."""
        for rule in self.rules:
            rule.release()
        self.rules.clear()

    async def refuse(self) -> None:
        """Refuse new connections; those that live go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def accept(self) -> None:
        """Accept connections (again), on the same port."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._begin, *self.address)

    def stall(self) -> None:
        """Nothing passes any more, on connections that live and on new ones, until `release`."""
        self._is_stalled = True
        for connection in self.connections:
            connection.stall()

    def release(self) -> None:
        """End a `stall`: what waits goes on, as in a network that is whole again."""
        self._is_stalled = False
        for connection in self.connections:
            connection.release()

    def cut(self, *, reset: bool = False, where: Callable[[Connection], bool] | None = None) -> int:
        """End all connections, or those that fit; how many."""
        chosen = [one for one in self.connections if where is None or where(one)]
        for connection in chosen:
            connection.cut(reset=reset)
        return len(chosen)

    # --- its life -----------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End everything. Raises what has failed in a fault, such as a byte to flip that is not there."""
        await self.refuse()
        self.clear()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        errors, self._errors = self._errors, []
        if errors:
            raise ExceptionGroup("faults that could not be done", errors)

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def rule_for(self, exchange: Exchange) -> Rule | None:
        """The rule whose turn this is. Used by the connections."""
        return next((rule for rule in self.rules if rule.takes(exchange)), None)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer)
        if self._is_stalled:
            connection.stall()
        self.accepted += 1
        self.connections.append(connection)
        task = asyncio.get_running_loop().create_task(connection.run())
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._end(connection, task))

    def _end(self, connection: Connection, task: asyncio.Task[None]) -> None:
        self.connections.remove(connection)
        connection.ended.set()
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, ExceptionGroup):
            self._errors += error.exceptions
        elif error is not None:
            raise error


async def _read(reader: asyncio.StreamReader) -> bytes:
    """The next bytes; empty when the other side has ended, in whatever way."""
    with contextlib.suppress(ConnectionError):
        return await reader.read(_CHUNK)
    return b""


async def _write(writer: asyncio.StreamWriter, raw: bytes) -> None:
    """Send; to who has gone, nothing."""
    if raw and not writer.is_closing():
        with contextlib.suppress(ConnectionError):
            writer.write(raw)
            await writer.drain()
