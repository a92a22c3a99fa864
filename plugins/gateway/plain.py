"""Which routes are certain to have an OpenAPI document, without making it.

That takes longer than making the routes. Most of them add little to it by hand, and use types whose schema
holds no surprise. What is not known for certain here is not plain, and its document is made at once.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, Union, get_args, get_origin

from fastapi.datastructures import DefaultPlaceholder
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_SCALARS = (
    str, int, float, bool, bytes, type(None), None, Any, Decimal, datetime, date, time, timedelta, uuid.UUID,
)  # fmt: skip
_CONTAINERS = (list, set, frozenset, tuple, Union, types.UnionType)
_SETTINGS = frozenset(("frozen", "strict", "from_attributes", "str_strip_whitespace", "validate_assignment"))
"""Of a model's configuration: what its schema does not depend on."""
_UNSET = PydanticUndefined
_VALUES = (str, int, float, Decimal, type(None), type(_UNSET))
_EMPTY = (list, tuple, dict)
"""Of what a default may be: a value, or a container with nothing in it."""
_HOOKS = ("__get_pydantic_json_schema__", "__get_pydantic_core_schema__")


def are_plain(routes: Sequence[APIRoute], responses: object) -> bool:
    """Whether a document can certainly be made of `routes`, each with `responses` and no further ones."""
    told = [route for route in routes if route.include_in_schema]
    models: set[type] = set()
    return len({route.unique_id for route in told}) == len(told) and all(
        route.responses == responses
        and _adds_texts_alone(route)
        and all(_is_plain(field, models) for field in _fields(route))
        for route in told
    )


def _adds_texts_alone(route: APIRoute) -> bool:
    """Whether what it adds by hand is text; no dependencies, which may bring parameters and schemes along."""
    texts = (route.name, route.description, route.response_description, *route.tags)
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(route.summary, str | None)
        and isinstance(route.status_code, int | None)
        and isinstance(route.deprecated, bool | None)
        and isinstance(route.operation_id, str | None)
        and route.openapi_extra is None
        and not route.callbacks
        and not route.dependant.dependencies
        and len(route.methods or ()) == 1
        and isinstance(route.response_class, DefaultPlaceholder)
        and isinstance(route.generate_unique_id_function, DefaultPlaceholder)
    )


def _fields(route: APIRoute) -> Iterator[FieldInfo]:
    asked = route.dependant
    given = (*asked.path_params, *asked.query_params, *asked.header_params, *asked.cookie_params)
    streamed = getattr(route, "stream_item_field", None)  # not in every FastAPI
    for each in (*given, route.body_field, route.response_field, streamed):
        if each is not None:
            yield each.field_info


def _is_plain(field: FieldInfo, models: set[type]) -> bool:
    """A parameter, a body, an answer, or a field of a model; `models`: those that were looked at."""
    by_hand = (field.examples, field.json_schema_extra, field.discriminator, field.default_factory)
    texts = (field.title, field.description, field.alias, field.validation_alias, field.serialization_alias)
    return (
        not field.metadata
        and all(said is None for said in (*by_hand, field.field_title_generator))
        and all(text is None or isinstance(text, str) for text in texts)
        and not getattr(field, "openapi_examples", None)
        and isinstance(getattr(field, "example", _UNSET), type(_UNSET) | DefaultPlaceholder)
        and (isinstance(field.default, _VALUES) or (type(field.default) in _EMPTY and not field.default))
        and _is_plain_type(field.annotation, models)
    )


def _is_plain_type(annotation: Any, models: set[type]) -> bool:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _are_values(arguments)
    if origin is dict:
        return arguments[0] is str and _is_plain_type(arguments[1], models)
    if origin in _CONTAINERS:
        return all(_is_plain_type(one, models) for one in arguments if one is not Ellipsis)
    if origin is None and isinstance(annotation, type) and annotation not in _SCALARS:
        return _is_plain_class(annotation, models)
    return annotation in _SCALARS


def _is_plain_class(kind: type, models: set[type]) -> bool:
    if issubclass(kind, BaseModel):
        if kind in models:  # plain, or the answer is no already; or it is within itself
            return True
        models.add(kind)
        return _is_plain_model(kind, models)
    return issubclass(kind, enum.Enum) and _has_no_hook(kind) and _are_values(kind)


def _is_plain_model(model: type[BaseModel], models: set[type]) -> bool:
    decorated = model.__pydantic_decorators__  # validators, serializers, computed fields
    return (
        model.__pydantic_complete__
        and not model.__pydantic_root_model__
        and not model.__pydantic_generic_metadata__["origin"]
        and model.model_config.keys() <= _SETTINGS | {"extra"}
        and model.model_config.get("extra") != "allow"
        and not any(getattr(decorated, kind.name) for kind in dataclasses.fields(decorated))
        and _has_no_hook(model)
        and all(_is_plain(field, models) for field in model.model_fields.values())
    )


def _has_no_hook(kind: type) -> bool:
    """Whether pydantic is told nothing by the class itself, in whatever base."""
    usual: tuple[type, ...] = (BaseModel, object)
    return not any(hook in vars(base) for base in kind.__mro__ if base not in usual for hook in _HOOKS)


def _are_values(values: Iterable[Any]) -> bool:
    plain = (value.value if isinstance(value, enum.Enum) else value for value in values)
    return all(isinstance(value, str | int | None) for value in plain)
