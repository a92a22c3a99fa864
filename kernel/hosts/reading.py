"""Reading a plugin's code by inspection: members, annotations, places, and the error that names them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable
from typing import Any

from contracts.errors import HandlerDefinitionError
from contracts.event import Event
from contracts.query import Query


def members(cls: type) -> Iterable[tuple[str, Any]]:
    seen: set[str] = set()
    for base in cls.__mro__:
        for name, member in vars(base).items():
            if name not in seen:
                seen.add(name)
                yield name, member


def parameters_of(function: Any, kind: str) -> list[Any]:
    """The annotations of the parameters, resolved."""
    require_async(function, kind)
    try:
        hints = hints_of(function)
    except NameError as error:
        raise handler_error(
            function,
            f"has an annotation that cannot be resolved: {error}",
            "import the class normally: imports under TYPE_CHECKING are not there at run time",
        ) from None
    names = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    for name in names[:1]:
        if name not in hints:
            raise handler_error(
                function,
                "has no event type" if kind == "handler" else "has no query type",
                f"annotate its parameter: async def {function.__name__}(self, {name}: OrderPlaced)",
            )
    return [hints.get(name, Any) for name in names]


def hints_of(function: Any) -> dict[str, Any]:
    """Type hints, resolved; classes that are local to the same function as a handler are found too."""
    plain = inspect.unwrap(getattr(function, "__func__", function))
    return typing.get_type_hints(plain, localns=_local_classes(plain))


def _local_classes(function: Any) -> dict[str, type]:
    if "<locals>" not in function.__qualname__:
        return {}
    return {
        cls.__name__: cls
        for base in (Event, Query)
        for cls in subclasses_of(base)
        if cls.__module__ == function.__module__
        and function.__qualname__.startswith(cls.__qualname__.rpartition(".")[0])
    }


def require_async(function: Any, kind: str) -> None:
    if not inspect.iscoroutinefunction(function):
        raise handler_error(
            function, "is not async", f"async def {getattr(function, '__name__', kind)}(…)", kind=kind
        )


def subclasses_of(cls: type) -> Iterable[type]:
    sub: type
    for sub in type.__subclasses__(cls):
        yield sub
        yield from subclasses_of(sub)


def place(function: Any) -> str:
    """`file:line` of a function or class."""
    if isinstance(function, type):
        return f"{inspect.getsourcefile(function) or function.__module__}:{function.__qualname__}"
    code = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else name_of(type(function))


def name_of(value: Any) -> str:
    return str(getattr(value, "__qualname__", value))


def handler_error(function: Any, what: str, fix: str, *, kind: str = "handler") -> HandlerDefinitionError:
    name = getattr(function, "__name__", repr(function))
    return HandlerDefinitionError(f"{kind} {name!r} {what}", where=place(function), fix=fix)
