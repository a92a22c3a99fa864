"""The bell: one blocking read over everything that may have news. It owns nothing.

So cutting or cancelling it loses nothing: whoever it has woken looks himself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import hiredis

from .background import keep_on
from .layout import order_of
from .link import BLOCK
from .wire import Lost, Refused, pack

if TYPE_CHECKING:
    from .core import Core

log = logging.getLogger("plugbus.bus")

_AGAIN = 0.05
"""Seconds until it is nudged again, after the connection for that was cut."""
_LATER = 0.1
"""Seconds without anything new in a stream until it is listened to where nobody else publishes."""


class Listener(Protocol):
    """Somebody who has read a stream to its end."""

    topic: str
    number: int
    last: bytes
    is_dry: bool


class Bell:
    """Rings for listeners, for news of the bus, and for the replica's inbox."""

    def __init__(
        self, core: Core, ring: Callable[[Any, list[Any]], None], news: Callable[[bytes | None], None]
    ) -> None:  # fmt: skip
        self._core = core
        self._wire = core.link.bell
        self._ring = ring
        self._news = news
        self._listeners: dict[bytes, dict[Any, None]] = {}
        """By stream."""
        self._asked: dict[bytes, bytes] = {}
        """What the read that is under way waits for: stream → behind which entry."""
        self._client = 0
        self._opened = 0
        self._nudged = False
        self.news_at = b"0-0"
        self.inbox_at = b"0-0"
        self.letters: Callable[[list[Any]], None] = lambda entries: None
        self._task: asyncio.Task[None] | None = None
        self._late: dict[Any, float] = {}
        """Who is listened for only from a moment on."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()  # asking for it is a system call on Python 3.11
        self._task = self._loop.create_task(
            keep_on("the bell", self._turn, lambda: self._core.is_closed), name="plugbus:redis:bell"
        )

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    # --- listeners ----------------------------------------------------------------------------------

    def listen(self, listener: Any) -> None:
        """Ring when there is something behind `listener.last`."""
        key = self._core.keys.stream(listener.topic, listener.number).encode()
        self._listeners.setdefault(key, {})[listener] = None
        asked = self._asked.get(key)
        if self._asked and (asked is None or order_of(asked) > order_of(listener.last)):
            self.nudge()

    def listen_later(self, listener: Any) -> None:
        """The same, for who looks himself whenever this bus publishes something.

        As long as no other replica is there, nothing else is expected, and the bell would ring behind each
        event whose fetch has gone out with it. So it is listened to when that has ceased for a while.
        """
        if self._core.members.is_alone:
            self.forget(listener)
            self._late[listener] = self._loop.time() + _LATER
            if self._timer is None:
                self._timer = self._loop.call_later(_LATER, self._look_for_late)
        else:
            self.listen(listener)

    def hurry(self) -> None:
        """Somebody else may have something for those that would be listened for later."""
        late, self._late = self._late, {}
        for listener in late:
            if listener.is_dry:
                self.listen(listener)

    def _look_for_late(self) -> None:
        self._timer = None
        now = self._loop.time()
        for listener, due in list(self._late.items()):
            if due <= now or not listener.is_dry:
                del self._late[listener]
                if listener.is_dry:
                    self.listen(listener)
        if self._late:
            self._timer = self._loop.call_at(min(self._late.values()), self._look_for_late)

    def hears(self, listener: Any) -> bool:
        """Whether it rings for this one."""
        if listener in self._late:
            return True
        key = self._core.keys.stream(listener.topic, listener.number).encode()
        return listener in self._listeners.get(key, ())

    def forget(self, listener: Any) -> None:
        self._late.pop(listener, None)
        key = self._core.keys.stream(listener.topic, listener.number).encode()
        there = self._listeners.get(key)
        if there is not None:
            there.pop(listener, None)
            if not there:
                del self._listeners[key]

    def nudge(self) -> None:
        """Have it ask anew, with whoever listens now."""
        link = self._core.link
        wire = next((wire for wire in (link.control, link.events) if wire.is_up), None)
        if self._client and not self._nudged:
            self._nudged = True
            if wire is None:
                self._core.later(_AGAIN, self._nudge_again)
            else:
                future = wire.send(("CLIENT", "UNBLOCK", self._client))
                future.add_done_callback(self._was_nudged)

    def _was_nudged(self, future: asyncio.Future[list[Any]]) -> None:
        is_lost = future.cancelled() or future.exception() is not None
        if is_lost or future.result()[0] == 0:  # perhaps its read had not arrived yet
            self._core.later(_AGAIN if is_lost else 0.001, self._nudge_again)
        else:
            self._nudged = False

    def _nudge_again(self) -> None:
        self._nudged = False
        if self._is_behind:
            self.nudge()

    @property
    def _is_behind(self) -> bool:
        """It waits for less than what is listened for."""
        return bool(self._asked) and any(
            key not in self._asked or order_of(self._asked[key]) > order_of(one.last)
            for key, there in self._listeners.items()
            for one in there
            if one.is_dry
        )

    # --- the loop -----------------------------------------------------------------------------------

    async def _turn(self) -> None:
        if not self._wire.is_up:
            await self._core.link.ready(self._wire)
        try:
            if self._wire.opened != self._opened:
                await self._begin()
            await self._wait()
            await asyncio.sleep(0)  # a handler that was woken meanwhile goes first
            await self._core.reader.round()
        except Lost:
            return
        except Refused as error:
            log.debug("the bell: %s", error)
            if "WRONGTYPE" in str(error):
                await self._leave_out_wrong()
            await asyncio.sleep(0.1 if not str(error).startswith("UNBLOCKED") else 0)

    async def _begin(self) -> None:
        """A new connection; what was told meanwhile is looked up at once."""
        self._client = await self._wire.ask("CLIENT", "ID")
        last = await self._wire.ask("XREVRANGE", self._core.keys.news, "+", "-", "COUNT", 1)
        self.news_at = last[0][0] if last else b"0-0"
        self._opened = self._wire.opened
        self._news(None)

    async def _wait(self) -> None:
        keys = self._core.keys
        asked = {
            key: min((one.last for one in there if one.is_dry), key=order_of)
            for key, there in self._listeners.items() if any(one.is_dry for one in there)
        }  # fmt: skip
        asked[keys.news.encode()] = self.news_at
        asked[keys.inbox(self._core.replica).encode()] = self.inbox_at
        self._asked = asked
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(replies: list[Any] | None) -> None:
            """Rings as soon as the answer is read, before this task has its turn."""
            self._asked = {}
            if future.done():
                return
            if replies is None:
                future.set_exception(Lost("the bell was cut"))
            elif isinstance(replies[0], hiredis.ReplyError):
                future.set_exception(Refused(str(replies[0])))
            else:
                future.set_result(None)
                self._tell(replies[0] or (), asked)

        read = ("XREAD", "COUNT", 1, "BLOCK", int(BLOCK * 1e3), "STREAMS", *asked, *asked.values())
        self._wire.submit(pack(read), 1, done)
        await future

    async def _leave_out_wrong(self) -> None:
        """A key that is no stream must not keep the others from ringing."""
        for key in list(self._listeners):
            try:
                kind = await self._core.link.control.ask("TYPE", key)
            except (Lost, Refused) as error:
                log.debug("the bell: %s", error)
                return
            if kind not in (b"stream", b"none"):
                for listener in self._listeners.pop(key):
                    listener.is_dry = False
                    self._ring(listener, [])

    def _tell(self, found: Sequence[Any], asked: dict[bytes, bytes]) -> None:
        keys = self._core.keys
        news, inbox = keys.news.encode(), keys.inbox(self._core.replica).encode()
        for key, entries in found:
            if key == news:
                self.news_at, fields = entries[-1]
                self._news(fields[1])
            elif key == inbox:
                self.letters(entries)
            else:
                first, behind = order_of(entries[0][0]), order_of(asked[key])
                for listener in list(self._listeners.get(key, ())):
                    last = order_of(listener.last)
                    if last < first:  # else it has read that already, and listens on
                        self.forget(listener)
                        listener.is_dry = False
                        self._ring(listener, entries if last >= behind else [])  # it came later: not its next
