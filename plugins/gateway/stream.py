"""Events to a client as they come: Server-Sent Events from a tail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Iterator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from contracts.bus import Tail, TailItem

from .cloudevents import render

_CHUNK = 65_536
_BYE = "event: bye\nretry: 1000\ndata: {}\n\n"
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})
"""Not line ends to the standard, but many clients split there; in JSON they can only stand in strings."""
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventStream(StreamingResponse):
    """A response that goes on until the client leaves, the tail is closed, or `stopping` is set.

    It owns `tail`. Nothing is queued for a slow client: the tail is read when the last piece was taken.
    """

    media_type = "text/event-stream"

    def __init__(self, tail: Tail, stopping: asyncio.Event, keep_alive: float) -> None:
        self._frames = frames(tail, stopping, keep_alive)
        super().__init__(self._frames, headers=_HEADERS)
        self._tail = tail

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._tail.close()
            await self._frames.aclose()


async def frames(tail: Tail, stopping: asyncio.Event, keep_alive: float) -> AsyncGenerator[str, None]:
    """The text of the stream, in pieces that each end with a whole frame.

    A comment is sent after `keep_alive` silent seconds; at the end a `bye` with which a browser comes
    back after a second, and goes on from its last id.
    """
    ending = asyncio.create_task(_until(stopping), name="event stream: until stopping")
    waiting: asyncio.Task[TailItem | None] | None = None
    try:
        yield ": listening\n\n"
        while not stopping.is_set():
            if waiting is None:  # else the next item may already be in its hands
                for piece in pieces(tail.read_nowait()):
                    yield piece
                waiting = asyncio.create_task(_next(tail), name="event stream: next event")
            done, _ = await asyncio.wait(
                (waiting, ending), timeout=keep_alive, return_when=asyncio.FIRST_COMPLETED
            )
            if waiting in done:
                item, waiting = waiting.result(), None
                if item is None:
                    break
                yield frame(item)
            elif not done:
                yield ": keep-alive\n\n"
        yield _BYE
    finally:
        tail.close()
        await _cancel(ending, waiting)


def pieces(items: Iterable[TailItem]) -> Iterator[str]:
    """Frames put together to pieces of about 64 KiB, made one at a time."""
    piece, size = [], 0
    for item in items:
        piece.append(frame(item))
        size += len(piece[-1])
        if size >= _CHUNK:
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


def frame(item: TailItem) -> str:
    """One event, after the gap before it if there is one."""
    gap = f"event: gap\ndata: {json.dumps({'missed': item.missed})}\n\n" if item.missed else ""
    data = render(item).translate(_LINE_ENDS)
    return f"{gap}event: event\nid: {item.position}\ndata: {data}\n\n"


async def _until(stopping: asyncio.Event) -> None:
    await stopping.wait()


async def _next(tail: Tail) -> TailItem | None:
    try:
        return await tail.__anext__()
    except StopAsyncIteration:
        return None


async def _cancel(*tasks: asyncio.Task[TailItem | None] | asyncio.Task[None] | None) -> None:
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
