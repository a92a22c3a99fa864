"""Events to a client as they come: Server-Sent Events from a tail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from contracts.bus import Tail, TailItem

from .cloudevents import render
from .filters import Filter, wanted

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

    def __init__(
        self, tail: Tail, stopping: asyncio.Event, keep_alive: float, filters: Sequence[Filter] = ()
    ) -> None:
        self._frames = frames(tail, stopping, keep_alive, Framing(filters))
        super().__init__(self._frames, headers=_HEADERS)
        self._tail = tail

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._tail.close()
            await self._frames.aclose()


class Framing:
    """Events as frames; of those that are filtered out only what was missed before them, and their place."""

    def __init__(self, filters: Sequence[Filter] = ()) -> None:
        self._filters = filters
        self._passed = ""
        """Position of the last event, where that was filtered out: the client does not know it yet."""

    def __call__(self, item: TailItem) -> str:
        if not self._filters or wanted(self._filters, item):
            self._passed = ""
            return frame(item)
        self._passed = item.position
        return gap(item)

    def keep_alive(self) -> str:
        """A comment; with the place that was reached, from which a client that comes back goes on."""
        place, self._passed = f"id: {self._passed}\n" if self._passed else "", ""
        return f"{place}: keep-alive\n\n"


async def frames(
    tail: Tail, stopping: asyncio.Event, keep_alive: float, framed: Framing
) -> AsyncGenerator[str, None]:
    """The text of the stream, in pieces that each end with a whole frame.

    A comment is sent after `keep_alive` silent seconds; at the end a `bye` with which a browser comes
    back after a second, and goes on from its last id.
    """
    now = asyncio.get_running_loop().time
    ending = asyncio.create_task(_until(stopping), name="event stream: until stopping")
    waiting: asyncio.Task[TailItem | None] | None = None
    try:
        yield ": listening\n\n"
        silent_since = now()
        while not stopping.is_set():
            if waiting is None:  # else the next item may already be in its hands
                for piece in pieces(tail.read_nowait(), framed):
                    yield piece
                    silent_since = now()
                waiting = asyncio.create_task(_next(tail), name="event stream: next event")
            rest = max(0.0, silent_since + keep_alive - now())
            done, _ = await asyncio.wait((waiting, ending), timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            if waiting in done:
                item, waiting = waiting.result(), None
                if item is None:
                    break
                if text := framed(item):
                    yield text
                    silent_since = now()
            if now() - silent_since >= keep_alive:  # also where all that comes is filtered out
                yield framed.keep_alive()
                silent_since = now()
        yield _BYE
    finally:
        tail.close()
        await _cancel(ending, waiting)


def pieces(items: Iterable[TailItem], framed: Callable[[TailItem], str]) -> Iterator[str]:
    """Frames put together to pieces of about 64 KiB, made one at a time."""
    piece, size = [], 0
    for item in items:
        piece.append(framed(item))
        size += len(piece[-1])
        if size >= _CHUNK:
            yield "".join(piece)
            piece, size = [], 0
    if size:
        yield "".join(piece)


def frame(item: TailItem) -> str:
    """One event, after the gap before it if there is one."""
    data = render(item).translate(_LINE_ENDS)
    return f"{gap(item)}event: event\nid: {item.position}\ndata: {data}\n\n"


def gap(item: TailItem) -> str:
    """How many were missed before this one, if any: trimmed before they could be read."""
    return f"event: gap\ndata: {json.dumps({'missed': item.missed})}\n\n" if item.missed else ""


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
