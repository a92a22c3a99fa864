"""What the routes of the admin API have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

COMMAND_TIMEOUT = 120.0
"""Seconds that a command may take; each step of a plugin has a deadline of the kernel's own."""


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
