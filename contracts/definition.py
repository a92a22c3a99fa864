"""What is checked once, when an event class is made: its schema, its upcasts, whether it may be shared."""

from __future__ import annotations

import enum
import types
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel

from .errors import EventDefinitionError

Upcast = Callable[[dict[str, Any]], dict[str, Any]]
UPCAST = "__plugbus_upcast__"
"""The mark of `@upcast`: from which version the function lifts."""


def place_of(cls: type) -> str:
    """`module.Class`."""
    return f"{cls.__module__}.{cls.__qualname__}"


def upcasts_of(cls: type, type_name: str, version: int) -> Mapping[int, Upcast]:
    """The upcasts of an event class by version. Raises `EventDefinitionError` for a gap."""
    found: dict[int, Upcast] = {}
    for base in cls.__mro__:
        for value in list(vars(base).values()):
            if isinstance(value, staticmethod) and (lifts := getattr(value.__func__, UPCAST, None)):
                found.setdefault(lifts, cast(Upcast, value.__func__))
    versions = sorted(found)
    if versions and versions != list(range(versions[0], version)):
        raise EventDefinitionError(
            f"the upcasts of {type_name!r} lift versions {versions}, "
            f"which does not lead without a gap to version {version}",
            where=place_of(cls),
            fix=f"one @upcast for each version from {versions[0]} to {version - 1}",
        )
    return found


_SCALARS = (
    str, int, float, bool, bytes, type(None), Decimal, datetime, date, time, timedelta, uuid.UUID,
)  # fmt: skip


def is_immutable(annotation: Any) -> bool:
    """Whether no value of this type can be changed: decides if one object may serve all handlers.

    Frozen is shallow: a list field of a frozen model would be shared, so only tuples, frozen sets,
    scalars and frozen models of these count.
    """
    origin = get_origin(annotation)
    if origin is None:
        return _is_immutable_class(annotation)
    if origin is Literal:
        return True
    if origin is Annotated:
        return is_immutable(get_args(annotation)[0])
    if origin in (tuple, frozenset, Union, types.UnionType):
        return _all_immutable(arg for arg in get_args(annotation) if arg is not Ellipsis)
    return False


def _is_immutable_class(annotation: Any) -> bool:
    if not isinstance(annotation, type):
        return annotation is None
    if issubclass(annotation, BaseModel):
        frozen = bool(annotation.model_config.get("frozen")) and annotation.__pydantic_complete__
        return (
            frozen
            and not annotation.__private_attributes__
            and _all_immutable(info.annotation for info in annotation.model_fields.values())
        )
    return issubclass(annotation, (*_SCALARS, enum.Enum))


def _all_immutable(annotations: Iterable[Any]) -> bool:
    return all(is_immutable(annotation) for annotation in annotations)
