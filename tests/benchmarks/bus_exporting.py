"""What a bad backend of traces costs the bus: `python tests/benchmarks/bus_exporting.py`.

Publish to handled on the memory bus, traced as the plugin does it, with its exporter and the SDK's defaults,
for some seconds: hops a second, and processor time of the process for each, its exporting thread included.
The backend is another process: one that takes everything at once; none; one that answers after five seconds;
one that says 500. Each is compared with the good one of the same round: the median, and between what it lay.
`exit`: seconds from the end of the work until the process was gone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bus_memory import BURST, EVENTS
from rounds import Result, all_rounds, medians, table

from bus.memory import MemoryBus
from contracts.bus import SubscriptionSpec
from contracts.message import PluginEvent
from contracts.tracing import TRACING

BACKENDS = ("good", "down", "slow", "500")
SHARES = {"1 %": "0.01", "100 %": "1"}
CASES = [f"{share}, {backend}" for share in SHARES for backend in BACKENDS]
FLOOR = 0.98
"""Of what is handled a second with a good backend."""
SLOW = 5.0
SPEC = SubscriptionSpec(group="bench.handle", plugin_id="bench", handler="handle", patterns=("bench.trade",))


def serve(backend: str) -> None:
    """Be a backend; the port is the first line of what is said."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if backend == "slow":
                time.sleep(SLOW)
            self.send_response(500 if backend == "500" else 200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


@contextlib.contextmanager
def running(backend: str) -> Iterator[str]:
    """Its address. Of one that is down: where nobody listens."""
    command = [sys.executable, str(Path(__file__)), "--serve", backend]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ourselves
    assert process.stdout is not None
    url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
    if backend == "down":
        process.kill()
        process.wait()
    try:
        yield url
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def play(case: str, seconds: float) -> Result:
    """One case in a process of its own, so that its end can be seen as well."""
    share, _, backend = case.partition(", ")
    with running(backend) as url:
        environment = {
            **os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": SHARES[share],
        }  # fmt: skip
        command = [sys.executable, str(Path(__file__)), "--work", str(seconds)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
        gone = time.monotonic()
    result: Result = json.loads(done.stdout)
    result["exit"] = gone - result.pop("end")
    return result


async def work(seconds: float) -> Result:
    from plugins.telemetry.backend import within
    from plugins.telemetry.gate import Gate
    from plugins.telemetry.record import FlowRecord
    from plugins.telemetry.telemetry import provider_in_force
    from plugins.telemetry.traces import exporting

    export = exporting(os.environ)
    assert export is not None
    provider_in_force()[0].add_span_processor(Gate(FlowRecord(20_000), export.processor))
    TRACING.turn_on()
    hops = calls = 0

    async def handle(event: PluginEvent) -> None:
        nonlocal calls
        calls += 1

    async with MemoryBus() as bus:
        await bus.subscribe(SPEC, handle)
        began, used = time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            calls = 0
            for event in EVENTS:
                await bus.publish(event, source="/bench")
            while calls < BURST:  # noqa: ASYNC110 - the loop itself is measured
                await asyncio.sleep(0)
            hops += BURST
        took, used = time.perf_counter() - began, time.process_time() - used
    end, lost = time.monotonic(), export.lost
    await within(1.5, export.processor.shutdown, "spans")
    return {"rate": hops / took, "micros": used / hops * 1e6, "lost": lost / hops, "end": end}


def report(found: dict[str, list[Result]]) -> str:
    rows = list[list[str]]()
    for case in CASES:
        share, _, backend = case.partition(", ")
        result = medians(found[case])
        good = found[f"{share}, good"]
        ratios = [one["rate"] / base["rate"] for one, base in zip(found[case], good, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        said = "" if backend == "good" else f"{statistics.median(ratios):.2f} ({spread})"
        rows.append([
            share, backend, f"{result['rate']:,.0f}", said, f"{result['micros']:.1f} µs",
            f"{result['lost']:.2f}", f"{result['exit']:.1f} s",
        ])  # fmt: skip
    return table(["sampled", "backend", "hops/s", "to good", "processor", "lost/hop", "exit"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--case", choices=CASES, help="one case, one round, as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--serve", choices=BACKENDS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve)
    elif chosen.work:
        print(json.dumps(asyncio.run(work(chosen.work))))
    elif chosen.case:
        print(json.dumps(play(chosen.case, chosen.seconds)))
    else:
        print(report(all_rounds(Path(__file__), CASES, chosen.rounds, chosen.seconds)))


if __name__ == "__main__":
    main()
