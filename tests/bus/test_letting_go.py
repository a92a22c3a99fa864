"""What the memory bus retains of a class that is to go."""

from __future__ import annotations

import gc
import weakref

from bus.memory import MemoryBroker, MemoryBus
from contracts.bus import CatalogEntry
from contracts.event import Event


def made() -> type[Event]:
    """A class as a generation of a plugin makes one, deeply immutable: its objects are shared."""

    class Made(Event, type="letting_go.made"):
        number: int

    return Made


async def test_what_is_retained_keeps_no_class_of_a_generation_that_has_gone() -> None:
    """Its types are taken out of the catalogue: the events stay, as data, and the class can go."""
    async with MemoryBus(MemoryBroker(), replica="one") as bus:
        cls = made()
        seen = weakref.ref(cls)
        entry = CatalogEntry(type="letting_go.made", version=1, plugin_id="maker", json_schema={})
        take_out = bus.add_types([entry])
        await bus.publish(cls(number=1), source="/plugins/maker")
        await bus.publish(cls(number=2), source="/plugins/maker", id="a")
        take_out()
        del cls
        for _ in range(3):
            gc.collect()
        assert seen() is None
        tail = bus.tail("letting_go.**", position="oldest")
        assert [item.data for item in tail.read_nowait()] == ['{"number":1}', '{"number":2}']
