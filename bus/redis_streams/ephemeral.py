"""The place of a broadcast subscription: a cursor of one replica. Nothing of it outlives the replica."""

from __future__ import annotations

from ..lot import Entry
from .place import Holding, RedisPlace


class EphemeralPlace(RedisPlace):
    """Only what is counted, and dead letters as long as it lives, go to Redis."""

    __slots__ = ()

    def __init__(self, holding: Holding, topic: str, lot_limit: int, order: str, handler: str) -> None:
        super().__init__(holding, topic, lot_limit, order, handler)
        self.is_ephemeral = True

    @property
    def until(self) -> float:  # type: ignore[override]
        return float("inf")

    def note_start(self, entry: Entry) -> bool:
        return False

    @property
    def has_news(self) -> bool:
        self._forget_journal()
        return super().has_news

    def _operations(self) -> list[bytes | str | int]:
        self._forget_journal()
        return super()._operations()

    def _forget_journal(self) -> None:
        """There is no place in Redis to settle."""
        self._acks, self._late, self._done = [], [], []
        self._marks = {}
        self._moves = [move for move in self._moves if move[0] == "bury"]
