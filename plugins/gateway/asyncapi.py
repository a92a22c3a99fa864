"""The catalogue of event types as an AsyncAPI 3 document: what is published, by whom, and who handles it.

A channel for each event type, a message for each of its versions; `send` for each plugin that declares it,
`receive` for each group that selects it. https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import APIRouter, Depends

from contracts.messages import EventTypeInfo, ListEventTypes
from contracts.web import EdgeContext

from .access import Access

Document = dict[str, Any]
_DEFINITION = "#/$defs/"
_NO_KEY = re.compile(r"[^\w.\-]")


def asyncapi_router(context: EdgeContext, access: Access) -> APIRouter:
    router = APIRouter(tags=["events"], dependencies=[Depends(access.needs("read"))])

    @router.get("/asyncapi.json")
    async def asyncapi() -> dict[str, Any]:
        """The event types of all plugins, who publishes and who handles them, as an AsyncAPI 3 document."""
        types = await context.request(ListEventTypes())
        return document_of(types, context.metadata.version)

    return router


def document_of(types: Iterable[EventTypeInfo], version: str) -> Document:
    channels: Document = {}
    operations: Document = {}
    messages: Document = {}
    schemas: Document = {}
    for info in types:
        key, name = _key(info.type), _key(f"{info.type}.v{info.version}")
        messages[name] = _message(info, _hoisted(info.json_schema, name, schemas))
        channel = channels.setdefault(key, {"address": info.type, "messages": {}})
        channel["messages"][name] = {"$ref": f"#/components/messages/{name}"}
        for plugin in info.publishers:
            _operation(operations, f"{plugin}.publishes.{key}", "send", key, name)
        for group in info.handlers:
            _operation(operations, f"{group}.handles.{key}", "receive", key, name)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Plugbus", "version": version,
            "description": "Event types of the plugins that run here. Data travel in CloudEvents 1.0.2.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": {"CloudEvent": _ATTRIBUTES, **schemas}},
    }  # fmt: skip


_ATTRIBUTES: Document = {
    "type": "object",
    "required": ["id", "source", "specversion", "type"],
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "format": "uri-reference", "minLength": 1},
        "specversion": {"const": "1.0"},
        "type": {"type": "string", "minLength": 1},
        "subject": {"type": "string"},
        "time": {"type": "string", "format": "date-time"},
        "dataschema": {"type": "string", "format": "uri"},
        "partitionkey": {"type": "string"},
        "correlationid": {"type": "string"},
        "causationid": {"type": "string"},
        "expirytime": {"type": "string", "format": "date-time"},
        "traceparent": {"type": "string"},
        "tracestate": {"type": "string"},
    },
}


def _message(info: EventTypeInfo, payload: Any) -> Document:
    found: Document = {
        "name": info.type,
        "title": f"{info.type}, version {info.version}",
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/CloudEvent"},
        "correlationId": {"location": "$message.header#/correlationid"},
        "payload": payload or True,
    }
    if info.description:
        found["summary"] = info.description.splitlines()[0]
        found["description"] = info.description
    return found


def _operation(operations: Document, key: str, action: str, channel: str, message: str) -> None:
    operation = operations.setdefault(
        _key(key), {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "messages": []}
    )
    operation["messages"].append({"$ref": f"#/channels/{channel}/messages/{message}"})


def _hoisted(schema: Mapping[str, Any], name: str, schemas: Document) -> Any:
    """`schema` with its definitions among the components: a reference counts from the whole document."""
    for definition, value in schema.get("$defs", {}).items():
        schemas[_key(f"{name}.{definition}")] = _referring(value, name)
    return _referring({word: value for word, value in schema.items() if word != "$defs"}, name)


def _referring(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {
            word: f"#/components/schemas/{_key(f'{name}.{inner[len(_DEFINITION) :]}')}"
            if word == "$ref" and isinstance(inner, str) and inner.startswith(_DEFINITION)
            else _referring(inner, name)
            for word, inner in value.items()
        }
    if isinstance(value, list):
        return [_referring(inner, name) for inner in value]
    return value


def _key(name: str) -> str:
    """As keys of components may be spelled."""
    return _NO_KEY.sub("_", name)
