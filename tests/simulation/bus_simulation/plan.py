"""What a seed makes of a world: its size, its limits, its groups, and how bad its weather is. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from contracts.bus import (
    BusLimits,
    CircuitBreaker,
    RateLimit,
    RetryPolicy,
    RetryRule,
    SubscriptionOptions,
    SubscriptionSpec,
)

PATTERNS = (("alpha.**",), ("alpha.item",), ("alpha.*", "beta.*"), ("beta.**",), ("**",))
KEYS = ("a", "b", None)
PAUSES = (0.0, 0.0, 0.1, 1.0, 5.0)
"""Seconds; few different ones, so that things happen in the same moment."""

FOREVER = 1e6
IN_PLACE = (RetryRule(errors=("Outage",), action="retry", delay=0.3),)
ORDERS: tuple[dict[str, Any], ...] = ({}, {}, {}, {}, {}, {"order": "topic"}, {"order": "none"})
POLICIES: tuple[dict[str, Any], ...] = (
    {"exclusive": True},
    {"overflow": "drop_oldest", "max_waiting": 2},
    {"overflow": "drop_new", "max_waiting": 2},
    {"rate": RateLimit(limit=2, per=3.0)},
    {"breaker": CircuitBreaker(minimum=2, pause=5.0)},
    {"dedupe": True},
)


@dataclass(frozen=True)
class Weather:
    """Weights of what a handler does, and how many faults there are."""

    acts: dict[str, int]
    crashes: int
    """Buses that are killed between two callbacks, wherever the loop stands."""
    disturbances: int
    """What the adversary does, one thing after the other."""


@dataclass(frozen=True)
class Plan:
    """One world."""

    in_turn: float
    limits: BusLimits
    specs: tuple[SubscriptionSpec, ...]
    buses: int
    publishers: int
    events: int
    """Of each publisher."""
    weather: Weather
    choosy: frozenset[str]
    """Groups with a predicate."""
    has_upgrade: bool
    """Some replicas have a newer version of the plugins."""


def is_wanted(name: str) -> bool:
    """By choosy groups."""
    return sum(map(ord, name)) % 3 != 0


def make_plan(random: Random) -> Plan:
    limits = _limits(random)
    return Plan(
        in_turn=random.choice((0.0, 0.0, 0.5, 0.9, 1.0)),
        limits=limits,
        specs=tuple(_spec(random, number, limits) for number in range(random.choice((1, 1, 2, 3)))),
        buses=random.choice((1, 2, 2, 3)),
        publishers=random.choice((1, 2, 3)),
        events=random.choice((4, 8, 12)),
        weather=_weather(random),
        choosy=frozenset(f"g{number}.handle" for number in range(3) if random.random() < 0.1),
        has_upgrade=random.random() < 0.2,
    )


def _limits(random: Random) -> BusLimits:
    return BusLimits(
        partitions=random.choice((1, 1, 2, 8)),
        limit=random.choice((3, 12, 1_000, 1_000)),
        retain=random.choice((5, 1_000)),
        young_seconds=random.choice((0.0, 60.0)),
        lot=random.choice((1, 4, 1_000)),
        dead_letters=random.choice((1, 3, 1_000)),
        window_seconds=FOREVER,
        lease=random.choice((1.0, 15.0)),
    )


def _spec(random: Random, number: int, limits: BusLimits) -> SubscriptionSpec:
    options: dict[str, Any] = {
        "concurrency": random.choice((1, 1, 2, 4)),
        "timeout": random.choice((1.0, 5.0, 30.0)),
        "start": random.choice(("oldest", "new")),
        "retry": RetryPolicy(
            attempts=random.choice((1, 2, 3, 5)),
            first_delay=random.choice((0.0, 1.0, 5.0)),
            factor=random.choice((1.0, 2.0)),
            jitter=random.choice((0.0, 0.2)),
            rules=random.choice(((), (), IN_PLACE)),
        ),
    }
    options |= random.choice(ORDERS)
    if options.get("order") == "topic":
        options |= {"concurrency": 1} if limits.partitions == 1 else {"order": "key"}
    for further in POLICIES:
        if random.random() < 0.1:
            options |= further
    return SubscriptionSpec(
        group=f"g{number}.handle",
        plugin_id=f"g{number}",
        handler="handle",
        patterns=random.choice(PATTERNS),
        options=SubscriptionOptions(**options),
        source=f"/plugins/g{number}",
    )


def _weather(random: Random) -> Weather:
    acts = {"ok": 6, "nap": 6}
    for act in ("fail", "ask", "dead", "discard", "hang", "stubborn", "return", "publish"):
        acts[act] = random.choice((0, 0, 1, 2, 4))
    return Weather(acts, crashes=random.choice((0, 1, 2, 4)), disturbances=random.choice((0, 3, 8)))
