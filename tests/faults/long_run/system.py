"""What the conductor asks of a system that is put through a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from .plan import Plan

Entries = set[tuple[str, str, str]]
"""(group, stream, entry): deliveries."""


@dataclass
class Rest:
    """What is left when everything should have been handled."""

    waiting: int = 0
    """Not handed over yet."""
    pending: int = 0
    """Handed over, not settled."""
    parked: int = 0
    dead: int = 0
    kept: dict[str, int] = field(default_factory=dict)
    """Topic → events that the server still keeps."""
    published: dict[str, int] = field(default_factory=dict)
    """Topic → events that it has taken in all."""
    keys: list[str] = field(default_factory=list)
    """Of what should be empty by now, those that are not."""

    @property
    def is_quiet(self) -> bool:
        return not (self.waiting or self.pending or self.parked)

    def __str__(self) -> str:
        return f"{self.waiting} waiting, {self.pending} pending, {self.parked} parked"


class System(Protocol):
    """A bus, as the conductor sees it: how its processes are started, and what its server holds."""

    name: str
    plan: Plan

    def versions(self) -> dict[str, str]: ...

    def settings(self) -> str:
        """How it is configured, in a sentence for the report."""

    def replica(self, name: str) -> list[str]:
        """Command of a process that handles until its standard input ends."""

    def publisher(self, number: int) -> list[str]:
        """Command of a process that publishes what is its own, and ends with 0."""

    def prepare(self) -> None:
        """Before anything is published: groups exist."""

    def fetched(self, replica: str | None = None) -> Entries:
        """What has been handed over to a replica (None: to any) and is not settled."""

    def rest(self) -> Rest: ...

    def left(self) -> list[str]:
        """Where something is left: group, stream, who should be at it; for people."""

    def is_trimmed(self, rest: Rest) -> bool:
        """Whether no more is kept than the plan asks for."""

    def dead_letters(self) -> list[tuple[str, str, str, str]]:
        """(group, source, id, reason) of each."""
