"""Queries about capabilities."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue

from ..bus import ProviderInfo
from ..query import Query


class CapabilityInfo(BaseModel):
    """A capability: who provides it, and how to ask."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str = ""
    providers: tuple[ProviderInfo, ...]
    """In the order in which this replica asks them: the first is asked, the next when it goes."""
    idle: tuple[str, ...] = ()
    """Plugins whose manifest says that they provide it, and that are not started here."""
    query_schema: dict[str, JsonValue] | None = None
    answer_schema: dict[str, JsonValue] | None = None


class ListCapabilities(Query[tuple[CapabilityInfo, ...]], capability="kernel.capability.list"):
    """All capabilities that can be requested here."""

    name: str | None = None
    """Only this one."""


class ShowCapability(Query[CapabilityInfo], capability="kernel.capability.show"):
    """One capability; `NoProvider` where nobody provides it, with who could."""

    name: str
