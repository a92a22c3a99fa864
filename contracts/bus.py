"""The event bus: what it promises, and what a backend must do to be one.

**Events.** An event is published under a type name, `topic.word.word`. The first word is its *topic*:
the unit of storage, order, retention and back pressure. A topic has a fixed number of *partitions*; an
event with a key goes to the partition that its key selects, one without to that which its source and
id select. Each partition numbers its events without gaps.

**Publishing.** `publish` returns when the backend has taken the event. The same (source, id) published
again within the idempotency window (two minutes or the last 50,000 events of the partition, whichever
is less) is one event: the second receipt says `duplicate`. Publishing waits for room while the topic is
at its limit, and raises `BusFull` at its deadline, naming the group that holds. A publish made while
handling a delivery never waits: it is admitted up to twice the limit. Data over 1 MiB are refused
before anything is sent.

**Delivery.** Each handler has a *group* of its own, named `<plugin_id>.<name>`. Every event whose type
one of the group's patterns selects is delivered to it at least once: its position, attempts, retries
and dead letters are its own, and no group ever delays or repeats another. A group is durable: it keeps
its place while nobody handles it, and a new one starts at the oldest event that is still retained
(`start="new"`: at the end). Several buses on one backend that subscribe to the same group share it.

**Ownership.** Of one group and partition there is one owner at a time: (bus, epoch). Every take and
every settlement checks it; what a former owner still sends is refused and counted. When an owner goes,
another takes over with a higher epoch; what the former one had started is *suspect*: it is started one
at a time, each start counted before it runs, before anything newer.

**Order.** Within one topic, events of one key start in the order in which they were published, and
never two at once, through retries, takeover and redrive of others. Keys run in parallel, up to the
subscription's `concurrency` (its lanes). Events without a key are not ordered among each other where
there is more than one lane. Nothing is promised between topics.

**Outcome.** Every attempt ends with exactly one `Outcome`: acknowledged, parked until a time, dead,
discarded, expired. Being cancelled with the bus, or crashing, is no outcome: the event is delivered
again. The events that a handler returns are published before it is acknowledged, with ids derived from
the delivery.

**The lot.** A delivery that must wait is moved out of the way, into the *lot* of its group; later
events of its key queue behind it, other keys go on, and nothing in a lot holds back the topic's limit.

**Dead letters.** A delivery that is given up is moved, once, to the dead letters of its group with
everything that is known of its end. Its key goes on. Redrive puts it back to that group alone, with
its attempts at zero. The number kept is bounded; the oldest go, counted.

**Tails.** A tail reads along from now on (or from a position), belongs to no group, settles nothing and
disturbs nobody; what it misses because the topic was trimmed is reported as a gap.

**Calls.** A request is not an event of the log: it is executed at most once by one provider, within the
time that is left. No provider is known at once, not a timeout. An answer that comes late, or twice, is
dropped and counted.

**Clocks.** Deadlines, backoff and the idempotency window run on the monotonic clock; `time`, expiry and
scheduled publishing on the wall clock.

**Closing.** `close` stops reading, lets handlers that run finish within the grace time, cancels the
rest (they are delivered again to whoever comes next), and leaves no task behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from .envelope import Envelope
from .errors import ErrorInfo
from .event import AnyEvent, EventResult, Receipt
from .message import PluginEvent

MAX_PAYLOAD = 1 << 20
"""Bytes of JSON data that one event may carry."""
DEFAULT_TIMEOUT = 5.0
"""Seconds: deadline of a publish or a request that does not say."""


# --- what a subscription may ask for ------------------------------------------------------------------


class RetryPolicy(BaseModel):
    """How often, and after which pauses, a failed delivery is tried again.

    The pause before attempt n+1 is `first_delay * factor**(n-1)` seconds, at most `max_delay`,
    lengthened at random by up to `jitter` of itself (never shortened). After `attempts` failed
    attempts the delivery becomes a dead letter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: int = Field(default=5, ge=1)
    first_delay: float = Field(default=0.5, ge=0)
    factor: float = Field(default=4.0, ge=1)
    max_delay: float = Field(default=300.0, ge=0)
    jitter: float = Field(default=0.2, ge=0, le=1)


class SubscriptionOptions(BaseModel):
    """Options of one handler. Validated where they are written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int = Field(default=1, ge=1, le=1_000)
    """Lanes: how many keys are handled side by side on each replica."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds after which an attempt is cancelled and counts as failed."""
    retry: RetryPolicy = RetryPolicy()
    order: Literal["key", "none"] = "key"
    """`none` gives up the order of a key; every event is on its own."""
    start: Literal["oldest", "new"] = "oldest"
    """Where a group that did not exist begins."""


class SubscriptionSpec(BaseModel):
    """What makes a group, and what makes a handler active in it."""

    model_config = ConfigDict(frozen=True)

    group: str
    """`<plugin_id>.<name>`."""
    plugin_id: str
    handler: str
    """Name within the plugin; what the host is told."""
    patterns: tuple[str, ...]
    options: SubscriptionOptions = SubscriptionOptions()
    source: str = ""
    """Stamped on the events that the handler returns."""
    generation: int = 0


Handler = Callable[[PluginEvent], Awaitable[EventResult | None]]
"""Runs one attempt. None means acknowledged; raising means failed, judged by the retry policy."""


class ProviderSpec(BaseModel):
    """A capability and who provides it."""

    model_config = ConfigDict(frozen=True)

    capability: str
    plugin_id: str
    provider: str
    """Name within the plugin; what the host is told."""
    reach: Literal["local", "shared"] = "shared"
    timeout: float = 30.0
    """Seconds: upper bound of one execution, whatever the caller allows."""
    generation: int = 0


class Call(BaseModel):
    """One request as it reaches a provider."""

    model_config = ConfigDict(frozen=True)

    id: str
    capability: str
    provider: str = ""
    source: str
    """Who asks; stamped by the kernel."""
    data: str
    """JSON text of the query."""
    timeout: float
    """Seconds that were left when the call was handed on."""


class CallReply(BaseModel):
    """The answer as data."""

    model_config = ConfigDict(frozen=True)

    data: str
    """JSON text."""
    replica: str = ""


Provider = Callable[[Call], Awaitable[CallReply]]


# --- how an attempt ends ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Done."""


@dataclass(frozen=True, slots=True)
class Parked:
    """Wait in the lot until `due` (monotonic seconds); None: behind the earlier event of its key."""

    due: float | None
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """Given up: `reason` is one of `attempts`, `asked`, `schema`, `decode`."""

    reason: str
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True)
class Discarded:
    """Given up on purpose by the handler."""

    reason: str


@dataclass(frozen=True, slots=True)
class Expired:
    """The event's expiry had passed before the handler was started."""


Outcome = Acknowledged | Parked | Dead | Discarded | Expired


class DeadLetter(BaseModel):
    """A delivery that was given up, with everything that is known of its end."""

    model_config = ConfigDict(frozen=True)

    id: str
    group: str
    plugin_id: str
    generation: int
    reason: str
    error: ErrorInfo | None = None
    attempts: int
    first_at: datetime
    """When the event was published."""
    last_at: datetime
    """When it was given up."""
    envelope: Envelope
    version: int = 1
    data: str
    """JSON text, as published."""


class DeadLetterSelection(BaseModel):
    """Which dead letters: by id, of a group, or all (`ids=None, group=None`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: tuple[str, ...] | None = None
    group: str | None = None


class GroupInfo(BaseModel):
    """The state of one group, for people and for tests."""

    model_config = ConfigDict(frozen=True)

    group: str
    plugin_id: str
    patterns: tuple[str, ...]
    state: Literal["active", "dormant"]
    waiting: int
    """Taken by nobody yet."""
    peak: int
    """The most that ever waited."""
    in_flight: int
    parked: int
    """Everything in the lot."""
    dead: int
    handled: int
    failed: int
    stale: int
    """Settlements of former owners that were refused."""
    owners: dict[str, int] = Field(default_factory=dict)
    """Replica → partitions that it owns."""


class ProviderInfo(BaseModel):
    """One provider of a capability."""

    model_config = ConfigDict(frozen=True)

    capability: str
    plugin_id: str
    replica: str
    reach: Literal["local", "shared"]


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


class TailItem(BaseModel):
    """One event as a tail sees it, or a gap (`missed` > 0: so many were trimmed before it)."""

    model_config = ConfigDict(frozen=True)

    envelope: Envelope
    version: int
    data: str
    position: str
    """Opaque; a tail opened at it goes on after this event."""
    missed: int = 0


class Features(BaseModel):
    """What a backend does and does not promise beyond the common suite."""

    model_config = ConfigDict(frozen=True)

    persistent: bool
    """Survives the process."""
    shared: bool
    """Several processes can be on it."""


# --- the protocols ------------------------------------------------------------------------------------------


@runtime_checkable
class Subscription(Protocol):
    """A handler made active. `remove` is safe twice."""

    @property
    def id(self) -> str: ...

    async def remove(self) -> None:
        """Stop deliveries; returns when no handler of it runs any more."""


class BusSubscription(Subscription, Protocol):
    """A subscription as the kernel holds it."""

    async def drain(self, grace: float) -> bool:
        """Start no more handlers; wait up to `grace` seconds for those that run.

        What still runs then is cancelled and delivered again later. Returns whether all finished.
        """


class Tail(Protocol):
    """A reader beside the groups; an async iterator that ends when it is closed."""

    def __aiter__(self) -> AsyncIterator[TailItem]: ...

    async def __anext__(self) -> TailItem: ...

    def read_nowait(self) -> list[TailItem]:
        """What can be read at once, oldest first within each topic; at most 1,000, so call it again."""

    def close(self) -> None:
        """End the tail; a waiting `__anext__` stops iterating. Safe twice."""


class EventBus(Protocol):
    """One replica's handle on a backend. Opened once, closed once; used from one event loop."""

    @property
    def replica(self) -> str:
        """Unique name of this handle among all on the backend."""

    @property
    def features(self) -> Features: ...

    async def open(self) -> None:
        """Connect. Raises `BusError` with cause and fix if the backend cannot be reached."""

    async def close(self, grace: float = 10.0) -> None:
        """See *Closing* above. Safe twice."""

    async def publish(
        self,
        event: AnyEvent,
        *,
        source: str,
        key: str | None = None,
        id: str | None = None,
        subject: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        expires: datetime | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Receipt:
        """Publish one event; see *Publishing* above.

        `delay` (seconds) or `at`: keep it back until then; it is numbered when it becomes visible.
        `expires`: not handled after that moment. Causes (`correlationid`, `causationid`) are taken from
        the delivery that is being handled in the current context, if any.
        Raises `BusFull`, `PayloadTooLarge`, `PublishUnknown`, `InvalidOption`, `BusClosed`.
        """

    async def publish_many(
        self,
        events: Sequence[AnyEvent],
        *,
        source: str,
        key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Receipt]:
        """Publish in order, one receipt each. Stops at the first that fails."""

    async def relay(
        self, envelope: Envelope, event: AnyEvent, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Receipt:
        """Publish a whole envelope from outside: its id, source, time and extensions are kept."""

    async def declare_group(self, spec: SubscriptionSpec) -> None:
        """Make the group exist, without handling it. Same options again: no change."""

    async def drop_group(self, group: str) -> None:
        """Forget a group with its place, its lot and its dead letters. Unknown names are ignored."""

    async def subscribe(self, spec: SubscriptionSpec, handler: Handler) -> BusSubscription:
        """Make `handler` active in its group (declared if new).

        Raises `GroupConflict` if the group belongs to another plugin, or this bus already hosts it.
        """

    async def provide(self, spec: ProviderSpec, provider: Provider) -> Subscription:
        """Offer a capability from this replica. Several providers may offer the same one."""

    async def request(
        self,
        capability: str,
        query: BaseModel | str,
        *,
        source: str,
        timeout: float = DEFAULT_TIMEOUT,
        target: str = "any",
    ) -> list[CallReply]:
        """Ask; one reply, or one from each replica with `target="all"`; a replica's name picks one.

        Raises `NoProvider` at once, `CallTimeout`, `ProviderFailed`, `ProviderLost`.
        """

    def tail(self, *patterns: str, position: str | None = None) -> Tail:
        """Read along. `position`: None from now on, `"oldest"`, or one of a `TailItem`."""

    def mark(self) -> str:
        """A position in the whole bus, for `quiet`."""

    async def quiet(self, since: str | None = None) -> None:
        """Return when every event published since `since` (default: ever), and every event caused by
        one of them, has a final outcome in every group. Parked is not final. No deadline: wrap it.
        """

    async def dead_letters(
        self, selection: DeadLetterSelection = ..., *, limit: int = 100
    ) -> list[DeadLetter]:
        """The newest first."""

    async def redrive(self, selection: DeadLetterSelection) -> int:
        """Put back to the group that failed, and to it alone; attempts start at zero. How many."""

    async def discard(self, selection: DeadLetterSelection) -> int:
        """Give up for good. How many."""

    async def groups(self) -> list[GroupInfo]:
        """All groups of the backend, by name."""

    def providers(self) -> list[ProviderInfo]:
        """All providers that this replica can reach."""

    def add_types(self, entries: Sequence[CatalogEntry]) -> Callable[[], None]:
        """Enter event types into the catalogue; returns what takes them out again (safe twice)."""

    def types(self) -> list[CatalogEntry]:
        """The catalogue, by type and version; an entry for each plugin that declares the type."""
