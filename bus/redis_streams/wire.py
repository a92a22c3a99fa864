"""One connection to Redis: commands go out in one write, replies come back in order.

redis-py opens it (URL, TLS, authentication, Sentinel); then its socket is read and written here, with
hiredis: redis-py spends more on one command than the server does. Nothing is sent twice by this layer:
whoever sent something whose reply was lost is told so, and knows himself whether it may be repeated.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import hiredis
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError, ResponseError

from .errors import must_reconnect
from .scripts import Script

log = logging.getLogger("plugbus.bus")

Command = tuple[bytes | str | int, ...]
_BUFFER = 256 << 10
"""Bytes that are read at once."""
_PIECE = 60
"""Words of a command that are packed at once."""
_KEPT = 4 << 20
"""Bytes that hiredis keeps for what it reads, instead of giving them back after each large reply."""
CONNECT = 4.0
"""Seconds for one try to connect."""
_UNKNOWN = "NOSCRIPT"
pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub knows one argument


def pieces_of(command: Command) -> list[bytes | memoryview]:
    """The same as `pack`, in pieces: together they are it.

    Some hundred kilobytes at once would lie in memory that is fetched from the system and given back each
    time, every page of it a fault, which costs more than what stands there.
    """
    if len(command) <= _PIECE:
        return [pack(command)]
    pieces: list[bytes | memoryview] = [b"*%d\r\n" % len(command)]
    for at in range(0, len(command), _PIECE):
        piece = pack(command[at : at + _PIECE])
        pieces.append(memoryview(piece)[piece.index(b"\n") + 1 :])
    return pieces


def _new_reader() -> hiredis.Reader:
    reader = hiredis.Reader()
    reader.setmaxbuf(_KEPT)
    return reader


class Lost(Exception):
    """The connection went away: whether what was sent was carried out is not known."""


class Refused(Exception):
    """Redis answered with an error. `code`: its first word."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


class ScriptCall(NamedTuple):
    script: Script
    keys: Sequence[bytes | str]
    arguments: Sequence[bytes | str | int]


Answer = list[Any] | Refused
"""What a script answered, without the nonce; or why it was refused."""


class _Waiting:
    """Somebody who waits for so many replies; `done` gets them, or None if they are lost."""

    __slots__ = ("count", "done", "replies", "since")

    def __init__(self, count: int, since: float, done: Callable[[list[Any] | None], None]) -> None:
        self.count = count
        self.replies: list[Any] = []
        self.done = done
        self.since = since


class Wire(asyncio.BufferedProtocol):
    """Open it again after `Lost`. `stall`: seconds without an expected reply, then it counts as lost."""

    def __init__(self, pool: ConnectionPool, name: str, *, stall: float) -> None:
        self.name = name
        self.stall = stall
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reader = _new_reader()
        self._waiting: deque[_Waiting] = deque()
        self._nonces = itertools.count(1)
        self._watchdog: asyncio.TimerHandle | None = None
        self._held: list[bytes] | None = None
        """What is to be written when it may move again: a suspended replica sends nothing."""
        self._unread: list[bytes] = []
        self._buffer = memoryview(bytearray(_BUFFER))
        """What is read goes there: a new piece of that size for each read costs more than reading it."""
        self._gathered: list[bytes | memoryview] = []
        self._gatherings = 0
        self._former: tuple[str, ...] = ()
        """How the server knows the connection that this one replaces."""
        self._is_told = False
        """It was said that such a one cannot be ended."""
        self.on_stall: Callable[[], None] = lambda: None
        """It was closed because its peer is gone without a word: others may be no better."""
        self.heard_at = self.opened_at = 0.0
        self.opened = 0
        """How often it was connected."""

    # --- life -----------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        return self._transport is not None

    async def open(self) -> None:
        """Connect. Raises redis-py's errors, `OSError` or `TimeoutError`."""
        self.close()
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(max(self.stall, CONNECT)):
                await connection.connect()
                await self._replace_former(connection)
                transport = connection._writer.transport
        except BaseException:
            await _end(connection)
            raise
        # From here on the socket is ours; redis-py's object is let go without being closed. Its writer is
        # kept: it would close the transport when it goes.
        self._reader = _new_reader()
        transport.set_protocol(self)
        self._writer, connection._reader, connection._writer = connection._writer, None, None
        transport.resume_reading()
        self._transport = transport
        self.opened += 1
        self._loop = asyncio.get_running_loop()  # asking for it is a system call on Python 3.11
        self.heard_at = self.opened_at = self._loop.time()
        if self._held is not None:
            transport.pause_reading()

    async def _replace_former(self, connection: Any) -> None:
        """What the network still keeps of the former connection must not be carried out from now on.

        The server ends it before anything is sent over the new one. Numbers of clients begin anew with the
        server, so the address must be the same too. Who may not do that is told what it may cost.
        """
        try:
            if self._former:
                await connection.send_command("CLIENT", "KILL", *self._former)
                await connection.read_response()
        except ResponseError as error:
            if not self._is_told:
                self._is_told = True
                log.warning(
                    "%s: the former connection cannot be ended (%s): what was on its way when it was cut may"
                    " be carried out late, so that something happens twice or a partition stands still;"
                    " fix: give the user of PLUGBUS_BUS__URL the right to CLIENT KILL", self.name, error,
                )  # fmt: skip
        try:
            await connection.send_command("CLIENT", "INFO")
            said = dict(
                word.partition("=")[::2] for word in (await connection.read_response()).decode().split()
            )
            self._former = ("ID", said["id"], "ADDR", said["addr"])
        except (ResponseError, LookupError) as error:
            log.debug("%s: the server does not say who we are: %s", self.name, error)

    def close(self) -> None:
        """Safe at any time; whoever waits for a reply is told that it is lost."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
            self._reader = _new_reader()
        self._fail()

    def hold(self) -> None:
        """Neither send nor hear anything until `go_on`."""
        if self._held is None:
            self._held = []
            self._disarm()

    def go_on(self) -> None:
        held, self._held = self._held, None
        if held and self._transport is not None:
            self._transport.write(b"".join(held))
        now = self._loop.time()
        for waiting in self._waiting:
            waiting.since = now
        unread, self._unread = self._unread, []
        for data in unread:
            self._read(data)
        self._arm()

    # --- sending --------------------------------------------------------------------------------------

    def submit(self, packed: bytes, count: int, done: Callable[[list[Any] | None], None]) -> None:
        """So many commands, each made by `pack`, written at once.

        `done` is called with their replies as soon as they are read, errors among them as
        `hiredis.ReplyError`; with None where they are lost. It must not raise. Behind them goes an ECHO,
        whose reply tells whether those before it are theirs.
        """
        echo = b"%d" % next(self._nonces)

        def answered(replies: list[Any] | None) -> None:
            if replies is not None and replies.pop() != echo:  # of another command: so are all that follow
                self.close()
                replies = None
            done(replies)

        self._write([packed, pack(("ECHO", echo))], count + 1, answered)

    def _write(
        self, pieces: list[bytes | memoryview], count: int, done: Callable[[list[Any] | None], None]
    ) -> None:
        if self._transport is None:
            asyncio.get_running_loop().call_soon(done, None)
            return
        self._waiting.append(_Waiting(count, self._loop.time(), done))
        if self._gatherings:
            self._gathered += pieces
        else:
            self._put(b"".join(pieces))

    def gather(self) -> None:
        """Hold what is written back until `let_go`, in the same turn of the event loop."""
        self._gatherings += 1

    def let_go(self) -> None:
        """Send it in one write: each costs as much as ten events. Of several, the outermost sends."""
        self._gatherings -= 1
        if self._gathered and not self._gatherings:
            gathered, self._gathered = self._gathered, []
            self._put(b"".join(gathered))

    def _put(self, packed: bytes) -> None:
        if self._held is not None:
            self._held.append(packed)
        elif self._transport is not None:
            self._transport.write(packed)
            if self._watchdog is None:
                self._arm()

    def send(self, *commands: Command) -> asyncio.Future[list[Any]]:
        """The same for who awaits the replies; the future raises `Lost`."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

        def done(replies: list[Any] | None) -> None:
            if future.done():
                return
            if replies is None:
                future.set_exception(Lost(f"{self.name} was cut"))
            else:
                future.set_result(replies)

        self.submit(b"".join(map(pack, commands)), len(commands), done)
        return future

    async def ask(self, *command: bytes | str | int) -> Any:
        """One command. Raises `Lost`, `Refused`."""
        [reply] = await self.send(command)
        if isinstance(reply, hiredis.ReplyError):
            raise self._refused(reply)
        return reply

    async def ask_all(self, *commands: Command) -> list[Any]:
        """Several at once. Raises `Lost`, and `Refused` for the first that was."""
        replies = await self.send(*commands)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise self._refused(reply)
        return replies

    def submit_script(self, call: ScriptCall, done: Callable[[Answer | None], None]) -> None:
        """`done` gets what it answered, or None where that is lost; it must not raise.

        A script that the server does not know is sent whole, behind what was sent meanwhile.
        """

        def first(answer: Answer | None) -> None:
            if isinstance(answer, Refused) and answer.code == _UNKNOWN:
                self._evaluate(b"EVAL", call.script.text, call, second)
            else:
                done(answer)

        def second(answer: Answer | None) -> None:
            if isinstance(answer, Refused) and answer.code == _UNKNOWN:  # it was sent whole: of another call
                self.close()
                answer = None
            done(answer)

        self._evaluate(b"EVALSHA", call.script.sha, call, first)

    def submit_scripts(
        self, calls: Sequence[ScriptCall], done: Callable[[list[Answer] | None], None]
    ) -> None:
        """Several in one write. `done` gets what each answered, when all have; None where one is lost."""
        answers: list[Answer | None] = [None] * len(calls)
        left = len(calls)

        def answered(at: int, answer: Answer | None) -> None:
            nonlocal left
            answers[at] = answer
            left -= 1
            if not left:
                done(None if None in answers else cast("list[Answer]", answers))

        self.gather()
        try:
            for at, call in enumerate(calls):
                self.submit_script(call, functools.partial(answered, at))
        finally:
            self.let_go()

    async def run(self, calls: Sequence[ScriptCall]) -> list[Answer]:
        """The same for who awaits the answers. Raises `Lost`."""
        future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()

        def done(answers: list[Answer] | None) -> None:
            if future.done():
                return
            if answers is None:
                future.set_exception(Lost(f"{self.name} was cut"))
            else:
                future.set_result(answers)

        self.submit_scripts(calls, done)
        return await future

    async def call(self, script: Script, keys: Sequence[str], *arguments: bytes | str | int) -> list[Any]:
        """One script. Raises `Lost`, `Refused`."""
        [answer] = await self.run([ScriptCall(script, keys, arguments)])
        if isinstance(answer, Refused):
            raise answer
        return answer

    def _evaluate(
        self, how: bytes, script: bytes | str, call: ScriptCall, done: Callable[[Answer | None], None]
    ) -> None:
        nonce = b"%d" % next(self._nonces)

        def answered(replies: list[Any] | None) -> None:
            if replies is None:
                done(None)
                return
            [reply] = replies
            if type(reply) is list and reply and reply[0] == nonce:
                del reply[0]
                done(reply)
            elif isinstance(reply, hiredis.ReplyError):
                done(self._refused(reply))
            else:  # of another call: so are all that follow
                self.close()
                done(None)

        self._write(pieces_of((how, script, len(call.keys), *call.keys, nonce, *call.arguments)), 1, answered)

    def _refused(self, reply: hiredis.ReplyError) -> Refused:
        """What somebody is told; where another server has become the master, it is looked for."""
        if must_reconnect(str(reply)):
            self.close()
        return Refused(str(reply))

    # --- protocol -------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.heard_at = self._loop.time()
        if self._held is None:
            self._read(self._buffer[:nbytes])
        else:
            self._unread.append(bytes(self._buffer[:nbytes]))

    def _read(self, data: bytes | memoryview) -> None:
        reader = self._reader
        try:
            reader.feed(data)  # type: ignore[arg-type]  # any bytes-like, which its stub does not know
            while (reply := reader.gets()) is not False:
                if not self._waiting:  # a reply that nobody waits for
                    self.close()
                    return
                waiting = self._waiting[0]
                waiting.replies.append(reply)
                if len(waiting.replies) == waiting.count:
                    self._waiting.popleft()
                    self._tell(waiting, waiting.replies)
                    if self._reader is not reader:
                        return  # it was cut meanwhile, and perhaps opened again
        except hiredis.HiredisError:
            self.close()
        except BaseException:  # e.g. SystemExit of a publisher: what was read behind it is told all the same
            self._loop.call_soon(self._read, b"")
            raise

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail()

    def _fail(self) -> None:
        self._disarm()
        self._unread, self._gathered = [], []
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            self._tell(one, None)

    def _tell(self, waiting: _Waiting, replies: list[Any] | None) -> None:
        """Whoever cannot do with his answer does not take it away from those behind him."""
        try:
            waiting.done(replies)
        except Exception:
            log.exception("%s: an answer could not be used", self.name)

    def _arm(self) -> None:
        if self._waiting:
            due = self._waiting[0].since + self.stall
            self._watchdog = self._loop.call_at(due, self._look)

    def _disarm(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _look(self) -> None:
        """A peer that is gone without a word is noticed here, since nobody waits with a timer of his own."""
        self._watchdog = None
        if self._waiting and self._held is None:
            if self._loop.time() - self._waiting[0].since >= self.stall:
                self.close()
                self.on_stall()
            else:
                self._arm()


async def _end(connection: Any) -> None:
    try:
        await connection.disconnect(nowait=True)
    except (RedisError, OSError):
        connection._reader = connection._writer = None
