"""The event bus: what it promises, and what a backend must do to be one.

Whoever writes a backend needs this file, what it imports from here, and `bus.conformance`, the suite that
every backend passes. Every sentence below is a promise of all of them.

**Events.** An event is published under a type name, `topic.word.word`. The first word is its *topic*: the
unit of storage, order, retention and back pressure. A topic has a fixed number of *partitions*, recorded
when it is made; an event with a key goes to the partition that its key selects, one without to that which
its source and id select. Each partition numbers its events without gaps.

**Publishing.** `publish` returns when the backend has taken the event. The same (source, id) published
again within the idempotency window (`window_seconds` or the last `window` events of the partition,
whichever is less, but never less than 5 s or any longer publish deadline that was used; a backend may
remember longer) is one event: the second receipt says `duplicate`. Publishing waits for room while the
topic is at its limit, and raises `BusFull` at its deadline, naming the group that holds, in its fix too. A
publish made while handling a delivery never waits: it is admitted up to twice the limit, then raises. Data
over 1 MiB are refused before anything is sent.

**Delivery.** Each handler has a *group* of its own, named `<plugin_id>.<name>`. Every event whose type one
of the group's patterns selects is delivered to it at least once: its position, attempts, retries and dead
letters are its own, and no group ever delays or repeats another. A group is durable: it keeps its place
while nobody handles it, and a new one starts at the oldest event that is still retained (`start="new"`: at
the end). Several buses on one backend that subscribe to the same group share it; its patterns and options
are those of the latest declaration with the highest plugin version. A group that nobody has handled for
`keep` seconds is retired: dropped, announced with what was given up.

**Broadcast.** A subscription with `broadcast` has an ephemeral group of its own on each replica. It holds
nothing back: what is trimmed before it came to it is missed, counted and announced (`bus.gap`).

**Ownership.** Of one group and partition there is one owner at a time: (replica, epoch). Every take and
every settlement checks it; what a former owner still sends is refused and counted. Only replicas with the
highest `plugin_version` of the group may own; with `exclusive`, one owns all partitions. When an owner
leaves, or is not seen for `lease` seconds of the observers' monotonic clocks, another takes over with a
higher epoch. What a former owner still does has no effect here: its settlements are refused and counted,
its failures are not, and the events that its handlers return are not published; what they publish
themselves is. What it had started is *suspect*: it is started one at a time, before anything newer. The
start that was lost is not counted; a suspect's start is, before it runs, so that an event that kills its
process is a dead letter (`attempts`) when they are used up. When a replica joins, a partition that is to be
its own starts nothing more where it is, and moves when nothing of it runs; a backend may let it go on where
that takes long, and try again later.

**Order.** Within one topic, events of one key start in the order in which they were published, and never
two at once, through retries, takeover and redrive of others. Keys run in parallel, up to the subscription's
`concurrency` (its lanes). Events without a key are not ordered among each other where there is more than
one lane. `order="topic"` treats a whole topic as one key; `order="none"` gives each event one of its own.
Nothing is promised between topics.

**Outcome.** Every attempt ends with exactly one `Outcome`: acknowledged, parked until a time, dead,
discarded, expired. Being cancelled with the bus, or crashing, is no outcome: the event is delivered again.
The events that a handler returns are published before it is acknowledged, with the `source` of the spec,
the key of the delivery, and ids derived from it, so that a repetition is one event. An attempt is a start
of the handler; having been fetched is none. An event whose expiry has passed is not started.

**Retry.** `RetryPolicy` judges what a handler raises: rules in order, the first that fits; else parked with
backoff, until the attempts are used up. What the error asks for (`retry_after`, seconds) is a lower bound
of every pause. Data that do not fit the handler's model never will: dead at once. An error of
`EventResult.dead_letter` has the type `EventResult.dead_letter` and the handler's reason as its message.

**Flow.** In this order, before an attempt starts: predicate (`where`; no is acknowledged and counted; a
predicate that raises is a failed attempt), dedupe, circuit breaker, rate. Attempts in place pass them
again, and count for rate and breaker. Each is per subscription and replica but dedupe, which is the
group's.

**The lot.** A delivery that must wait is moved out of the way, into the *lot* of its group; later events of
its key queue behind it, other keys go on, and nothing in a lot holds back the topic's limit. At `lot`
entries of one group in one partition, that partition is read no further; what was taken already may still
join it.

**Overflow.** Above `max_waiting` events that wait for a group in one partition, `drop_oldest` or `drop_new`
give up the oldest or the newest of them, for that group alone, counted and announced (`bus.overflowed`).

**Dead letters.** A delivery that is given up is moved, once, to the dead letters of its group with
everything that is known of its end. Its key goes on. What cannot be decoded, does not fit its model, or is
of a newer version than the handler knows, is a dead letter at once with its raw bytes; the next event is
not delayed. Redrive puts it back to that group alone, with its attempts at zero. The number kept is
bounded; the oldest go, counted and announced.

**Pausing.** A group that is paused, on all replicas, starts nothing; what runs finishes, and it keeps its
place. Commands and retry rules pause groups; so does the storm guard.

**Storms.** Each event carries the depth and the path (the groups that it went through) of its causal chain.
A publish that would continue a chain beyond `depth`, or pass the same group more than `loops` times, raises
`StormDetected`: the delivery is parked, its group is paused and named (`bus.storm`). `relay` continues a
chain like `publish`. What is published with a delay of a second or more begins a new one (its correlation
stays): that is a schedule, not a storm.

**Replay.** A second cursor of one group over events that are still retained, beside live traffic: with at
most a quarter of its lanes, or every fourth turn where there are fewer than four. Replayed deliveries
(`PluginEvent.replayed`) keep the order of their keys, and never run at once with a live one of their key.

**Tails.** A tail reads along from now on (or from a position, or a time), belongs to no group, settles
nothing and disturbs nobody; what it misses because the topic was trimmed is reported as a gap.

**Retention.** What every group has settled is kept at least for `retain_seconds` or `retain` events,
whichever is less; nothing younger than `young_seconds` is trimmed while the topic holds less than half of
its limit, and never what an active or dormant group still needs. It is trimmed at the latest when the limit
is reached, so that what is only retained never holds a publisher back.

**Calls.** A request is not an event of the log: it is executed at most once by one provider, within the
time that is left. No provider is known at once, not a timeout. An answer that comes late, or twice, is
dropped and counted. Of several providers the best that can be reached is asked: the highest `rank`; of equal
ones those of the requester's own replica before others'; of these who came first, while other replicas take
turns. What `provide` hands out can be drained: from then on the next one is asked, and what still reaches
the former (on its way from another replica) goes on to the next as well: it fails for nobody.

**What the bus says of itself** (`contracts.messages.delivery`) is published with the source `/bus` through
a bounded queue that nobody waits for; the topic `bus` is limited and trimmed like any other, but admitted
up to twice the limit. Failures of groups that select `bus.**` are logged and counted, not announced.

**Clocks.** Leases, deadlines, backoff, breakers and the idempotency window run on the monotonic clock;
`time`, expiry, retention and delayed publishing on the wall clock. A jump of the wall clock, noticed within
90 s, shifts these and nothing else. A monotonic due time that must outlive its process is kept as a moment
of the wall clock, and turned back at the start.

**Closing.** `close` stops reading, lets handlers and calls that run finish within the grace time (they may
still publish), cancels the rest (they are delivered again to whoever comes next), and leaves no task
behind. Afterwards every method raises `BusClosed`, but `close` and those that only look; a publish that is
still under way then raises `PublishUnknown` if the backend may have taken the event. A handler that removes,
drains or closes what it runs in is not waited for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from .envelope import Envelope
from .errors import ErrorInfo
from .event import AnyEvent, EventResult, Receipt
from .inspection import (
    BusInfo,
    CatalogEntry,
    DeadLetter,
    DeadLetterSelection,
    GroupInfo,
    ProviderInfo,
    TopicInfo,
)
from .message import PluginEvent
from .metering import Meter
from .metrics import Metric
from .subscription import (
    CircuitBreaker,
    RateLimit,
    RetryPolicy,
    RetryRule,
    SubscriptionOptions,
    SubscriptionSpec,
)

__all__ = [
    "DEFAULT_TIMEOUT",
    "MAX_PAYLOAD",
    "Acknowledged",
    "BusInfo",
    "BusLimits",
    "BusSubscription",
    "Call",
    "CallReply",
    "CatalogEntry",
    "CircuitBreaker",
    "Dead",
    "DeadLetter",
    "DeadLetterSelection",
    "Discarded",
    "Erasable",
    "EventBus",
    "Expired",
    "Features",
    "GroupInfo",
    "Handler",
    "Outcome",
    "Parked",
    "Predicate",
    "Provider",
    "ProviderInfo",
    "ProviderSpec",
    "Provision",
    "RateLimit",
    "RetryPolicy",
    "RetryRule",
    "Subscription",
    "SubscriptionOptions",
    "SubscriptionSpec",
    "Tail",
    "TailItem",
    "TopicInfo",
]

MAX_PAYLOAD = 1 << 20
"""Bytes of JSON data that one event may carry."""
DEFAULT_TIMEOUT = 5.0
"""Seconds: deadline of a publish or a request that does not say."""


class BusLimits(BaseModel):
    """How much a backend keeps, and for how long: the numbers behind the promises above.

    Counts are per partition where nothing else is said; seconds are seconds. All replicas of one backend
    have the same. Where the operator set nothing (`model_fields_set`) a backend may have its own default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    partitions: int | dict[str, int] = 1
    """Of each topic, or of each topic by name (others: 1). The reserved topics always have 1."""
    retain: int = Field(default=100_000, ge=0)
    """Events that stay readable for those who come late."""
    retain_seconds: float = Field(default=86_400.0, ge=0)
    """Seconds for which they do; whichever of both is less."""
    young_seconds: float = Field(default=60.0, ge=0)
    """Seconds for which an event is kept anyway while the topic holds less than half of `limit`."""
    limit: int = Field(default=1_000_000, ge=1)
    """Events that may wait for the slowest group; then publishing waits."""
    lot: int = Field(default=200_000, ge=1)
    """Parked deliveries of one group in one partition."""
    dead_letters: int = Field(default=10_000, ge=1)
    """Of one group, all partitions together."""
    window_seconds: float = Field(default=120.0, ge=0)
    """Seconds in which an event that is published again is the same event."""
    window: int = Field(default=50_000, ge=1)
    """Ids of published events that are remembered."""
    dedupe_seconds: float = Field(default=86_400.0, ge=0)
    """Seconds for which a group with `dedupe` remembers what it has settled."""
    dedupe: int = Field(default=100_000, ge=1)
    """Ids of settled deliveries that a group with `dedupe` remembers."""
    lease: float = Field(default=15.0, gt=0)
    """Seconds without a beat after which a replica counts as gone; it beats three times as often."""
    announcements: int = Field(default=10_000, ge=1)
    """`bus.*` events of one replica that wait to be published; further ones are dropped and counted."""
    depth: int = Field(default=100, ge=1)
    """Events that may cause one another, one after the other."""
    loops: int = Field(default=25, ge=1)
    """How often one causal chain may pass the same group."""


# --- who handles, who answers ---------------------------------------------------------------------------

Handler = Callable[[PluginEvent], Awaitable[EventResult | None]]
"""Runs one attempt. None means acknowledged; raising means failed, judged by the retry policy."""

Predicate = Callable[[PluginEvent], bool]
"""Whether an event is wanted. Called before each attempt; it must not block."""


class ProviderSpec(BaseModel):
    """A capability and who provides it."""

    model_config = ConfigDict(frozen=True)

    capability: str
    plugin_id: str
    provider: str
    """Name within the plugin; what the host is told."""
    reach: Literal["local", "shared"] = "shared"
    rank: int = 0
    """Of several providers the one with the highest is asked."""
    timeout: float = 30.0
    """Seconds: upper bound of one execution, whatever the caller allows; then the caller gets
    `ProviderFailed` with a `HandlerTimeout`."""
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
    trace: str | None = None
    """Where flows are traced: the span of who asks, as `str` of a `contracts.tracing.TraceContext`."""


class CallReply(BaseModel):
    """The answer as data."""

    model_config = ConfigDict(frozen=True)

    data: str
    """JSON text."""
    replica: str = ""


Provider = Callable[[Call], Awaitable[CallReply]]


# --- how an attempt ends: the words of the loop that backends share (`bus.delivery`) -----------------------


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Done."""


@dataclass(frozen=True, slots=True)
class Parked:
    """Wait in the lot until `due` (monotonic seconds); None: behind the earlier event of its key.

    `math.inf`: until the group is resumed.
    """

    due: float | None
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """Given up; the reasons stand at `DeadLetter.reason`."""

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


# --- reading along, and what a backend is ----------------------------------------------------------------


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


class Provision(Subscription, Protocol):
    """A provider made active. `remove` is safe twice; calls under way end with `ProviderLost`."""

    async def drain(self, grace: float) -> bool:
        """Take no more calls, which go to the next in rank; wait up to `grace` seconds for those that run.

        What still runs then is cancelled: its caller gets `ProviderLost`. Returns whether all finished.
        """


class Tail(Protocol):
    """A reader beside the groups; an async iterator that ends when it is closed."""

    def __aiter__(self) -> AsyncIterator[TailItem]: ...

    async def __anext__(self) -> TailItem: ...

    def read_nowait(self) -> list[TailItem]:
        """What can be read at once, oldest first within each topic; at most 1,000, so call it again."""

    def close(self) -> None:
        """End the tail; a waiting `__anext__` stops iterating. Safe twice."""


@runtime_checkable
class Erasable(Protocol):
    """A bus that can remove its namespace from the backend: what test kits ask for, and nobody else."""

    async def erase(self) -> None:
        """Delete everything that the backend keeps in this bus's namespace, for good.

        Of a bus that was made and not opened (an open one would miss what is gone): it connects by itself,
        and is closed afterwards. No other bus may be open on the namespace. Raises `BusError`.
        """


class EventBus(Protocol):
    """One replica's handle on a backend. Opened once, closed once; used from one event loop."""

    @property
    def replica(self) -> str:
        """Unique name of this handle among all on the backend."""

    @property
    def features(self) -> Features: ...

    async def open(self) -> None:
        """Connect. Raises `BusError` with cause and fix if the backend cannot be reached, or the replica's
        name is in use; it is free again after `close` or a crash. Once only: then `BusClosed`.

        After a `BusError` it may be tried again, unless `is_final` says that this will not help."""

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

        `delay` (seconds) or `at`: keep it back until then; it is numbered when it becomes visible, and until
        then has the position `"delayed"`. Whether it is a duplicate is judged now. An `at` that has passed
        means now. `expires`: not handled after that moment. Causes (`correlationid`,
        `causationid`, depth and path) are taken from the delivery that is being handled in the current
        context, if any.
        Raises `BusFull`, `PayloadTooLarge`, `PublishUnknown`, `StormDetected`, `BusClosed`, and
        `InvalidPattern` for what is no type name, `InvalidOption` for a negative delay, `delay` and `at`
        together, an `expires` that has passed, a moment without time zone, an empty id or source, a timeout
        that is not positive.
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

    async def drop_group(self, group: str, *, reason: str = "") -> None:
        """Retire a group: forget its place, its lot and its dead letters, and announce what was given up.

        Who handles it is cut off: handlers that run are cancelled and gone when this returns, and its
        subscriptions are as removed.
        Unknown names are ignored.
        """

    async def pause_group(self, group: str, *, reason: str = "") -> bool:
        """Start nothing more of it, on all replicas, until it is resumed. False: it was paused already.

        What runs finishes. Survives what the group survives. Raises `GroupNotFound`.
        """

    async def resume_group(self, group: str) -> bool:
        """Go on where it was; what was parked until the resume (`math.inf`) is due. False: it was not paused.

        Raises `GroupNotFound`.
        """

    async def subscribe(
        self,
        spec: SubscriptionSpec,
        handler: Handler,
        *,
        where: Predicate | None = None,
        meter: Meter | None = None,
    ) -> BusSubscription:
        """Make `handler` active in its group (declared if new). `where`: only events for which it is true.
        `meter`: loop time, handler time and failed attempts are counted there.

        Raises `GroupConflict` if the group belongs to another plugin, or this bus already hosts it,
        `InvalidPattern`, and `InvalidOption` for `order="topic"` where a topic that it may select has
        several partitions.
        """

    async def replay(
        self, group: str, *, start: str | datetime = "oldest", end: str | datetime | None = None
    ) -> int:
        """Deliver retained events to one group once more; how many there are to go through.

        `start`, `end`: a position that a receipt or a `TailItem` gave, a time, or `"oldest"`; events at
        `start` and after it, before `end` (None: what has been published by now). A `TailItem`'s position
        concerns all partitions, a receipt's its own alone: the others are then left out. Replaces a replay
        of the group that is under way. What is trimmed before its turn is left out, and announced
        (`bus.gap`).
        Raises `GroupNotFound`, `InvalidOption` for what is no position.
        """

    async def cancel_replay(self, group: str) -> int:
        """End a replay; how many events it had still to go through. Raises `GroupNotFound`."""

    async def provide(self, spec: ProviderSpec, provider: Provider) -> Provision:
        """Offer a capability from this replica. Several providers may offer the same one: see *Calls*."""

    async def request(
        self,
        capability: str,
        query: BaseModel | str,
        *,
        source: str,
        timeout: float = DEFAULT_TIMEOUT,
        target: str = "any",
    ) -> list[CallReply]:
        """Ask the best provider; one reply, or with `target="all"` those that came of the best one of each
        replica (an error only if none came); a replica's name picks its best. A timeout that is not positive
        is over at once.

        Raises `NoProvider` at once, `CallTimeout`, `ProviderFailed`, `ProviderLost`.
        """

    def tail(self, *patterns: str, position: str | datetime | None = None) -> Tail:
        """Read along. `position`: None from now on, `"oldest"`, a time, or one of a `TailItem` (a receipt's
        concerns one partition alone).

        Raises `InvalidOption` for what is no position, `InvalidPattern`.
        """

    def mark(self) -> str:
        """A position in the whole bus, for `quiet`."""

    async def quiet(self, since: str | None = None) -> None:
        """Return when every event published since `since` (default: ever), and every event caused by
        one of them, has a final outcome in every group, replays and redrives included. Parked is not
        final. No deadline: wrap it.
        """

    async def dead_letters(
        self, selection: DeadLetterSelection = ..., *, limit: int = 100, after: str | None = None
    ) -> list[DeadLetter]:
        """The newest first, by when they were added; an import adds in the order given.

        `after`: go on behind the dead letter with that id, for page after page; raises
        `DeadLetterNotFound` if it is not there any more.
        """

    async def count_dead_letters(self, selection: DeadLetterSelection = ...) -> int:
        """How many `redrive` or `discard` would take."""

    async def redrive(self, selection: DeadLetterSelection, *, rate: float | None = None) -> int:
        """Put back to the group that failed, and to it alone; attempts start at zero. How many.

        The oldest first; `rate`: at most so many a second are let go, and they count as parked until then.
        """

    async def discard(self, selection: DeadLetterSelection) -> int:
        """Give up for good. How many."""

    async def import_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        """Add dead letters, e.g. of another installation, to groups that exist here; how many were new.

        Raises `GroupNotFound`, and then adds none.
        """

    async def info(self) -> BusInfo:
        """What the backend is and what is in force: asked anew at each call, within 2 s.

        Never raises because the backend cannot be reached (`connected` is then False); works before `open`
        and after `close` too, and is then not connected.
        """

    async def groups(self) -> list[GroupInfo]:
        """All groups of the backend, by name."""

    async def topics(self) -> list[TopicInfo]:
        """All topics of the backend, by name."""

    def metrics(self) -> list[Metric]:
        """What this replica has sent, handled and given up since it was made; asks nobody.

        `messaging.client.sent.messages`, `messaging.client.operation.duration`,
        `messaging.client.consumed.messages` and `messaging.process.duration` follow OpenTelemetry's messaging
        conventions; what is sent and handled while flows are not traced (`TRACING`) is not counted in them.
        `plugbus.attempts.failed` counts always, by group and `plugbus.outcome`: `retry`, `discard`, `pause`,
        `dead_letter`. Nothing names an event, so each has a bounded number of points.
        """

    def providers(self, capability: str | None = None) -> list[ProviderInfo]:
        """All providers that this replica can reach, or those of one capability: the best of each first."""

    def add_types(self, entries: Sequence[CatalogEntry]) -> Callable[[], None]:
        """Enter event types into the catalogue; returns what takes them out again (safe twice).

        Here at once, on the other replicas soon. What a replica does not take out stays when it is gone,
        until another one declares types of the same plugin.
        """

    def types(self) -> list[CatalogEntry]:
        """The catalogue, by type and version; an entry for each plugin that declares the type.

        What all replicas have declared, as far as it is known here: asks nobody.
        """
