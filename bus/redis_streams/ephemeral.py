"""The place of a broadcast subscription: a cursor of one replica. Nothing of it outlives the replica."""

from __future__ import annotations

from ..groups import FOREVER
from ..lot import Entry
from .journal import Word
from .place import Holding, RedisPlace


class EphemeralPlace(RedisPlace):
    """Only what is counted, and dead letters as long as it lives, go to Redis."""

    __slots__ = ()

    def __init__(self, holding: Holding, topic: str, lot_limit: int, order: str, handler: str) -> None:
        super().__init__(holding, topic, lot_limit, order, handler)
        self.is_ephemeral = True
        self.lease = FOREVER

    def note_start(self, entry: Entry) -> bool:
        return False

    @property
    def has_news(self) -> bool:
        self.journal.forget_moves()
        return super().has_news

    def next_call(self) -> list[Word] | None:
        if self.journal.unconfirmed is None:
            self.journal.forget_moves()
        return super().next_call()
