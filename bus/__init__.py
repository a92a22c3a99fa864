"""How messages travel: the event bus, in memory now, on Redis Streams next. See README.md."""

__plugbus__ = "bus"  # the door checks that this package is ours
