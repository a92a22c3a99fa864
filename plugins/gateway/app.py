"""The gateway as one ASGI application, without a server."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from contracts.web import EdgeApplication, EdgeContext

from .access import Access
from .admin import admin_router
from .asyncapi import asyncapi_router
from .config import GatewayConfig
from .edge import Edge
from .events import events_router
from .first import answered_for_application
from .metrics import metrics_router
from .openapi import merge_into
from .pages import MergedDocument, docs_files, docs_router, health_router
from .problems import PROBLEM_RESPONSES, install_problems


def create_app(context: EdgeContext, config: GatewayConfig) -> Edge:
    """Everything that the gateway serves: its own routes, and each plugin's below `/plugins/{id}`."""
    return with_documents(context, own_app(context, config))


def with_documents(context: EdgeContext, own: FastAPI) -> Edge:
    """`own` as the gateway serves it itself: with `/docs`."""
    own.include_router(docs_router(MergedDocument(own.openapi, context.mounts)))
    own.router.routes.append(docs_files())
    return Edge(context, own)


def edge_application(context: EdgeContext, own: FastAPI) -> EdgeApplication:
    """`own` without `/docs`, for an application that has documents of its own."""

    def describe(document: Mapping[str, Any], prefix: str, addresses: Sequence[str]) -> Mapping[str, Any]:
        return merge_into(document, own.openapi(), context.mounts, prefix=prefix, addresses=addresses)

    ask_first = functools.partial(answered_for_application, context.requests)
    return EdgeApplication(Edge(context, own), describe, ask_first)


def own_app(context: EdgeContext, config: GatewayConfig) -> FastAPI:
    """The gateway's own routes."""
    access = Access(context)
    own = FastAPI(
        title="Plugbus",
        version=context.metadata.version,
        summary="Events in and out, routes of plugins, and the admin API.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        responses=PROBLEM_RESPONSES,
    )
    install_problems(own, to_operator=True)
    own.include_router(events_router(context, config, access))
    own.include_router(admin_router(context, config, access))
    own.include_router(asyncapi_router(context, access))
    own.include_router(metrics_router(context, access))
    own.include_router(health_router(context, access))
    return own
