"""How a failed attempt goes on: error and number of attempts in, outcome out. Pure."""

from __future__ import annotations

from random import Random

from contracts.bus import Dead, Outcome, Parked, RetryPolicy
from contracts.errors import ErrorInfo

_SCHEMA = "contracts.errors.InvalidEvent"


def judge(
    policy: RetryPolicy,
    error: ErrorInfo,
    attempt: int,
    *,
    now: float,
    random: Random,
    after: float | None = None,
) -> Outcome:
    """What becomes of a delivery whose `attempt` (from 1) ended with `error`.

    `after`: seconds that the handler asked for instead of the backoff. What the error itself asks for
    (`retry_after`) is a lower bound of either. Data that do not fit will never fit: dead at once.
    """
    if error.type == _SCHEMA or _SCHEMA in error.bases:
        return Dead("schema", error)
    if attempt >= policy.attempts:
        return Dead("attempts", error)
    pause = backoff(policy, attempt, random) if after is None else max(after, 0.0)
    return Parked(now + max(pause, error.retry_after or 0.0), error)


def backoff(policy: RetryPolicy, attempt: int, random: Random) -> float:
    """Seconds before the attempt after `attempt`; chance only lengthens it."""
    try:
        grown = policy.first_delay * policy.factor ** (attempt - 1)
    except OverflowError:
        grown = policy.max_delay
    pause = min(grown, policy.max_delay)
    return pause * (1.0 + policy.jitter * random.random())
