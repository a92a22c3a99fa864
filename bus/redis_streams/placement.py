"""Who shall own which partition of a group: everybody comes to the same answer. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any


def candidates(hosts: Mapping[str, Any]) -> list[str]:
    """Replicas with the highest version of the plugin."""
    highest = max(hosts.values(), default=None)
    return [replica for replica, version in hosts.items() if version == highest]


def spread(hosts: Mapping[str, Any], group: str, partitions: int) -> list[str | None]:
    """The owner of each partition, no replica with more than its share.

    Each partition goes to the first in its own order of replicas that has room: so a replica that comes or
    goes moves little more than its share, and yet all have the same to do.
    """
    allowed = candidates(hosts)
    if not allowed:
        return [None] * partitions
    room = dict.fromkeys(allowed, -(-partitions // len(allowed)))
    owners: list[str | None] = []
    for p in range(partitions):
        owner = highest((replica for replica in allowed if room[replica]), f"{group}/{p}")
        if owner is not None:
            room[owner] -= 1
        owners.append(owner)
    return owners


def only(hosts: Mapping[str, Any], owners: Mapping[int, str], group: str) -> str | None:
    """The owner of all: who is it, as long as it may be; the others stand by."""
    allowed = candidates(hosts)
    for p in sorted(owners):
        if owners[p] in allowed:
            return owners[p]
    return highest(allowed, group)


def highest(replicas: Iterable[str], what: str) -> str | None:
    """Rendezvous hashing. Not by crc32: it is linear, so one replica would win all partitions."""

    def weight(replica: str) -> tuple[bytes, str]:
        return hashlib.blake2b(f"{what}/{replica}".encode(), digest_size=8).digest(), replica

    return max(replicas, key=weight, default=None)
