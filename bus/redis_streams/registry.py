"""What the whole bus shares: topics, groups, replicas. Kept in Redis; here is one replica's view of it.

Whatever changes is told on the stream of news: a hint to look again, never the truth itself. Two rules keep
a group from missing anything. Whoever declares a group writes it down first, and then makes its place in
every topic that he finds; whoever makes a topic writes it down first, and then makes the places of all
groups that he finds. So at least one of two at once sees the other.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import hiredis

from contracts.bus import BusLimits, SubscriptionSpec
from contracts.errors import BusError, GroupConflict, GroupNotFound
from contracts.patterns import check_pattern, check_type_name
from contracts.subscription import precedence_of

from ..groups import is_silent
from ..limits import ROUTE_CACHE, check_order, partitions_of
from ..topics import may_select
from .errors import explained
from .layout import LAYOUT, Keys
from .link import Link
from .scripts import script
from .server import check_version, parse_info
from .wire import CONNECT, Command, Lost, Refused

log = logging.getLogger("plugbus.bus")

_RETRIES = 50
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A group as it stands in Redis. `raw`: exactly as it was read, for changing it."""

    spec: SubscriptionSpec
    paused: str | None = None
    dormant_ms: int | None = None
    """Since when nobody handles it, by the server's clock; None: somebody does."""
    raw: bytes = b""

    @classmethod
    def read(cls, raw: bytes) -> GroupRecord:
        found = json.loads(raw)
        spec = SubscriptionSpec.model_validate(found["spec"])
        return cls(spec, found.get("paused"), found.get("dormant_ms"), raw)

    def write(self) -> bytes:
        record: dict[str, Any] = {"spec": self.spec.model_dump(mode="json")}
        if self.paused is not None:
            record["paused"] = self.paused
        if self.dormant_ms is not None:
            record["dormant_ms"] = self.dormant_ms
        return json.dumps(record).encode()

    @property
    def is_silent(self) -> bool:
        """What the bus says of this group's failures would come back to it: it says nothing."""
        return is_silent(self.spec)


class OfferRecord(NamedTuple):
    """A provider that a replica offers to others."""

    id: str
    capability: str
    plugin_id: str
    timeout: float
    """Seconds that one execution may take."""
    rank: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """A replica as it shows itself. `raw`: as it was read."""

    incarnation: str
    beat: int
    hosts: dict[str, str]
    """Group → plugin version."""
    offers: tuple[OfferRecord, ...]
    rates: dict[str, float]
    """Group → deliveries taken per second; topic with a slash before it → published per second."""
    broken: tuple[str, ...]
    """Groups whose circuit breaker is open there."""
    raw: bytes = b""

    @classmethod
    def read(cls, raw: bytes) -> ReplicaRecord:
        incarnation, _, text = raw.decode().partition(" ")
        found = json.loads(text)
        return cls(
            incarnation, found["n"], found.get("h", {}),
            tuple(OfferRecord(*offer) for offer in found.get("o", ())),
            found.get("r", {}), tuple(found.get("b", ())), raw,
        )  # fmt: skip

    def write(self) -> bytes:
        record = {"n": self.beat, "h": self.hosts, "o": self.offers, "r": self.rates, "b": self.broken}
        return f"{self.incarnation} {json.dumps(record)}".encode()


@dataclass(slots=True)
class View:
    """What one replica knows."""

    topics: dict[str, int] = field(default_factory=dict)
    """Topic → partitions."""
    groups: dict[str, GroupRecord] = field(default_factory=dict)
    replicas: dict[str, ReplicaRecord] = field(default_factory=dict)
    selected: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    """Patterns → topics: every group is asked for again and again, and topics seldom change."""

    def topics_of(self, patterns: Iterable[str]) -> tuple[str, ...]:
        wanted = tuple(patterns)
        found = self.selected.get(wanted)
        if found is None:
            if len(self.selected) >= ROUTE_CACHE:
                self.selected.clear()
            found = self.selected[wanted] = tuple(
                topic for topic in self.topics if any(may_select(pattern, topic) for pattern in wanted)
            )
        return found

    def places_of(self, patterns: Iterable[str]) -> list[tuple[str, int]]:
        """Every topic and partition that patterns may select."""
        return [(topic, p) for topic in self.topics_of(patterns) for p in range(self.topics[topic])]

    def hosts_of(self, group: str) -> dict[str, Any]:
        """Replica → version of the plugin that handles the group there, to be compared."""
        return {
            replica: precedence_of(record.hosts[group])
            for replica, record in self.replicas.items() if group in record.hosts
        }  # fmt: skip


R = TypeVar("R", GroupRecord, ReplicaRecord)


class Registry:
    """Reads and changes what is shared. Everything here is rare."""

    def __init__(self, link: Link, keys: Keys, limits: BusLimits) -> None:
        self._link = link
        self._wire = link.control
        self.keys = keys
        self.limits = limits
        self.view = View()
        self.incarnation = ""
        """Of the data in Redis: another one means that they were lost."""
        self.on_change: Callable[[], None] = lambda: None
        self.on_loss: Callable[[], None] = lambda: None
        self._ready: set[str] = set()
        """Topics in which every group that we know of has its places."""
        self._doubted: dict[tuple[str, bytes], bool] = {}
        """Records that could not be read, and whether that was said: it was so twice."""

    # --- the namespace ----------------------------------------------------------------------------

    async def enter(self) -> None:
        """Make the namespace, or see that we can read it. Raises `BusError`, `Lost`."""
        wire, keys = self._wire, self.keys
        try:
            check_version(parse_info(await wire.ask("INFO", "server")), self._link.address)
            await wire.ask("HSETNX", keys.meta, "layout", LAYOUT)
            await wire.ask("HSETNX", keys.meta, "incarnation", secrets.token_hex(8))
            layout = (await wire.ask("HGET", keys.meta, "layout")).decode(errors="replace")
            incarnation = await wire.ask("HGET", keys.meta, "incarnation")
        except Refused as error:
            raise explained(error, where=f"{self._link.address}, namespace {keys.namespace!r}") from None
        if layout != str(LAYOUT):
            raise BusError(
                f"namespace {keys.namespace!r} has layout {layout}; this Plugbus knows {LAYOUT}",
                where=self._link.address,
                fix="upgrade this Plugbus, or use another namespace: PLUGBUS_BUS__NAMESPACE",
                is_final=True,
            )
        if not incarnation.isascii():
            raise BusError(
                f"namespace {keys.namespace!r} is not ours: {keys.meta} has incarnation {incarnation[:40]!r}",
                where=self._link.address,
                fix="use another namespace: PLUGBUS_BUS__NAMESPACE",
                is_final=True,
            )
        self.incarnation = incarnation.decode()
        try:
            await self.refresh()
        except Lost:  # perhaps something was changed on its way: the next connection tells
            await self._link.ready(wire, CONNECT)
            await self.refresh()

    async def refresh(self) -> View:
        """Look again. Raises `Lost`, `Refused`."""
        keys = self.keys
        incarnation, topics, groups, replicas = await self._wire.call(
            script("survey"), (keys.meta, keys.topics, keys.groups, keys.replicas)
        )
        if incarnation != self.incarnation.encode():
            if await self._wire.ask("HGET", keys.meta, "incarnation") == self.incarnation.encode():
                return await self.refresh()  # it was changed on its way
            self._ready.clear()
            self.on_loss()
            return self.view
        view = self.view
        known = self._read_all(keys.topics, topics, int, {}, view.topics)
        self.view = View(
            known,
            self._read_all(keys.groups, groups, GroupRecord.read, _by_raw(view.groups), view.groups),
            self.read_replicas(replicas),
            view.selected if known == view.topics else {},
        )
        self.on_change()
        return self.view

    def read_replicas(self, flat: list[bytes]) -> dict[str, ReplicaRecord]:
        replicas = self.view.replicas
        return self._read_all(self.keys.replicas, flat, ReplicaRecord.read, _by_raw(replicas), replicas)

    def _read_all(
        self, key: str, flat: list[bytes], read: Callable[[bytes], T], known: dict[bytes, T],
        former: dict[str, T],
    ) -> dict[str, T]:  # fmt: skip
        """Records by name; those that are `known` are not read again. Raises `Lost`.

        One that cannot be read may have been changed on its way: it is read again over a new connection. If
        it is no better then, somebody else has written it: that is said once, and it stays what it was.
        """
        found: dict[str, T] = {}
        with self.as_written():
            pairs = list(_pairs(flat))
        with self.as_written():
            doubts: list[Exception] = []
            for field_name, raw in pairs:
                try:
                    name, record = field_name.decode(), known.get(raw)
                    found[name] = read(raw) if record is None else record
                    self._doubted.pop((key, field_name), None)
                except _UNREADABLE as error:
                    if self._is_new_doubt(key, field_name, error):
                        doubts.append(error)
                    name = field_name.decode(errors="replace")
                    if name in former:
                        found[name] = former[name]
            if doubts:
                raise doubts[0]
        return found

    def _is_new_doubt(self, key: str, field_name: bytes, error: Exception) -> bool:
        is_said = self._doubted.get((key, field_name))
        self._doubted[key, field_name] = is_said is not None
        if is_said is False:
            log.warning("%s: %r cannot be read, somebody else wrote it: %s", key, field_name, error)
        return is_said is None

    @contextlib.contextmanager
    def as_written(self) -> Iterator[None]:
        """What cannot be read was changed on its way: the connection is not trusted any more."""
        try:
            yield
        except _UNREADABLE as error:
            self._wire.close()
            raise Lost(f"what was read is not what we write: {error}") from None

    async def tell(self, what: str | bytes) -> None:
        """Have everybody look again."""
        await self._wire.ask("XADD", self.keys.news, "MAXLEN", "~", 1_000, "*", "k", what)

    # --- topics -----------------------------------------------------------------------------------

    def partitions(self, topic: str) -> int | None:
        """How many it has; None: it must be made first."""
        return self.view.topics.get(topic) if topic in self._ready else None

    async def make_topic(self, topic: str) -> int:
        """The topic and the places of all groups in it exist when this returns. Raises `Lost`, `Refused`."""
        check_type_name(topic)
        await self._wire.ask("HSETNX", self.keys.topics, topic, partitions_of(self.limits, topic))
        view = await self.refresh()
        # Also where it exists: whoever is making it may not have come so far.
        await self._make_places(
            (record.spec.group, topic, p, b"0")
            for record in view.groups.values()
            if any(may_select(pattern, topic) for pattern in record.spec.patterns)
            and not record.spec.options.broadcast
            for p in range(view.topics[topic])
        )
        await self.tell("topics")
        self._ready.add(topic)
        return view.topics[topic]

    async def _make_places(self, places: Iterable[tuple[str, str, int, bytes]]) -> None:
        """Group, topic, partition, behind which entry it begins. Those that exist stay as they are.

        One that was there before and that somebody else has deleted begins where it is known to have been.
        """
        wanted = list(places)
        if not wanted:
            return
        known = await self._wire.ask_all(
            *(("HGET", self.keys.low(topic, p), group) for group, topic, p, _ in wanted)
        )
        commands: list[Command] = [
            ("XGROUP", "CREATE", self.keys.stream(topic, p), group, low or begin, "MKSTREAM")
            for (group, topic, p, begin), low in zip(wanted, known, strict=True)
        ]
        for reply in await self._wire.send(*commands):
            if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("BUSYGROUP"):
                raise Refused(str(reply))

    # --- groups -----------------------------------------------------------------------------------

    def find(self, group: str) -> GroupRecord:
        """Raises `GroupNotFound`."""
        record = self.view.groups.get(group)
        if record is None:
            raise GroupNotFound(f"there is no group {group!r}", fix="plugbus group list")
        return record

    def check(self, spec: SubscriptionSpec) -> None:
        """Whether `declare` would do; raises what it raises."""
        for pattern in spec.patterns:
            check_pattern(pattern)
        check_order(spec, self.limits)
        record = self.view.groups.get(spec.group)
        if record is not None and record.spec.plugin_id != spec.plugin_id:
            raise GroupConflict(
                f"group {spec.group!r} belongs to plugin {record.spec.plugin_id!r},"
                f" not to {spec.plugin_id!r}",
                fix="name the group <plugin_id>.<handler>",
            )

    async def declare(self, spec: SubscriptionSpec) -> GroupRecord:
        """Make the group, or change it; its places exist when this returns.

        While somebody handles it, an older version of its plugin changes nothing. Raises `GroupConflict`,
        `InvalidOption`, `InvalidPattern`, `Lost`, `Refused`.
        """
        for _ in range(_RETRIES):
            view = await self.refresh()
            self.check(spec)
            record = view.groups.get(spec.group)
            if record is not None and (record.spec == spec or self._is_outdated(spec, record, view)):
                return record
            wanted = GroupRecord(
                spec, None if record is None else record.paused, None if record is None else record.dormant_ms
            )
            if not await self._swap(spec.group, record, wanted):
                continue
            await self._place(spec, record)
            await self.refresh()
            return self.view.groups.get(spec.group, wanted)
        raise BusError(f"group {spec.group!r} is changed by others all the time", fix="ask again")

    async def _place(self, spec: SubscriptionSpec, former: GroupRecord | None) -> None:
        """A new group begins where it asks to; an old one, in topics that are new to it, begins now."""
        if spec.options.broadcast:
            return
        begin = b"$" if former is not None or spec.options.start == "new" else b"0"
        view = await self.refresh()
        await self._make_places((spec.group, topic, p, begin) for topic, p in view.places_of(spec.patterns))

    def _is_outdated(self, spec: SubscriptionSpec, record: GroupRecord, view: View) -> bool:
        return bool(view.hosts_of(spec.group)) and spec.precedence < record.spec.precedence

    async def change(self, group: str, change: Callable[[GroupRecord], GroupRecord | None]) -> bool:
        """Change a record; `change` answers None where there is nothing to do. Raises `GroupNotFound`."""
        for _ in range(_RETRIES):
            await self.refresh()
            record = self.find(group)
            wanted = change(record)
            if wanted is None:
                return False
            if await self._swap(group, record, wanted):
                await self.refresh()
                return True
        raise BusError(f"group {group!r} is changed by others all the time", fix="ask again")

    async def remove(self, record: GroupRecord) -> bool:
        """Forget a group; whether it was us who did."""
        return await self._swap(record.spec.group, record, None)

    async def _swap(self, group: str, known: GroupRecord | None, wanted: GroupRecord | None) -> bool:
        [done] = await self._wire.call(
            script("swap"), (self.keys.groups, self.keys.news), group,
            b"" if known is None else known.raw, b"" if wanted is None else wanted.write(), "groups",
        )  # fmt: skip
        return bool(done)


def _pairs(flat: list[bytes]) -> Iterable[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _by_raw(records: dict[str, R]) -> dict[bytes, R]:
    """As they stand in Redis: what has not changed is not read again."""
    return {record.raw: record for record in records.values()}
