"""A small edge context in place of the kernel's, so that the gateway is tested by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import JsonValue

from contracts.bus import CatalogEntry, TailItem
from contracts.envelope import Envelope
from contracts.errors import NoProvider, PermissionDeniedError
from contracts.event import EventData, Receipt
from contracts.metadata import PluginMetadata
from contracts.patterns import RESERVED_TOPICS, check_pattern, topic_of
from contracts.query import Query
from contracts.web import EdgeApplication, WebMount
from plugins.gateway.app import create_app
from plugins.gateway.config import GatewayConfig
from plugins.gateway.gateway import Gateway

TOKENS = {
    "t-read": frozenset({"read"}),
    "t-publish": frozenset({"publish"}),
    "t-operate": frozenset({"read", "operate"}),
    "t-all": frozenset({"read", "publish", "operate", "admin"}),
}


class Log:
    """What has happened, and tails on it; positions are indexes."""

    def __init__(self) -> None:
        self.items: list[TailItem] = []
        self.tails: list[LogTail] = []
        self.changed = asyncio.Event()

    def add(self, envelope: Envelope, data: EventData, *, missed: int = 0) -> str:
        position = str(len(self.items) + 1)
        item = TailItem(
            envelope=envelope, version=data.version, data=data.data, position=position, missed=missed
        )
        self.items.append(item)
        self.wake()
        return position

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class LogTail:
    def __init__(self, log: Log, patterns: tuple[str, ...], position: str | None) -> None:
        self.patterns = tuple(check_pattern(pattern) for pattern in patterns)
        self.at = len(log.items) if position is None else 0 if position == "oldest" else int(position)
        self.closed = False
        self._log = log
        log.tails.append(self)
        log.wake()

    def __aiter__(self) -> "LogTail":
        return self

    async def __anext__(self) -> TailItem:
        while not self.closed and self.at >= len(self._log.items):
            await self._log.changed.wait()
        if self.closed:
            raise StopAsyncIteration
        self.at += 1
        return self._log.items[self.at - 1]

    def read_nowait(self) -> list[TailItem]:
        found, self.at = self._log.items[self.at : self.at + 100], min(self.at + 100, len(self._log.items))
        return found

    def close(self) -> None:
        self.closed = True
        self._log.wake()


class Mounts:
    """The table of mounts."""

    def __init__(self) -> None:
        self.version = 0
        self._table: dict[str, WebMount] = {}

    def put(self, mount: WebMount) -> None:
        self._table[mount.plugin_id] = mount
        self.version += 1

    def get(self, plugin_id: str) -> WebMount | None:
        return self._table.get(plugin_id)

    def __iter__(self) -> Iterator[WebMount]:
        return iter(list(self._table.values()))


class FakeContext:
    """Answers queries from `answers` (capability → answer, error, or function of the query)."""

    metadata = PluginMetadata(plugin_id="gateway", version="1.0.0")
    generation = 1
    requests: Any = ()  # nobody sees requests first

    def __init__(self, state_dir: Path, config: Mapping[str, JsonValue] | None = None) -> None:
        self.state_dir = state_dir
        self.config = {"port": 0, **(config or {})}
        self.mounts = Mounts()
        self.log = Log()
        self.stopping = asyncio.Event()
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Any, float]] = []
        self.relayed: list[tuple[Envelope, EventData]] = []
        self.relay_error: Exception | None = None
        self.relays = 0
        """How many events are taken before `relay_error`."""
        self.types: list[CatalogEntry] = []
        self._undo: list[Callable[[], Any]] = []

    def hand_over(self, edge: EdgeApplication) -> bool:
        return False

    def rights(self, token: str) -> frozenset[str]:
        return TOKENS.get(token, frozenset())

    def check_relay(self, envelope: Envelope, event: EventData) -> None:
        if topic_of(envelope.type) in RESERVED_TOPICS:
            raise PermissionDeniedError(f"{envelope.type} is reserved", plugin_id="gateway", action="relay")

    async def relay(self, envelope: Envelope, event: EventData, *, timeout: float = 5.0) -> Receipt:
        if self.relay_error and len(self.relayed) >= self.relays:
            raise self.relay_error
        self.check_relay(envelope, event)
        known = [(e.source, e.id) for e, _ in self.relayed]
        duplicate = (envelope.source, envelope.id) in known
        if not duplicate:
            self.relayed.append((envelope, event))
            return Receipt(envelope.id, self.log.add(envelope, event))
        return Receipt(envelope.id, str(known.index((envelope.source, envelope.id)) + 1), duplicate=True)

    async def request(self, query: Query[Any], *, timeout: float = 5.0, target: str = "any") -> Any:
        return self._answer(type(query).__capability__, query, timeout)

    async def request_data(
        self, capability: str, data: Mapping[str, JsonValue], *, timeout: float = 5.0
    ) -> JsonValue:
        return self._answer(capability, data, timeout)

    def _answer(self, capability: str, query: Any, timeout: float) -> Any:
        self.asked.append((capability, query, timeout))
        if capability not in self.answers:
            raise NoProvider(f"nobody provides {capability!r}", capability=capability)
        answer = self.answers[capability]
        answer = answer(query) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def event_types(self, type_name: str) -> list[CatalogEntry]:
        return [entry for entry in self.types if entry.type == type_name]

    def tail(self, *patterns: str, position: str | None = None) -> LogTail:
        return LogTail(self.log, patterns, position)

    def spawn(self, coro: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(coro, name=name)
        self._undo.append(lambda: self._end(task))
        return task

    def on_close(self, undo: Callable[[], Any]) -> None:
        self._undo.append(undo)

    async def close(self) -> None:
        while self._undo:
            result = self._undo.pop()()
            if result is not None:
                await result

    async def _end(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
async def context(tmp_path: Path) -> FakeContext:
    return FakeContext(tmp_path)


@pytest.fixture
async def app(context: FakeContext) -> Any:
    return create_app(context, GatewayConfig.read(context.config))  # type: ignore[arg-type]


@pytest.fixture
async def http(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client with all rights; the application's errors are answers, never exceptions."""
    headers = {"Authorization": "Bearer t-all"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://edge", headers=headers
    ) as client:
        yield client


@pytest.fixture
async def start_gateway(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Start a gateway on a real socket; stopped, and its context undone, at the end."""
    running: list[Gateway] = []

    async def start(**config: JsonValue) -> Gateway:
        gateway = Gateway(FakeContext.metadata)
        gateway.context = FakeContext(tmp_path, config)  # type: ignore[assignment]
        await gateway.start()
        running.append(gateway)
        return gateway

    yield start
    for gateway in running:
        await stop_gateway(gateway)


async def stop_gateway(gateway: Gateway) -> None:
    """As the kernel does it. Safe twice."""
    gateway.context.stopping.set()
    await gateway.stop()
    await gateway.context.close()  # type: ignore[attr-defined]


@pytest.fixture
def stop() -> Callable[[Gateway], Coroutine[Any, Any, None]]:
    return stop_gateway


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client for real sockets."""
    headers = {"Authorization": "Bearer t-all"}
    async with httpx.AsyncClient(headers=headers, timeout=10) as real:
        yield real
