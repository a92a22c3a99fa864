"""The Redis bus: `contracts.bus.EventBus` on Redis Streams. Needs `pip install 'plugbus[redis]'`."""

from .bus import RedisBus, open_bus

__all__ = ["RedisBus", "open_bus"]
