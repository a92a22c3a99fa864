"""What is checked once, when an event class is made: its schema, its upcasts, whether it may be shared."""

from __future__ import annotations

import enum
import inspect
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
    """The upcasts of an event class by version; a class may replace those of its base.

    Raises `EventDefinitionError` for a gap, and for two that lift the same version.
    """
    found: dict[int, Upcast] = {}
    for base in cls.__mro__:
        found = _own_upcasts(base, type_name) | found
    versions = sorted(found)
    if versions and versions != list(range(versions[0], version)):
        raise EventDefinitionError(
            f"the upcasts of {type_name!r} lift versions {versions}, "
            f"which does not lead without a gap to version {version}",
            where=place_of(cls),
            fix=_upcast_fix(versions, version),
        )
    return found


def _own_upcasts(cls: type, type_name: str) -> dict[int, Upcast]:
    found: dict[int, Upcast] = {}
    for name, value in list(vars(cls).items()):
        lifts = getattr(value.__func__, UPCAST, None) if isinstance(value, staticmethod) else None
        if lifts is None:
            continue
        function = cast(Upcast, value.__func__)
        if problem := _upcast_problem(lifts, function) or (lifts in found and _twice(found[lifts], lifts)):
            raise EventDefinitionError(
                f"the upcast {name!r} of {type_name!r} {problem}",
                where=place_of(cls),
                fix="@upcast(1) on def name(data): …, which returns the data of version 2",
            )
        found[lifts] = function
    return found


def _twice(other: Upcast, lifts: int) -> str:
    return f"lifts version {lifts}, and so does {getattr(other, '__name__', 'another')!r}"


def _upcast_problem(lifts: object, function: object) -> str:
    """What is wrong with `@upcast(lifts)` on `function`; empty for nothing."""
    if isinstance(lifts, bool) or not isinstance(lifts, int) or lifts < 1:
        return f"says {lifts!r} where the version that it lifts belongs"
    if inspect.iscoroutinefunction(function):
        return "is async, and lifting data must not wait"
    try:
        inspect.signature(cast(Upcast, function)).bind({})
    except TypeError:
        return "does not take the data alone"
    except ValueError:  # built in, without a signature
        pass
    return ""


def _upcast_fix(versions: list[int], version: int) -> str:
    if versions[-1] >= version:
        return f"an upcast to version {versions[-1] + 1} belongs to a class with version={versions[-1] + 1}"
    return f"one @upcast for each version from {versions[0]} to {version - 1}"


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
        frozen = bool(annotation.model_config.get("frozen")) and annotation.__pydantic_fields_complete__
        return (
            frozen
            and not annotation.__private_attributes__
            and _all_immutable(info.annotation for info in annotation.model_fields.values())
        )
    return issubclass(annotation, (*_SCALARS, enum.Enum))


def _all_immutable(annotations: Iterable[Any]) -> bool:
    return all(is_immutable(annotation) for annotation in annotations)
