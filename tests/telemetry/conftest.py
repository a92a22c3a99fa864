"""A real SDK that keeps what was traced, and a bus of each kind."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))
sys.path.append(str(Path(__file__).resolve().parent))

from fault_tools.servers import Server, shared_server

import bus.tracing
from bus.memory import MemoryBroker, MemoryBus
from bus.redis_streams import RedisBus
from contracts.bus import BusLimits, EventBus
from contracts.tracing import SCHEMA, TRACING
from plugins.telemetry.provider import Provider

LIMITS = BusLimits(lease=2.0, partitions=2)


class Spans:
    """What was traced, in the order in which it ended."""

    def __init__(self, provider: TracerProvider) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = provider
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]


@pytest.fixture(params=["ours", "the application's"])
def spans(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """By the plugin's own provider, and by the SDK's, which an application may have."""
    sampler = ParentBased(ALWAYS_ON)
    is_ours = request.param == "ours"
    spans = Spans(Provider(Resource.create(), sampler) if is_ours else TracerProvider(sampler=sampler))
    tracer = spans.provider.get_tracer("plugbus", schema_url=SCHEMA)
    monkeypatch.setattr(bus.tracing, "tracer", lambda: tracer)
    monkeypatch.setattr(TRACING, "is_on", True)
    yield spans
    spans.provider.shutdown()


@pytest.fixture(scope="session", autouse=True)
def server() -> Server:
    return shared_server("6.2")


@pytest.fixture(params=["inmemory", "redis"])
def system(request: pytest.FixtureRequest) -> str:
    """What `messaging.system` says."""
    return str(request.param)


@pytest.fixture
async def event_bus(system: str, request: pytest.FixtureRequest) -> AsyncIterator[EventBus]:
    if system == "redis":
        server: Server = request.getfixturevalue("server")
        server.command("FLUSHALL")
        bus: EventBus = RedisBus(server.url, limits=LIMITS)
    else:
        bus = MemoryBus(MemoryBroker(limits=LIMITS))
    await bus.open()
    yield bus
    await bus.close()
