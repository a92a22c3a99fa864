"""What a subscription may ask for: retries, limits, order, and what its group keeps.

All of it is checked where it is written: an option out of range, or two that contradict each other,
raise `pydantic.ValidationError` (a `ValueError`) with the fix in its text.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .errors import qualified_name

IN_PLACE = 1.0
"""Seconds that retries in place may wait together before a delivery is parked instead."""


class RetryRule(BaseModel):
    """What becomes of a delivery whose handler raised one of `errors`. The first rule that fits decides.

    ```python
    RetryPolicy(rules=(
        RetryRule(errors=("ConnectionError",), action="retry", delay=0.1),
        RetryRule(errors=(ValueError,), action="dead_letter"),
    ))
    ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    errors: tuple[str, ...] = Field(min_length=1)
    """Names of error classes, in full (`httpx.ConnectError`) or the last word; their subclasses too.

    Classes may be given as well. `Exception` fits every error.
    """
    action: Literal["retry", "retry_later", "discard", "dead_letter", "pause"]
    """`retry`: in place, after `delay`; no other event of its key, or of its lane, starts meanwhile.

    `retry_later`: parked, with the policy's backoff. `discard`: given up on purpose, counted and
    announced. `dead_letter`: without further attempts. `pause`: the whole group is paused, and the
    delivery is parked until it is resumed, however many attempts it has had.
    """
    delay: float = Field(default=0.0, ge=0, le=IN_PLACE)
    """Seconds between attempts in place. When they have waited `IN_PLACE` seconds together, the delivery
    is parked as by `retry_later`. Both count towards the policy's `attempts`."""

    @field_validator("errors", mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        if isinstance(given, str | type):
            given = (given,)
        if isinstance(given, tuple | list):
            return tuple(qualified_name(one) if isinstance(one, type) else one for one in given)
        return given


class RetryPolicy(BaseModel):
    """How often, and after which pauses, a failed delivery is tried again.

    The pause before attempt n+1 is `first_delay * factor**(n-1)` seconds, at most `max_delay`,
    lengthened at random by up to `jitter` of itself (never shortened), and at least what the error asks for
    (`retry_after`). Where the last of `attempts` would
    be repeated, the delivery becomes a dead letter instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: int = Field(default=5, ge=1)
    first_delay: float = Field(default=0.5, ge=0)
    factor: float = Field(default=4.0, ge=1)
    max_delay: float = Field(default=300.0, ge=0)
    jitter: float = Field(default=0.2, ge=0, le=1)
    rules: tuple[RetryRule, ...] = ()
    """Tried in order, the first that fits decides; an error that none fits is retried later.

    They judge what a handler *raises*: what it decides itself (`EventResult.retry` …) is done as it says,
    and data that do not fit its model are dead letters at once.
    """


class RateLimit(BaseModel):
    """At most `limit` starts of the handler in any `per` seconds, on each replica. The rest wait.

    Attempts in place count too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int = Field(ge=1)
    per: float = Field(default=1.0, gt=0)


class CircuitBreaker(BaseModel):
    """Stop starting a handler that mostly fails, on each replica for itself.

    Opens when, of at least `minimum` attempts that ended in the last `window` seconds, a share of `ratio`
    or more failed. While it is open nothing starts and nothing is lost: events wait. After `pause` seconds
    one attempt is made: success closes it, failure opens it again (which is not announced anew).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum: int = Field(default=10, ge=1)
    ratio: float = Field(default=0.5, gt=0, le=1)
    window: float = Field(default=60.0, gt=0)
    pause: float = Field(default=60.0, gt=0)


class SubscriptionOptions(BaseModel):
    """Options of one handler. Validated where they are written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int = Field(default=1, ge=1, le=1_000)
    """Lanes: how many keys are handled side by side on each replica."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds after which an attempt is cancelled and counts as failed."""
    retry: RetryPolicy = RetryPolicy()
    order: Literal["key", "topic", "none"] = "key"
    """`topic`: all events of a topic in order, one at a time (needs topics with one partition).

    `none`: gives up the order of a key; every event is on its own.
    """
    start: Literal["oldest", "new"] = "oldest"
    """Where a group that did not exist begins."""
    rate: RateLimit | None = None
    breaker: CircuitBreaker | None = None
    dedupe: bool = False
    """Suppress a second delivery of the same (source, id) after a settled one, for 24 h or 100,000 ids,
    whichever is less (`BusLimits.dedupe_seconds`, `dedupe`); at least so long, and not many times as long.

    Redrive and replay are not suppressed.
    """
    overflow: Literal["hold", "drop_oldest", "drop_new"] = "hold"
    """What happens above `max_waiting`: `hold` drops nothing (the topic's limit holds publishers back)."""
    max_waiting: int | None = Field(default=None, ge=1)
    """With `drop_oldest` or `drop_new`: events of one partition that may wait for this group. Drops are
    counted, and announced with the range."""
    exclusive: bool = False
    """All partitions on one replica; the others stand by."""
    broadcast: bool = False
    """Every replica handles every event, from its subscribing on; no place is kept, nothing is held.

    Each replica has a group of its own, `<plugin_id>.<name>@<replica>`, that ends with the subscription.
    """
    durable: bool | None = None
    """Whether a place is kept while nobody handles: what `broadcast` gives up. Stating it is optional."""
    keep: float = Field(default=604_800.0, gt=0)
    """Seconds that a group nobody handles keeps its place (7 days); then it is retired, and announced."""

    @model_validator(mode="before")
    @classmethod
    def _begin(cls, given: Any) -> Any:
        """Broadcast begins now; said here, so that it is still said after a way as data."""
        if isinstance(given, dict) and given.get("broadcast"):
            return {"start": "new", **given}
        return given

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for is_wrong, what, fix in (
            (self.broadcast and self.durable, "broadcast keeps no place, so it is not durable",
             "leave out durable=True or broadcast=True"),
            (self.durable is False and not self.broadcast, "a group keeps its place: it is durable",
             "broadcast=True reads along without keeping a place"),
            (self.broadcast and self.exclusive, "broadcast is for every replica, exclusive for one",
             "leave out one of them"),
            (self.broadcast and self.start == "oldest",
             "broadcast begins when it subscribes", "leave out start, or replay the group"),
            (self.overflow != "hold" and self.max_waiting is None, f"overflow={self.overflow!r} has no bound",
             "give max_waiting"),
            (self.overflow == "hold" and self.max_waiting is not None, "max_waiting is given, but all held",
             "overflow='drop_oldest' or 'drop_new'"),
            (self.order == "topic" and self.concurrency > 1, "order='topic' runs one at a time",
             "leave out concurrency, or order='key'"),
        ):  # fmt: skip
            if is_wrong:
                raise ValueError(f"{what}; fix: {fix}")
        return self


STANDS_IN = "0.dev0"
"""`plugin_version` of who only holds a group until its plugin is there: lower than any plugin's own."""


def precedence_of(version: str) -> Version:
    """What versions of plugins are compared by (PEP 440). Raises `packaging.version.InvalidVersion`."""
    return Version(version)


class SubscriptionSpec(BaseModel):
    """What makes a group, and what makes a handler active in it."""

    model_config = ConfigDict(frozen=True)

    group: str
    """`<plugin_id>.<name>`."""
    plugin_id: str
    handler: str
    """Name within the plugin; what the host is told."""
    patterns: tuple[str, ...] = Field(min_length=1)
    options: SubscriptionOptions = SubscriptionOptions()
    source: str = ""
    """Stamped on the events that the handler returns; left out, `/plugins/<plugin_id>`."""
    generation: int = 0
    plugin_version: str = "0"
    """PEP 440. Of several replicas only those with the highest may own partitions of the group.

    `STANDS_IN`: nobody handles it here; its first event makes the plugin be loaded.
    """

    @property
    def precedence(self) -> Version:
        """What `plugin_version` is compared by; parsed anew at each look."""
        return precedence_of(self.plugin_version)

    @model_validator(mode="before")
    @classmethod
    def _with_source(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("source") and given.get("plugin_id"):
            return {**given, "source": f"/plugins/{given['plugin_id']}"}
        return given

    @field_validator("plugin_version")
    @classmethod
    def _is_version(cls, text: str) -> str:
        try:
            Version(text)
        except InvalidVersion:
            raise ValueError(f"{text!r} is no version; fix: write one as in PEP 440, e.g. 1.2.0") from None
        return text
