"""What can be seen of a bus from the outside: the backend, groups, topics, dead letters, providers, types."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema

from .envelope import Envelope
from .errors import ErrorInfo, StateChanged
from .patterns import TypePattern, matches


class BusInfo(BaseModel):
    """What a backend is, and what is in force on it now: asked of it, not of the settings."""

    model_config = ConfigDict(frozen=True)

    backend: str
    """`memory`, `redis`."""
    server: str = ""
    """Name and version of what the backend runs on; empty where there is no server, or none was seen yet."""
    address: str
    """The URL, without its password."""
    namespace: str
    connected: bool
    """Whether it answered just now."""
    durability: Literal["none", "weak", "strong"]
    """Of what was confirmed. `none`: it ends with the process. `weak`: a crash of the server or of its
    machine may lose it. `strong`: it is on disk. Means nothing where it is not connected."""
    replicas: tuple[str, ...] = ()
    """Seen now, by name; the one that was asked is among them while it is open and connected."""
    warnings: tuple[str, ...] = ()
    """What is less than one may expect: one sentence each, with the fix in it."""
    details: dict[str, JsonValue] = Field(default_factory=dict)
    """Further facts by name: latency, memory, policy, layout version, limits, connections, …"""


def state_tag(*parts: object) -> str:
    """A short name of a state: the same parts have the same, others another one."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def check_tag(what: str, tag: str, wanted: Sequence[str] | None) -> None:
    """Raise `StateChanged` unless the state of `what` has one of the `wanted` tags; None: any will do."""
    if wanted is not None and tag not in wanted:
        raise StateChanged(
            f"{what} is not as it was seen: somebody else has changed it",
            fix="look at what it is now, and decide again",
        )


GroupState = Literal["active", "sleeping", "dormant", "ephemeral"]


class GroupInfo(BaseModel):
    """The state of one group, for people and for tests.

    Counters count since the group was made, on all replicas; a persistent backend may lose the last few
    seconds of them in a crash.
    """

    model_config = ConfigDict(frozen=True)

    group: str
    plugin_id: str
    patterns: tuple[str, ...]
    state: GroupState
    """`active`: somebody handles it. `sleeping`: its plugin is lazy, and loaded when an event comes.
    `dormant`: nobody handles it. `ephemeral`: of a broadcast subscription."""
    paused: str | None = None
    """Why it is paused (the operator's word, or the rule's); None: it is not."""
    waiting: int
    """Taken by nobody yet: the lag in events."""
    peak: int
    """The most that ever waited."""
    oldest_age: float | None = None
    """Seconds since the oldest event without a final outcome was published; None: there is none."""
    in_flight: int
    parked: int
    """Everything in the lot."""
    dead: int
    """Dead letters that it holds now."""
    handled: int
    """Acknowledged, with or without a start."""
    failed: int
    """Attempts that raised, ran too long or asked to be tried again; not what a handler gave up itself."""
    discarded: int = 0
    expired: int = 0
    filtered: int = 0
    """Acknowledged without a start, because the predicate said no."""
    repeated: int = 0
    """Suppressed by dedupe."""
    dropped: int = 0
    """Given up by the overflow policy; for a broadcast group also what was trimmed before its turn."""
    stale: int
    """Settlements of former owners that were refused."""

    @property
    def tag(self) -> str:
        """Of who handles it and whether it is paused; what it holds changes by itself."""
        return state_tag(self.group, self.state, self.paused)

    rate: float = 0.0
    """Deliveries taken per second, over the last minute or since the first."""
    replaying: int = 0
    """Events of a running replay that are still to be started."""
    open_breakers: tuple[str, ...] = ()
    """Replicas whose circuit breaker is open."""
    owners: dict[str, int] = Field(default_factory=dict)
    """Replica → partitions that it owns."""


class TopicInfo(BaseModel):
    """The state of one topic."""

    model_config = ConfigDict(frozen=True)

    topic: str
    partitions: int
    events: int
    """Kept now, in all partitions."""
    peak: int
    """The most that was ever kept."""
    limit: int
    """Per partition; then publishing waits."""
    published: int
    """Events taken since the topic was made."""
    rate: float = 0.0
    """Published per second, over the last minute or since the first."""
    oldest_age: float | None = None
    """Seconds since the oldest that is kept was published."""
    holder: str | None = None
    """The group whose oldest unsettled event keeps the topic from being trimmed, if one does."""


DEAD_LETTER_REASONS = ("attempts", "asked", "schema", "decode", "version_ahead", "storm")
"""What `DeadLetter.reason` may be."""


class DeadLetter(BaseModel):
    """A delivery that was given up, with everything that is known of its end."""

    model_config = ConfigDict(frozen=True)

    id: str
    group: str
    plugin_id: str
    generation: int
    reason: str
    """`attempts`, `asked` (by the handler or a rule), `schema`, `decode`, `version_ahead`."""
    error: ErrorInfo | None = None
    attempts: int
    first_at: AwareDatetime
    """When the event was published."""
    last_at: AwareDatetime
    """When it was given up."""
    envelope: Envelope
    """Where not even that could be read, the backend makes one with what it knows."""
    version: int = 1
    data: str = ""
    """Text, exactly as it was published, whether it is JSON or not."""
    data_base64: str | None = None
    """The bytes, where they are no UTF-8 text; `data` is then empty."""
    traceparent: str | None = None
    """Of the attempt that failed last, where it was traced."""

    @property
    def raw(self) -> bytes:
        """The bytes as they were published."""
        return self.data.encode() if self.data_base64 is None else base64.b64decode(self.data_base64)


class DeadLetterSelection(BaseModel):
    """Which dead letters: those that fit everything that is given; nothing given means all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: tuple[str, ...] | None = None
    group: str | None = None
    plugin_id: str | None = None
    generation: int | None = None
    """Of the plugin that gave up: after a fix, exactly those of the broken generation."""
    type: TypePattern | None = None
    """A pattern of event types."""
    reason: Annotated[str, WithJsonSchema({"type": "string", "enum": [*DEAD_LETTER_REASONS]})] | None = None
    error: str | None = None
    """Name of an error class, as in `RetryRule.errors`; subclasses fit too."""
    min_age: float | None = Field(default=None, ge=0)
    """Seconds since it was given up, at least."""
    max_age: float | None = Field(default=None, ge=0)
    """Seconds since it was given up, at most."""

    def fits(self, letter: DeadLetter, now: datetime) -> bool:
        """Whether `letter` is selected, at the moment `now`."""
        age = (now - letter.last_at).total_seconds()
        return (
            (self.ids is None or letter.id in self.ids)
            and self.group in (None, letter.group)
            and self.plugin_id in (None, letter.plugin_id)
            and self.generation in (None, letter.generation)
            and self.reason in (None, letter.reason)
            and (self.type is None or matches(self.type, letter.envelope.type))
            and (self.error is None or (letter.error is not None and letter.error.matches(self.error)))
            and (self.min_age is None or age >= self.min_age)
            and (self.max_age is None or age <= self.max_age)
        )


class ProviderInfo(BaseModel):
    """One provider of a capability."""

    model_config = ConfigDict(frozen=True)

    capability: str
    plugin_id: str
    replica: str
    reach: Literal["local", "shared"]
    rank: int = 0
    """The highest is asked."""


class CatalogEntry(BaseModel):
    """An event type that a plugin declares."""

    model_config = ConfigDict(frozen=True)

    type: str
    version: int
    description: str = ""
    json_schema: dict[str, JsonValue] = Field(default_factory=dict)
    plugin_id: str = ""
    published: bool = True
    """Whether the plugin may publish it; else it only handles it, with a model of its own."""
    replicas: tuple[str, ...] = ()
    """Where it was declared and not taken out, by name; said by the bus. Some may be gone."""
