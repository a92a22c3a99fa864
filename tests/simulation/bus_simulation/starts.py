"""What a handler's start must not be. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from . import history as h
from .fates import Fate, GroupModel, Host


def objections(fact: h.Started, host: Host, fate: Fate) -> Iterator[str]:
    """Everything that speaks against this start, as the end of a sentence."""
    yield from _repeated(fact, host.group, fate)
    yield from _not_now(fact, host, fate)
    yield from _not_here(host)
    if (line := host.group.line(fact.key)) is not None:
        yield from _out_of_order(fact, host.group, fate, line)
    yield from _not_alone(fact, host.group, fate)


def _repeated(fact: h.Started, group: GroupModel, fate: Fate) -> Iterator[str]:
    if fate.state == "running":
        yield "while it runs"
    if fate.state == "final":
        yield f"again: it is {fate.how}"
    if fact.attempt - 1 not in fate.counted:
        yield f"when {fate.counted} attempts were counted"
    if fact.attempt > group.attempts:
        yield f"of {group.attempts}"
    if fate.number not in (None, fact.number):
        yield f"at {fact.number}: it was taken at {fate.number} before"


def _not_now(fact: h.Started, host: Host, fate: Fate) -> Iterator[str]:
    if host.is_suspended:
        yield "while it is suspended"
    if host.group.is_paused:
        yield "although its group is paused"
    if fate.event.expires is not None and fact.wall >= fate.event.expires:
        yield "after its expiry"
    lanes, busy = host.group.spec.options.concurrency, len(list(host.running))
    if busy >= lanes:
        yield f"beside {busy} others, in {lanes} lanes"


def _not_here(host: Host) -> Iterator[str]:
    """Another replica should have got it."""
    others = [
        other for other in host.group.hosts if other.is_live and not other.is_lost and other is not host
    ]
    if host.group.spec.options.exclusive:
        for other in others:
            for run in other.running:
                yield f"beside {run.fact.name} at {other.name}, in an exclusive group"
    for other in others:
        if int(other.version) > int(host.version) and not other.is_ending:
            yield f"though {other.name} has a newer version"


def _out_of_order(fact: h.Started, group: GroupModel, fate: Fate, line: str) -> Iterator[str]:
    """Events of one key: one at a time, in the order of publishing."""
    for run in group.running:
        if run.fact.topic == fact.topic and group.line(run.fact.key) == line:
            yield f"while {run.fact.name} of the same key runs at {run.host.name}"
    if fate.is_redriven:
        return
    newest = group.newest.get((fact.topic, line, fact.is_replayed), -1)
    group.newest[fact.topic, line, fact.is_replayed] = max(fact.number, newest)
    if fact.number < newest:
        yield f"(number {fact.number}) after number {newest} of the same key"
    if not fact.is_replayed and group.spec.options.overflow == "hold":
        for other in group.fates.values():
            if other is not fate and _is_earlier(other, fact, group, line):
                yield f"before {other.event.name} of the same key, which is {other.state}"


def _is_earlier(other: Fate, fact: h.Started, group: GroupModel, line: str) -> bool:
    """Whether `other` is an event of the same line that should have come to its end before."""
    event = other.event
    return (
        other.must
        and other.state in ("waiting", "running")
        and not other.is_redriven
        and group.line(event.key) == line
        and event.type.partition(".")[0] == fact.topic
        and other.number is not None
        and other.number < fact.number
        and event.expires is None
        and not other.may_be_dead(group.attempts)
    )


def _not_alone(fact: h.Started, group: GroupModel, fate: Fate) -> Iterator[str]:
    """What a dead owner had started goes one at a time, with nothing of its partition beside it."""
    for run in group.running:
        if run.fact.topic == fact.topic and run.fact.partition == fact.partition:
            if fate.suspect == "yes":
                yield f"beside {run.fact.name}, though its last owner died with it"
            if run.was_suspect == "yes":
                yield f"beside {run.fact.name}, whose last owner died with it"
