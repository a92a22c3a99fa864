"""`/admin`: each address is one of the kernel's queries, its answer as JSON. One file for each noun."""

from __future__ import annotations

from fastapi import APIRouter

from contracts.web import EdgeContext

from ..access import Access
from ..config import GatewayConfig
from .bus import bus_router
from .capabilities import capabilities_router
from .configuration import configuration_router
from .dead_letters import dead_letters_router
from .events import events_router
from .graph import graph_router
from .groups import groups_router
from .log import log_router
from .plugins import plugins_router
from .quarantine import quarantine_router
from .traces import traces_router


def admin_router(context: EdgeContext, config: GatewayConfig, access: Access) -> APIRouter:
    router = APIRouter(prefix="/admin")
    router.include_router(plugins_router(context, access))
    router.include_router(quarantine_router(context, config, access))
    router.include_router(groups_router(context, config, access))
    router.include_router(bus_router(context, access))
    router.include_router(log_router(context, access))
    router.include_router(events_router(context, config, access))
    router.include_router(dead_letters_router(context, config, access))
    router.include_router(capabilities_router(context, config, access))
    router.include_router(graph_router(context, access))
    router.include_router(configuration_router(context, config, access))
    router.include_router(traces_router(context, access))
    return router
