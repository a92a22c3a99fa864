"""What the routes of the admin API have in common."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Header
from pydantic import BaseModel
from starlette.responses import Response

COMMAND_TIMEOUT = 120.0
"""Seconds that a command may take; each step of a plugin has a deadline of the kernel's own."""


IfMatch = Annotated[
    str | None, Header(description="The ETag of what is to be changed; refused with 412 if it is another.")
]
_ETAG = re.compile(r'(?:^|,)\s*"([^"]*)"\s*(?=,|$)')


def etags(if_match: str | None) -> tuple[str, ...] | None:
    """Those that `If-Match` names; None where any will do. What is no strong ETag matches nothing."""
    return None if if_match is None or if_match.strip() == "*" else tuple(_ETAG.findall(if_match))


def tell_etag(response: Response, tag: str) -> None:
    response.headers["ETag"] = f'"{tag}"'


class Count(BaseModel):
    """How many it were."""

    count: int


def body_schema(model: type[BaseModel] | None = None, *, required: bool = True) -> dict[str, Any]:
    """Documents a body that its route reads by itself.

    Models within `model` are referred to: the document has those of every answer among its components.
    """
    schema = {"type": "object"} if model is None else _schema(model)
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema
