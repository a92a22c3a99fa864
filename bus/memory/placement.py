"""Who shall own which partition of a group: everybody comes to the same answer. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..groups import GroupPartition

if TYPE_CHECKING:
    from .hosting import Hosting


def candidates(hosts: Iterable[Hosting]) -> list[Hosting]:
    """Those with the highest version of the plugin."""
    known = list(hosts)
    highest = max((hosting.version for hosting in known), default=None)
    return [hosting for hosting in known if hosting.version == highest]


def best(hosts: Iterable[Hosting], part: GroupPartition) -> Hosting | None:
    """The owner of one partition: a replica that comes or goes moves as few as possible."""
    return _highest(candidates(hosts), f"{part.group}/{part.topic}/{part.number}")


def only(hosts: Iterable[Hosting], parts: Iterable[GroupPartition], group: str) -> Hosting | None:
    """The owner of all: who is it, as long as it may be; the others stand by."""
    allowed = candidates(hosts)
    for part in parts:
        for hosting in allowed:
            if part.owner is hosting:
                return hosting
    return _highest(allowed, group)


def _highest(hosts: list[Hosting], what: str) -> Hosting | None:
    """Rendezvous hashing. Not by crc32: it is linear, so one replica would win all partitions."""

    def weight(hosting: Hosting) -> tuple[bytes, str]:
        text = f"{what}/{hosting.replica}"
        return hashlib.blake2b(text.encode(), digest_size=8).digest(), hosting.replica

    return max(hosts, key=weight, default=None)
