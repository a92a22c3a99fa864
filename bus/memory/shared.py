"""Brokers that several buses of one process open by name."""

from __future__ import annotations

import weakref
from typing import Any

from contracts.bus import BusLimits
from contracts.errors import InvalidOption

from ..limits import merged
from .broker import MemoryBroker

_shared: weakref.WeakValueDictionary[tuple[str, str], MemoryBroker] = weakref.WeakValueDictionary()


def shared_broker(namespace: str, name: str, **options: Any) -> MemoryBroker:
    """The one of that name, as long as somebody holds it; made if there is none."""
    broker = _shared.get((namespace, name))
    if broker is None:
        broker = _shared[namespace, name] = MemoryBroker(**options)
    else:
        _check_same(f"memory://{name}", broker.limits, **options)
    return broker


def _check_same(
    url: str, shared: BusLimits, *, limits: BusLimits | None = None,
    partitions: int | dict[str, int] | None = None, **_: Any,
) -> None:  # fmt: skip
    """What is not given fits everything."""
    wanted = merged(limits or shared, partitions)
    for name, value in wanted:
        known = getattr(shared, name)
        if value != known:
            raise InvalidOption(
                f"{url} is open with {name}={known!r}, and {name}={value!r} is asked for",
                where=f"{url}, {name}",
                fix="all that share a broker give it the same limits, or give it another name",
            )
