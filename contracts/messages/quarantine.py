"""Quarantine: plugins that are not started any more until somebody has looked."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..query import Query
from .commands import IfTags


class FailedStart(BaseModel):
    """One start of a plugin that failed."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    step: str
    text: str


class QuarantineEntry(BaseModel):
    """A plugin in quarantine: since when, by whom, and what it did."""

    model_config = ConfigDict(frozen=True)

    plugin_id: str
    reason: str
    by: str
    """`/kernel`, or the source of the command."""
    since: datetime
    failures: tuple[FailedStart, ...] = ()
    """The failed starts that led there, the oldest first."""
    checksum: str = ""
    """Of the code that failed; the kernel lets a plugin go whose code is another one when it starts."""


class QuarantineChange(BaseModel):
    """What came of putting a plugin into quarantine, or of releasing it."""

    model_config = ConfigDict(frozen=True)

    outcome: Literal["done", "accepted", "unchanged"]
    """`accepted`: the plugin put itself there, and is stopped first."""
    plugin_id: str
    entry: QuarantineEntry | None = None
    """As it stands now, or as it was when it was released."""


class ListQuarantine(Query[tuple[QuarantineEntry, ...]], capability="kernel.plugin.quarantine.list"):
    """All plugins in quarantine, by id."""


class AddToQuarantine(Query[QuarantineChange], capability="kernel.plugin.quarantine.add"):
    """Stop a plugin, and do not start it until it is released."""

    plugin_id: str
    reason: str = Field(default="an operator asked", min_length=1, max_length=500)
    if_tags: IfTags = None


class ReleaseFromQuarantine(Query[QuarantineChange], capability="kernel.plugin.quarantine.release"):
    """Let a plugin be started again, its failed starts forgotten. It is not started by that."""

    plugin_id: str
    if_tags: IfTags = None
