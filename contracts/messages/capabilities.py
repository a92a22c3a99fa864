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
    query_schema: dict[str, JsonValue] | None = None
    answer_schema: dict[str, JsonValue] | None = None


class ListCapabilities(Query[tuple[CapabilityInfo, ...]], capability="kernel.capability.list"):
    """All capabilities that can be requested here."""

    name: str | None = None
    """Only this one."""
