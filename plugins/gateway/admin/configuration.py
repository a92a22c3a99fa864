"""`/admin/config`."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from contracts.messages import (
    ConfigurationChange,
    ConfigurationOutcome,
    ConfigurationProblem,
    ListConfigurationChanges,
    PluginConfiguration,
    SetConfiguration,
    ShowConfiguration,
)
from contracts.web import EdgeContext

from ..access import Access, read_object
from ..config import GatewayConfig
from ..problems import Problem
from .common import COMMAND_TIMEOUT, IfMatch, body_schema

DryRun = Annotated[bool, Query(description="Only say what would come of it.")]


def configuration_router(context: EdgeContext, config: GatewayConfig, access: Access) -> APIRouter:
    router = APIRouter(prefix="/config", tags=["configuration"])
    reads, operates = Depends(access.needs("read")), Depends(access.needs("operate"))
    takes_values = body_schema()

    @router.get("", dependencies=[reads])
    async def list_configurations() -> tuple[PluginConfiguration, ...]:
        """Of every plugin: each key, its value and where that came from. Secrets are masked."""
        return await context.request(ShowConfiguration(), timeout=COMMAND_TIMEOUT)

    @router.get("/{plugin_id}", dependencies=[reads])
    async def show_configuration(plugin_id: str, response: Response) -> PluginConfiguration:
        """The ETag is that of what is set live."""
        query = ShowConfiguration(plugin_id=plugin_id)
        [found] = await context.request(query, timeout=COMMAND_TIMEOUT)
        response.headers["ETag"] = _etag(found)
        return found

    @router.put("/{plugin_id}", dependencies=[operates], openapi_extra=takes_values)
    async def replace_configuration(
        plugin_id: str,
        request: Request,
        response: Response,
        if_match: IfMatch = None,
        dry_run: DryRun = False,
    ) -> ConfigurationOutcome:
        """Exactly the keys of the body are set live; the others are as the lower layers say."""
        return await change(plugin_id, request, response, if_match, dry_run, replace=True)

    @router.patch("/{plugin_id}", dependencies=[operates], openapi_extra=takes_values)
    async def merge_configuration(
        plugin_id: str,
        request: Request,
        response: Response,
        if_match: IfMatch = None,
        dry_run: DryRun = False,
    ) -> ConfigurationOutcome:
        """The keys of the body are set live, the others stay; null takes back what was set (RFC 7396)."""
        return await change(plugin_id, request, response, if_match, dry_run, replace=False)

    @router.get("/{plugin_id}/history", dependencies=[reads])
    async def list_changes(
        plugin_id: str, limit: Annotated[int, Query(ge=1, le=1_000)] = 50
    ) -> tuple[ConfigurationChange, ...]:
        """The last changes of what is set live, the newest first: who, when, which keys."""
        return await context.request(ListConfigurationChanges(plugin_id=plugin_id, limit=limit))

    async def change(
        plugin_id: str,
        request: Request,
        response: Response,
        if_match: str | None,
        dry_run: bool,
        *,
        replace: bool,
    ) -> ConfigurationOutcome:
        query = SetConfiguration(
            plugin_id=plugin_id,
            values=await read_object(request, config.max_body_bytes),
            replace=replace,
            if_versions=_versions(if_match),
            dry_run=dry_run,
            on_behalf_of=f"token at {request.client.host}" if request.client else "token",
        )
        result = await context.request(query, timeout=COMMAND_TIMEOUT)
        if result.outcome == "conflict":
            raise _conflict(result)
        if result.outcome == "refused":
            raise _refused(result)
        response.headers["ETag"] = _etag(result.configuration)
        return result

    return router


def _etag(configuration: PluginConfiguration) -> str:
    return f'"{configuration.version}"'


def _versions(if_match: str | None) -> tuple[int, ...] | None:
    """The versions that `If-Match` names; None where any will do. What is no ETag of ours matches nothing."""
    if if_match is None or if_match.strip() == "*":
        return None
    return tuple(int(found) for found in re.findall(r'(?:^|,)\s*"([0-9]{1,18})"\s*(?=,|$)', if_match))


def _conflict(result: ConfigurationOutcome) -> Problem:
    now = result.configuration
    return Problem(
        412,
        "configuration-conflict",
        f"the configuration of {now.plugin_id!r} is at version {now.version}: somebody else has changed it",
        fix=result.fix,
        headers={"ETag": _etag(now)},
        extensions={"configuration": now.model_dump(mode="json")},
    )


def _refused(result: ConfigurationOutcome) -> Problem:
    plugin_id, count = result.configuration.plugin_id, len(result.problems)
    what = "one thing is" if count == 1 else f"{count} things are"
    return Problem(
        422,
        "configuration-refused",
        f"{what} wrong with this configuration of {plugin_id!r}; nothing has changed",
        fix=result.fix,
        extensions={"errors": [_error(each) for each in result.problems]},
    )


def _error(problem: ConfigurationProblem) -> dict[str, str]:
    words = [word.replace("~", "~0").replace("/", "~1") for word in problem.key.split(".")]
    path = "".join(f"/{word}" for word in words) if problem.key else ""
    found = f", found {problem.found}" if problem.found else ""
    detail = f"expected {problem.expected}{found}" if problem.key else problem.expected
    return {"in": "body", "pointer": path, "detail": detail, "fix": problem.fix}
