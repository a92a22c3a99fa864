"""What each policy costs a message: `python tests/benchmarks/bus_policies.py`.

Publish → handled with ten subscribers that have the policy, beside ten that have none; empty handlers, the
events and the bursts of `bus_memory.py`. Everything passes: what a policy holds back has no speed. Processor
time of the median burst, per delivery; the cost is the difference of the medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bus_memory import BURST, EVENTS
from rounds import Result, interleave, table

from bus.memory import MemoryBus
from contracts.bus import Predicate, SubscriptionSpec
from contracts.message import PluginEvent
from contracts.subscription import CircuitBreaker, RateLimit, RetryPolicy, RetryRule, SubscriptionOptions

SUBSCRIBERS = 10


def wanted(event: PluginEvent) -> bool:
    return True


RULES = RetryPolicy(rules=(RetryRule(errors=("ConnectionError",), action="retry", delay=0.1),))
BREAKER = CircuitBreaker()
RATE = RateLimit(limit=1_000_000, per=0.1)

Policies = tuple[Predicate | None, dict[str, Any]]
CASES: dict[str, Policies] = {
    "none": (None, {}),
    "rules": (None, {"retry": RULES}),
    "predicate": (wanted, {}),
    "dedupe": (None, {"dedupe": True}),
    "breaker": (None, {"breaker": BREAKER}),
    "rate": (None, {"rate": RATE}),
    "keyed": (None, {}),
    "lanes": (None, {"concurrency": 8}),
    "all": (wanted, {"retry": RULES, "dedupe": True, "breaker": BREAKER, "rate": RATE}),
}
KEYED = {"keyed", "lanes"}
"""Cases whose events have one of sixteen keys; the second is measured against the first."""
FLOORS = {
    "rules": 0.0, "predicate": 0.5, "dedupe": 1.0, "breaker": 0.5, "rate": 0.5, "lanes": 1.0, "all": 2.5,
}  # fmt: skip
"""Microseconds that the policy may cost."""


async def measure(case: str, seconds: float) -> Result:
    where, options = CASES[case]
    keys = [f"k{number % 16}" if case in KEYED else None for number in range(BURST)]
    async with MemoryBus() as bus:
        calls = [0]

        async def handle(event: PluginEvent) -> None:
            calls[0] += 1

        for number in range(SUBSCRIBERS):
            name = f"h{number}"
            spec = SubscriptionSpec(
                group=f"bench.{name}", plugin_id="bench", handler=name, patterns=("bench.trade",),
                options=SubscriptionOptions(**options),
            )  # fmt: skip
            await bus.subscribe(spec, handle, where=where)

        bursts, end = list[float](), time.perf_counter() + seconds
        while time.perf_counter() < end:
            start, wanted_calls = time.process_time(), calls[0] + BURST * SUBSCRIBERS
            for event, key in zip(EVENTS, keys, strict=True):
                await bus.publish(event, source="/bench", key=key)
            while calls[0] < wanted_calls:  # noqa: ASYNC110 - the loop itself is measured
                await asyncio.sleep(0)
            bursts.append(time.process_time() - start)
        return {"micros": statistics.median(bursts) / (BURST * SUBSCRIBERS) * 1e6}


def report(found: dict[str, Result]) -> str:
    plain = found["none"]["micros"]
    rows = [["none", f"{plain:.2f} µs", "", ""]]
    for name, floor in FLOORS.items():
        micros, base = found[name]["micros"], found["keyed"]["micros"] if name in KEYED else plain
        rows.append([name, f"{micros:.2f} µs", f"{micros - base:+.2f} µs", f"{floor:g} µs"])
    return table(["policy", "each delivery", "cost", "at most"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--case", choices=CASES, help="one case, one round, as JSON")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    chosen = parser.parse_args()
    if chosen.case:
        print(json.dumps(asyncio.run(measure(chosen.case, chosen.seconds))))
    else:
        print(report(interleave(Path(__file__), list(CASES), chosen.rounds, chosen.seconds)))


if __name__ == "__main__":
    main()
