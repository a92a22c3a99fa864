"""`/admin/plugins`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from contracts.messages import (
    CommandResult,
    DisablePlugin,
    EnablePlugin,
    ExplainPlugin,
    ListPlugins,
    PluginDetails,
    PluginExplanation,
    PluginInfo,
    ShowPlugin,
    StartPlugin,
    StopPlugin,
)
from contracts.patterns import TypeName
from contracts.plugin import PluginStatus
from contracts.security import SecurityLevel
from contracts.web import EdgeContext

from ..access import Access
from .common import COMMAND_TIMEOUT, IfMatch, etags, tell_etag

Along = Annotated[bool, Query(description="Stop those that need it too, before it.")]

_ACCEPTED: dict[int | str, dict[str, Any]] = {202: {"model": CommandResult, "description": "Accepted."}}


class PluginFilters(BaseModel):
    """Which plugins to list; a misspelt one is refused, not passed over."""

    model_config = ConfigDict(extra="forbid")

    tag: tuple[str, ...] = Field(default=(), description="It has each of them.")
    status: PluginStatus | None = Field(default=None, description="It stands there.")
    level: SecurityLevel | None = Field(default=None, description="The one in force.")
    handles: TypeName | None = Field(default=None, description="It handles this event type.")
    provides: TypeName | None = Field(default=None, description="It provides this capability.")

    def query(self) -> ListPlugins:
        return ListPlugins(tags=self.tag, **self.model_dump(exclude={"tag"}))


def plugins_router(context: EdgeContext, access: Access) -> APIRouter:
    router = APIRouter(prefix="/plugins", tags=["plugins"])
    reads, operates = Depends(access.needs("read")), Depends(access.needs("operate"))

    @router.get("", dependencies=[reads])
    async def list_plugins(filters: Annotated[PluginFilters, Query()]) -> tuple[PluginInfo, ...]:
        """All plugins that were found, refused ones included, in start order; or those of which all is true.

        Of a plugin that is not loaded, its manifest says what it handles and provides.
        """
        return await context.request(filters.query())

    @router.get("/{plugin_id}", dependencies=[reads])
    async def show_plugin(plugin_id: str, response: Response) -> PluginDetails:
        """The ETag is that of where it stands."""
        found = await context.request(ShowPlugin(plugin_id=plugin_id))
        tell_etag(response, found.tag)
        return found

    @router.get("/{plugin_id}/explain", dependencies=[reads])
    async def explain_plugin(plugin_id: str) -> PluginExplanation:
        """Why it is loaded or not, why in this place of the start order, and what hangs on it."""
        return await context.request(ExplainPlugin(plugin_id=plugin_id))

    @router.post("/{plugin_id}/start", dependencies=[operates], responses=_ACCEPTED)
    async def start_plugin(plugin_id: str, response: Response, if_match: IfMatch = None) -> CommandResult:
        """202 where the outcome is only `accepted`: the lifecycle events tell the rest."""
        command = StartPlugin(plugin_id=plugin_id, if_tags=etags(if_match))
        return _outcome(await context.request(command, timeout=COMMAND_TIMEOUT), response)

    @router.post("/{plugin_id}/stop", dependencies=[operates], responses=_ACCEPTED)
    async def stop_plugin(
        plugin_id: str, response: Response, with_dependents: Along = False, if_match: IfMatch = None
    ) -> CommandResult:
        """202 where the outcome is only `accepted`: the lifecycle events tell the rest."""
        command = StopPlugin(plugin_id=plugin_id, with_dependents=with_dependents, if_tags=etags(if_match))
        return _outcome(await context.request(command, timeout=COMMAND_TIMEOUT), response)

    @router.post("/{plugin_id}/enable", dependencies=[operates], responses=_ACCEPTED)
    async def enable_plugin(plugin_id: str, response: Response, if_match: IfMatch = None) -> CommandResult:
        """Start it now and whenever the kernel starts; this lies over the settings."""
        command = EnablePlugin(plugin_id=plugin_id, if_tags=etags(if_match))
        return _outcome(await context.request(command, timeout=COMMAND_TIMEOUT), response)

    @router.post("/{plugin_id}/disable", dependencies=[operates], responses=_ACCEPTED)
    async def disable_plugin(
        plugin_id: str, response: Response, with_dependents: Along = False, if_match: IfMatch = None
    ) -> CommandResult:
        """Stop it now, and do not start it when the kernel starts; this lies over the settings."""
        command = DisablePlugin(plugin_id=plugin_id, with_dependents=with_dependents, if_tags=etags(if_match))
        return _outcome(await context.request(command, timeout=COMMAND_TIMEOUT), response)

    return router


def _outcome(result: CommandResult, response: Response) -> CommandResult:
    tell_etag(response, result.plugin.tag)
    response.status_code = 202 if result.outcome == "accepted" else 200
    return result
