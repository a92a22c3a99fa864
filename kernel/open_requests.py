"""The requests that an application is answering, and how they end when it goes.

An ordinary request is finished. Who would stay for ever is told at once: a WebSocket is closed, an event
stream hears that its client has left. What is open after the grace all the same is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from contracts.errors import PluginNotReady
from contracts.web import ASGIApp

Message = MutableMapping[str, Any]

GOING_AWAY = 1001
SERVICE_RESTART = 1012
"""Close codes of WebSockets (RFC 6455 and its registry)."""
CUT_GRACE = 1.0
"""Seconds in which a request that was cut may clean up."""


class OpenRequests:
    """An ASGI application that hands everything to `app` and knows what is open."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open: set[_Request] = set()
        self._emptied: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._open)

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        request = _Request(scope["type"] == "websocket", receive, send)
        self._open.add(request)
        try:
            await self._app(scope, request.receive, request.send)
            if request.is_told:
                await request.finish()
        except asyncio.CancelledError:
            if not request.is_cut():  # the server gives it up
                raise
            if request.is_told:
                await request.finish()
            elif not request.is_websocket:
                raise PluginNotReady("the plugin was stopped before it had answered") from None
        finally:
            self._open.discard(request)
            if self._emptied is not None and not self._open:
                self._emptied.set()

    async def close(self, grace: float, code: int = GOING_AWAY) -> int:
        """Return when nothing is open; how many had to be cut. Nobody may call the application any more.

        `code` is what WebSockets are closed with.
        """
        if not self._open:
            return 0
        self._emptied = asyncio.Event()
        try:
            async with asyncio.timeout(grace):
                await asyncio.gather(*(request.take_leave(code) for request in list(self._open)))
                await self._emptied.wait()
        except TimeoutError:
            pass
        cut = list(self._open)
        for request in cut:
            request.cut()
        try:
            async with asyncio.timeout(CUT_GRACE):
                if cut:
                    await self._emptied.wait()
        except TimeoutError:
            pass  # it swallows its cancellation; a leak of the plugin, which its unloading names
        return len(cut)


class _Request:
    """One open request. `receive` and `send` stand in for those of the server."""

    __slots__ = (
        "_code",
        "_cut",
        "_last",
        "_listening",
        "_receive",
        "_send",
        "_start",
        "_task",
        "is_websocket",
    )

    def __init__(
        self, is_websocket: bool, receive: Callable[[], Awaitable[Message]], send: Callable[..., Any]
    ) -> None:
        self.is_websocket = is_websocket
        self._receive = receive
        self._send = send
        self._start: Message | None = None
        self._last: Message = {}
        self._task = asyncio.current_task()
        self._listening: asyncio.Task[Any] | None = None
        """The task that waits for the client's next message."""
        self._code = 0
        """Not 0 once it was told that it is over."""
        self._cut = False

    async def receive(self) -> Message:
        if self._code:
            return self._gone()
        listening = self._listening = asyncio.current_task()
        try:
            return await self._receive()
        except asyncio.CancelledError:
            # Woken by `take_leave`, unless somebody else cancels as well.
            if not self._code or self._cut or listening is None or listening.uncancel() > 0:
                raise
            return self._gone()
        finally:
            self._listening = None

    def _gone(self) -> Message:
        if self.is_websocket:
            return {"type": "websocket.disconnect", "code": self._code, "reason": "the plugin is stopped"}
        return {"type": "http.disconnect"}

    @property
    def is_told(self) -> bool:
        return self._code != 0

    async def finish(self) -> None:
        """End an event stream for the client as well: its application has only stopped."""
        if self.is_websocket:
            return
        if self._start is not None and (self._last is self._start or self._last.get("more_body", False)):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send(self, message: Message) -> None:
        self._last = message
        if message["type"] == "http.response.start":
            self._start = message
        if self._code and self.is_websocket:
            if message["type"] == "websocket.close":
                return
            raise OSError("the WebSocket was closed: the plugin is stopped")
        await self._send(message)

    async def take_leave(self, code: int) -> None:
        """Tell the client and the application that it is over, where that would not be an interruption."""
        if not (self.is_websocket or self._streams_events()):
            return
        self._code = code
        if self._listening is not None:
            self._listening.cancel()
        if self.is_websocket:
            await self._say_close(code)

    async def _say_close(self, code: int) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # it has closed by itself meanwhile
            await self._send({"type": "websocket.close", "code": code, "reason": "the plugin is stopped"})

    def _streams_events(self) -> bool:
        headers = self._start.get("headers", ()) if self._start is not None else ()
        return any(
            name.lower() == b"content-type" and value.startswith(b"text/event-stream")
            for name, value in headers
        )

    def cut(self) -> None:
        if self._task is not None:
            self._cut = True
            self._task.cancel()

    def is_cut(self) -> bool:
        """Whether the cancellation that was just caught is our own, and no other one is pending."""
        return self._cut and self._task is not None and self._task.uncancel() == 0
