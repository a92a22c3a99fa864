"""Requests that are open when their plugin goes: finished, told, or cut within the grace."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import APIRouter, FastAPI, WebSocket, WebSocketDisconnect
from starlette.responses import StreamingResponse
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from contracts.errors import PluginNotReady
from kernel.open_requests import SERVICE_RESTART, OpenRequests


class Site:
    """An application with a request that waits, an event stream and a WebSocket, on a real server."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.left: list[Any] = []
        self.requests = OpenRequests(self._app())
        self.url = ""

    def _app(self) -> FastAPI:
        app, router = FastAPI(), APIRouter()

        @router.post("/slow")
        async def slow() -> str:
            self.entered.set()
            await self.go_on.wait()
            return "finished"

        @router.get("/stream")
        async def stream() -> StreamingResponse:
            return StreamingResponse(self._ticks(), media_type="text/event-stream")

        @router.websocket("/echo")
        async def echo(socket: WebSocket) -> None:
            await socket.accept()
            self.entered.set()
            try:
                while True:
                    await socket.send_text(await socket.receive_text())
            except WebSocketDisconnect as gone:
                self.left.append(gone.code)

        @router.websocket("/deaf")
        async def deaf(socket: WebSocket) -> None:
            await socket.accept()
            self.entered.set()
            try:
                await self.go_on.wait()
            finally:
                self.left.append("cut")

        app.include_router(router)
        return app

    async def _ticks(self) -> AsyncIterator[str]:
        try:
            yield "data: 1\n\n"
            self.entered.set()
            await self.go_on.wait()
        finally:
            self.left.append("stream")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    server = uvicorn.Server(uvicorn.Config(made.requests, log_config=None, lifespan="off"))
    sock = socket.create_server(("127.0.0.1", 0))
    made.url = f"127.0.0.1:{sock.getsockname()[1]}"
    serving = asyncio.create_task(server.serve([sock]))
    yield made
    made.go_on.set()
    server.should_exit = True
    await serving


async def test_a_request_is_finished(site: Site) -> None:
    """Closing waits for it, and cuts nothing."""
    async with httpx.AsyncClient(base_url=f"http://{site.url}") as client:
        asking = asyncio.create_task(client.post("/slow", json={}))
        await site.entered.wait()
        closing = asyncio.create_task(site.requests.close(10))
        asyncio.get_running_loop().call_soon(site.go_on.set)
        assert (await asking).json() == "finished"
        assert await closing == 0


@pytest.mark.parametrize("code", [1001, SERVICE_RESTART])
async def test_a_websocket_is_closed_in_good_order(site: Site, code: int) -> None:
    """The client is told why, and the application that the client has left."""
    async with connect(f"ws://{site.url}/echo") as client:
        await client.send("hello")
        assert await client.recv() == "hello"
        assert await site.requests.close(10, code) == 0
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, "the plugin is stopped")
    assert site.left == [code]


async def test_an_event_stream_ends(site: Site) -> None:
    """It is not waited for: it would never end by itself."""
    async with (
        httpx.AsyncClient(base_url=f"http://{site.url}") as client,
        client.stream("GET", "/stream") as stream,
    ):
        await site.entered.wait()
        assert await site.requests.close(10) == 0
        assert [line async for line in stream.aiter_lines()] == ["data: 1", ""]
    assert site.left == ["stream"]


async def test_what_does_not_end_is_cut(site: Site) -> None:
    """A WebSocket to which nobody listens is closed for the client at once, and cut after the grace."""
    async with connect(f"ws://{site.url}/deaf") as client:
        await site.entered.wait()
        closing = asyncio.create_task(site.requests.close(0.05))
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert await closing == 1
    assert site.left == ["cut"]
    assert len(site.requests) == 0


@pytest.fixture
async def waiting() -> AsyncIterator[tuple[OpenRequests, asyncio.Task[None], list[Any]]]:
    """One request that is open, without a server."""
    entered, sent = asyncio.Event(), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    requests = OpenRequests(app)
    task = asyncio.create_task(requests({"type": "http"}, send, send))
    await entered.wait()
    yield requests, task, sent
    task.cancel()
    await asyncio.wait([task])


async def test_a_request_that_is_cut_is_an_error_to_be_answered(waiting: Any) -> None:
    """`PluginNotReady`, which the edge answers with 503; the server's task is not cancelled by it."""
    requests, task, sent = waiting
    assert await requests.close(0.01) == 1
    with pytest.raises(PluginNotReady):
        await task
    assert (sent, task.cancelling()) == ([], 0)


async def test_a_request_that_the_server_gives_up_is_cancelled(waiting: Any) -> None:
    """Also while closing waits for it."""
    requests, task, _ = waiting
    closing = asyncio.create_task(requests.close(10))
    await asyncio.sleep(0)
    task.cancel()
    assert await closing == 0
    assert task.cancelled()


async def test_an_event_stream_that_hears_nothing_is_ended_for_the_client() -> None:
    """Its application is cut after the grace, and the response is whole all the same."""
    started, sent = asyncio.Event(), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        started.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    requests = OpenRequests(app)
    task = asyncio.create_task(requests({"type": "http"}, send, send))
    await started.wait()
    assert await requests.close(0.01) == 1
    await task
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
