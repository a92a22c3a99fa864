"""The keys of one namespace, and how entries are named. Pure.

Everything of one partition shares a hash slot (`{0}`, `{1}` …), everything that concerns the whole bus
another (`{m}`). No key has a time to live, so that no eviction policy of the kind `volatile-*` takes one.
"""

from __future__ import annotations

from typing import NamedTuple

SYSTEM = "redis"
"""What `messaging.system` says."""

LAYOUT = 1
"""Version of what lies in Redis; another one is refused."""
FIRST = b"0-0"
"""Before every entry of a stream."""
CONSUMER = "o"
"""The one consumer of every group: only its owner reads, and the fence says who that is."""


class Names(NamedTuple):
    """Keys of one group in one partition of a topic."""

    own: str
    tally: str
    stream: str
    taken: tuple[str, ...]
    """KEYS of `recover.lua` and `remake.lua`."""
    settle: tuple[str, ...]
    """KEYS of `settle.lua`."""


class Keys:
    """Names of keys. `p`: a partition's number."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        control = f"{namespace}:{{m}}"
        self.meta = f"{control}:meta"
        """Hash: layout version, incarnation, revision of the catalogue."""
        self.topics = f"{control}:topics"
        """Hash: topic → its number of partitions."""
        self.groups = f"{control}:groups"
        """Hash: group → its declaration, and whether it is paused."""
        self.replicas = f"{control}:replicas"
        """Hash: replica → beat, what it hosts, what it provides."""
        self.types = f"{control}:types"
        """Hash: type, version, plugin, replica → catalogue entry."""
        self.news = f"{control}:news"
        """Stream: something above has changed; a hint, the hashes hold the truth."""

    def inbox(self, replica: str) -> str:
        """Stream: calls and answers for one replica."""
        return f"{self.namespace}:{{m}}:in:{replica}"

    def stream(self, topic: str, p: int) -> str:
        return f"{self.namespace}:{{{p}}}:s:{topic}"

    def numbers(self, topic: str, p: int) -> str:
        """Hash: last sequence, its millisecond, and the turn of the idempotency window."""
        return f"{self.namespace}:{{{p}}}:n:{topic}"

    def ids(self, topic: str, p: int, turn: int) -> str:
        """Hash: source and id of what was published lately → its entry; two that take turns."""
        return f"{self.namespace}:{{{p}}}:ids:{topic}:{turn}"

    def own(self, p: int) -> str:
        """Hash: group → epoch and replica that owns it."""
        return f"{self.namespace}:{{{p}}}:own"

    def low(self, topic: str, p: int) -> str:
        """Hash: group → the entry up to which it had settled everything when the topic was last looked at."""
        return f"{self.namespace}:{{{p}}}:low:{topic}"

    def tally(self, group: str, p: int) -> str:
        """Hash: counters of a group, the number of the last settlement, the turn of its dedupe."""
        return f"{self.namespace}:{{{p}}}:g:{group}"

    def lot(self, group: str, topic: str, p: int) -> str:
        """Hash: name of a delivery that waits → the message as it came."""
        return f"{self.namespace}:{{{p}}}:lot:{group}:{topic}"

    def slips(self, group: str, topic: str, p: int) -> str:
        """Hash: name of a delivery that waits → its place, attempts, due time and last error."""
        return f"{self.namespace}:{{{p}}}:lotm:{group}:{topic}"

    def again(self, group: str, topic: str, p: int) -> str:
        """List: names in the lot that its owner does not know of yet: dead letters that were put back."""
        return f"{self.namespace}:{{{p}}}:again:{group}:{topic}"

    def suspects(self, group: str, topic: str, p: int) -> str:
        """Hash: entry → starts that count, of what has no outcome and is not in the lot."""
        return f"{self.namespace}:{{{p}}}:sus:{group}:{topic}"

    def done(self, group: str, p: int, turn: int) -> str:
        """Hash: source and id of what was settled, where dedupe is asked for; two that take turns."""
        return f"{self.namespace}:{{{p}}}:done:{group}:{turn}"

    def dead(self, group: str, p: int) -> str:
        """Stream: dead letters."""
        return f"{self.namespace}:{{{p}}}:dead:{group}"

    def replay(self, group: str, p: int) -> str:
        """Hash: topic → from where to where it is delivered once more."""
        return f"{self.namespace}:{{{p}}}:replay:{group}"

    def delayed(self, p: int) -> str:
        """Sorted set: name of an event that is kept back → when it is due."""
        return f"{self.namespace}:{{{p}}}:delayed"

    def kept_back(self, p: int) -> str:
        """Hash: its name → topic and message."""
        return f"{self.namespace}:{{{p}}}:delayedm"

    def names(self, group: str, topic: str, p: int) -> Names:
        """What settling and fetching are about."""
        own, tally, stream = self.own(p), self.tally(group, p), self.stream(topic, p)
        suspects = self.suspects(group, topic, p)
        settle = (
            own, tally, stream, self.lot(group, topic, p), self.slips(group, topic, p), suspects,
            self.dead(group, p), self.done(group, p, 0), self.done(group, p, 1), self.replay(group, p),
        )  # fmt: skip
        return Names(own, tally, stream, (own, stream, suspects), settle)

    def of_partition(self, p: int) -> str:
        """What all keys of one partition begin with."""
        return f"{self.namespace}:{{{p}}}:"


def order_of(entry: bytes) -> int:
    """An entry's place in its stream as one number: entries of one stream sort by it."""
    millisecond, _, number = entry.partition(b"-")
    return int(millisecond) << 64 | int(number)


def entry_of(order: int) -> bytes:
    """The inverse of `order_of`."""
    return b"%d-%d" % (order >> 64, order & 0xFFFFFFFFFFFFFFFF)


def sequence_of(entry: bytes) -> int:
    """The number within the partition that the entry was given: the second half of its name."""
    return int(entry.partition(b"-")[2])


def position_of(topic: str, p: int, entry: bytes) -> str:
    """What a receipt says."""
    return f"{topic}/{p}:{entry.decode()}"


def owner_of(value: bytes | None) -> str:
    """Who owns, by what stands in Redis: epoch and replica; empty: nobody."""
    return "" if value is None else value.decode().partition(" ")[2]
