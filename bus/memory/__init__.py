"""The memory bus: the reference implementation of `contracts.bus.EventBus`.

`MemoryBroker` is what several buses of one process share; `MemoryBus` is one replica's handle on it;
`open_bus` is found by the URL `memory://`.
"""

from .broker import MemoryBroker
from .bus import MemoryBus, open_bus

__all__ = ["MemoryBroker", "MemoryBus", "open_bus"]
