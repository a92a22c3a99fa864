"""How a failed attempt goes on: error, number of attempts and rules in, a decision out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from contracts.bus import Dead, Discarded, Parked, RetryPolicy
from contracts.errors import (
    ErrorInfo,
    InvalidEvent,
    StormDetected,
    UndecodableEvent,
    VersionAhead,
    qualified_name,
)
from contracts.subscription import IN_PLACE, RetryRule

_UNFIT = {
    qualified_name(UndecodableEvent): "decode",
    qualified_name(VersionAhead): "version_ahead",
    qualified_name(InvalidEvent): "schema",  # the base of the others
}
"""Errors that no repetition mends, and the reasons of their dead letters."""
_STORM = qualified_name(StormDetected)


@dataclass(frozen=True, slots=True)
class Again:
    """Start again in place, after `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Pause the group, and park the delivery until it is resumed."""

    is_storm: bool = False
    """It was the storm guard, not a rule: the event is not to blame, and the attempt does not count."""


Decision = Parked | Dead | Discarded | Again | Pause


def judge(
    policy: RetryPolicy,
    error: ErrorInfo,
    attempt: int,
    *,
    now: float,
    random: Random,
    after: float | None = None,
    waited: float = 0.0,
) -> Decision:
    """What becomes of a delivery whose `attempt` (from 1) ended with `error`.

    `after`: seconds that the handler asked for instead of the backoff; `waited`: seconds that the delivery
    has waited in place. What the error itself asks for (`retry_after`) is a lower bound of any wait. Data
    that do not fit will never fit: dead at once.
    """
    if _is_kind(error, _STORM):
        return Pause(is_storm=True)
    for kind, reason in _UNFIT.items():
        if _is_kind(error, kind):
            return Dead(reason, error)
    rule = first_fit(policy.rules, error)
    if rule is not None and (final := _without_repetition(rule, error)) is not None:
        return final
    if attempt >= policy.attempts:
        return Dead("attempts", error)
    at_least = error.retry_after or 0.0
    if rule is not None and rule.action == "retry":
        delay = max(rule.delay, at_least)
        if waited + delay <= IN_PLACE:
            return Again(delay)
    pause = backoff(policy, attempt, random) if after is None else max(after, 0.0)
    return Parked(now + max(pause, at_least), error)


def first_fit(rules: tuple[RetryRule, ...], error: ErrorInfo) -> RetryRule | None:
    """The rule that decides; `Exception` fits every error."""
    for rule in rules:
        if any(name == "Exception" or error.matches(name) for name in rule.errors):
            return rule
    return None


def _without_repetition(rule: RetryRule, error: ErrorInfo) -> Decision | None:
    """What a rule says that has nothing to do with how many attempts are left."""
    match rule.action:
        case "discard":
            return Discarded(str(error))
        case "dead_letter":
            return Dead("asked", error)
        case "pause":
            return Pause()
        case _:
            return None


def _is_kind(error: ErrorInfo, name: str) -> bool:
    """Whether it is the very class, not one that is only called so."""
    return error.type == name or name in error.bases


def backoff(policy: RetryPolicy, attempt: int, random: Random) -> float:
    """Seconds before the attempt after `attempt`; chance only lengthens it."""
    try:
        grown = policy.first_delay * policy.factor ** (attempt - 1)
    except OverflowError:
        grown = policy.max_delay
    pause = min(grown, policy.max_delay)
    return pause * (1.0 + policy.jitter * random.random())
