"""What a plugin's class says of itself, read by inspection, and the functions that run its handlers.

Read once at load; per message only the compiled functions run.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError

from contracts.base import ON, PROVIDES, OnMark
from contracts.bus import Call, CallReply, CatalogEntry, SubscriptionOptions
from contracts.errors import CallRefused, HandlerDefinitionError
from contracts.event import Event, EventResult, event_schema, invalid, load_model
from contracts.message import PluginEvent, event_from_message
from contracts.patterns import check_pattern, matches
from contracts.plugin import IEventPlugin, IWebPlugin
from contracts.query import Query, answer_adapter

from ..contain import contained, outward
from . import Declaration, HandlerDeclaration, ProviderDeclaration

HandlerFunction = Callable[[PluginEvent], Coroutine[Any, Any, EventResult | None]]
ProviderFunction = Callable[[Call], Coroutine[Any, Any, CallReply]]


@dataclass
class Compiled:
    """A plugin's declaration, and the functions behind its names."""

    declaration: Declaration
    handlers: dict[str, HandlerFunction] = field(default_factory=dict)
    providers: dict[str, ProviderFunction] = field(default_factory=dict)


def compile_plugin(instance: object, modules: Iterable[str]) -> Compiled:
    """Read the marks and interfaces of `instance`, whose code lies in `modules`.

    Raises `HandlerDefinitionError` for the first handler or provider that cannot work, with its place.
    """
    cls = type(instance)
    handlers: dict[str, tuple[HandlerDeclaration, HandlerFunction]] = {}
    providers: dict[str, tuple[ProviderDeclaration, ProviderFunction]] = {}
    for attribute, member in _members(cls):
        if isinstance(mark := getattr(member, ON, None), OnMark):
            handler = compile_handler(getattr(instance, attribute), mark)
            _add(handlers, handler[0].name, handler, member)
        if getattr(member, PROVIDES, False) is True:
            provider = compile_provider(getattr(instance, attribute))
            _add(providers, provider[0].name, provider, member)
    if isinstance(instance, IEventPlugin) and (explicit := _explicit(instance)) is not None:
        _add(handlers, "handle_event", explicit, type(instance).handle_event)
    events, queries = _classes(cls, set(modules))
    named = [event for event in _named_events(cls) if event.__event_type__]
    provided = {declared.capability for declared, _ in providers.values()}
    declaration = Declaration(
        handlers=tuple(declared for declared, _ in handlers.values()),
        providers=tuple(declared for declared, _ in providers.values()),
        event_types=tuple(_catalog_entry(event) for event in dict.fromkeys([*events, *named])),
        publishes=tuple(sorted({event.__event_type__ for event in [*events, *named]})),
        requests=tuple(sorted({query.__capability__ for query in queries} - provided)),
        is_web=isinstance(instance, IWebPlugin),
        is_configurable=hasattr(instance, "configure"),
        has_health=hasattr(instance, "health_check"),
        has_metrics=hasattr(instance, "get_metrics"),
    )
    return Compiled(
        declaration,
        {name: function for name, (_, function) in handlers.items()},
        {name: function for name, (_, function) in providers.items()},
    )


# --- handlers -----------------------------------------------------------------------------------------


def compile_handler(function: Any, mark: OnMark) -> tuple[HandlerDeclaration, HandlerFunction]:
    """A method marked `@on` → its declaration and what runs it."""
    parameters = _parameters(function, "handler")
    if not 1 <= len(parameters) <= 2:
        raise _handler_error(
            function, f"takes {len(parameters)} parameters", "one event, and PluginEvent if wanted"
        )
    annotation = parameters[0]
    wants_meta = len(parameters) == 2
    if wants_meta and parameters[1] is not PluginEvent:
        raise _handler_error(function, "has a second parameter that is not PluginEvent", "meta: PluginEvent")
    models = _event_models(function, annotation)
    patterns = mark.patterns or tuple(model.__event_type__ for model in models)
    _check_annotation(function, annotation, models, mark)
    declared = HandlerDeclaration(
        name=mark.name or function.__name__, patterns=patterns, options=mark.options
    )
    if annotation is PluginEvent:
        return declared, _returning(function)
    return declared, _invoker(function, models, wants_meta)


def compile_subscription(
    function: Any, patterns: tuple[str, ...], name: str | None, options: SubscriptionOptions
) -> tuple[HandlerDeclaration, HandlerFunction]:
    """A function given to `PluginContext.subscribe` → its declaration and what runs it."""
    _require_async(function, "handler")
    for pattern in patterns:
        check_pattern(pattern)
    if not patterns:
        raise _handler_error(function, "is subscribed without a pattern", "subscribe(handler, 'orders.**')")
    declared = HandlerDeclaration(name=name or function.__name__, patterns=patterns, options=options)
    return declared, _returning(function)


def _explicit(instance: IEventPlugin) -> tuple[HandlerDeclaration, HandlerFunction] | None:
    """`handle_event` as a handler; None where it subscribes to nothing."""
    _require_async(instance.handle_event, "handler")
    listed = instance.get_subscribed_events()
    if isinstance(listed, str) or not isinstance(listed, Iterable):
        raise _handler_error(
            instance.get_subscribed_events,
            f"returned {listed!r}",
            'a list: ["orders.placed", "shop.**"]',
            kind="method",
        )
    patterns = tuple(check_pattern(_pattern_of(item, instance)) for item in listed)
    if not patterns:
        return None
    return HandlerDeclaration(name="handle_event", patterns=patterns), _returning(instance.handle_event)


def _pattern_of(item: object, instance: IEventPlugin) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, type) and issubclass(item, Event) and item.__event_type__:
        return item.__event_type__
    raise _handler_error(
        instance.get_subscribed_events,
        f"lists {item!r}",
        "type names, patterns and event classes with a type",
        kind="method",
    )


def _event_models(function: Any, annotation: Any) -> tuple[type[Event], ...]:
    if annotation is PluginEvent:
        return ()
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    for part in parts:
        if not (isinstance(part, type) and issubclass(part, Event)):
            what = (
                f"{_name(part)} derives from {_name(part.__base__)}" if isinstance(part, type) else repr(part)
            )
            raise _handler_error(
                function,
                f"takes {_name(part)}, which is not an event ({what})",
                f'class {_name(part)}(Event, type="…"), or PluginEvent with patterns: @on("…")',
            )
    return parts


def _check_annotation(function: Any, annotation: Any, models: tuple[type[Event], ...], mark: OnMark) -> None:
    if annotation is PluginEvent and not mark.patterns:
        raise _handler_error(function, "takes PluginEvent but names no pattern", '@on("orders.**")')
    untyped = [model for model in models if not model.__event_type__]
    if untyped and not mark.patterns:
        raise _handler_error(
            function,
            f"takes {untyped[0].__name__}, a base without a type",
            'a class with type="…", or @on("…")',
        )
    for model in models:
        kind = model.__event_type__
        if mark.patterns and kind and not any(matches(pattern, kind) for pattern in mark.patterns):
            raise _handler_error(
                function,
                f"takes {model.__name__} ({kind}), which its patterns do not select",
                "@on without patterns",
            )


def _invoker(function: Any, models: tuple[type[Event], ...], wants_meta: bool) -> HandlerFunction:
    """What runs a typed handler: makes the model, calls, checks the result."""
    if len(models) == 1:
        model = models[0]

        async def invoke(event: PluginEvent) -> EventResult | None:
            value = event.message.event
            if type(value) is not model:
                value = _make(event, model)
            try:
                result = await (function(value, event) if wants_meta else function(value))
            except BaseException as error:
                if (told := outward(error, _what(function))) is error:
                    raise
                raise told from error
            return None if result is None else check_result(result, function)

        return invoke
    by_type = {model.__event_type__: model for model in models}

    async def invoke_one_of(event: PluginEvent) -> EventResult | None:
        value = _make(event, by_type[event.message.type])
        call = function(value, event) if wants_meta else function(value)
        result = await contained(call, _what(function))
        return None if result is None else check_result(result, function)

    return invoke_one_of


def _make(event: PluginEvent, model: type[Event]) -> Event:
    shared = event.message.event
    if isinstance(shared, model):  # a common base: the published object is one
        return shared
    return event_from_message(event.message, model)


def _returning(function: Any) -> HandlerFunction:
    async def invoke(event: PluginEvent) -> EventResult | None:
        try:
            result = await function(event)
        except BaseException as error:
            if (told := outward(error, _what(function))) is error:
                raise
            raise told from error
        return None if result is None else check_result(result, function)

    return invoke


def _what(function: Any) -> str:
    return str(getattr(function, "__name__", function))


def check_result(result: Any, function: Any) -> EventResult:
    """What a handler returned, as an `EventResult`; raises `HandlerDefinitionError` for anything else."""
    if isinstance(result, EventResult):
        return result
    if isinstance(result, Event):
        return EventResult.ok(result)
    raise _handler_error(
        function, f"returned {type(result).__name__}", "None, an event, or EventResult.ok(*events)"
    )


# --- providers ----------------------------------------------------------------------------------------


def compile_provider(function: Any) -> tuple[ProviderDeclaration, ProviderFunction]:
    """A method marked `@provides` → its declaration and what runs it."""
    parameters = _parameters(function, "provider")
    model = parameters[0] if len(parameters) == 1 else None
    if not (isinstance(model, type) and issubclass(model, Query) and model.__capability__):
        raise _handler_error(
            function,
            "does not take one query",
            'query: Quote, with class Quote(Query[Price], capability="…")',
        )
    said = _hints(function).get("return", model.__answer__)
    answer = _name(model.__answer__)
    if said != model.__answer__:
        raise _handler_error(
            function,
            f"says that it answers {_name(said)}, and {model.__name__} is answered with {answer}",
            f"-> {answer}",
            kind="provider",
        )
    adapter = answer_adapter(model)
    declared = ProviderDeclaration(
        name=function.__name__,
        capability=model.__capability__,
        description=inspect.getdoc(function) or inspect.getdoc(model) or "",
        query_schema=model.model_json_schema(),
        answer_schema=adapter.json_schema(mode="serialization"),
    )

    async def invoke(call: Call) -> CallReply:
        query = load_model(model, call.data, what=f"the query of {call.capability}")
        answer = await contained(function(query), _what(function))
        try:
            checked = adapter.validate_python(answer)
        except ValidationError as error:
            raise CallRefused(
                f"the answer of {call.capability}: {invalid('it', error).message}",
                capability=call.capability,
                where=place(function),
            ) from None
        return CallReply(data=adapter.dump_json(checked).decode())

    return declared, invoke


# --- reading code -----------------------------------------------------------------------------------------


def _members(cls: type) -> Iterable[tuple[str, Any]]:
    seen: set[str] = set()
    for base in cls.__mro__:
        for name, member in vars(base).items():
            if name not in seen:
                seen.add(name)
                yield name, member


def _parameters(function: Any, kind: str) -> list[Any]:
    """The annotations of the parameters, resolved."""
    _require_async(function, kind)
    try:
        hints = _hints(function)
    except NameError as error:
        raise _handler_error(
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
            raise _handler_error(
                function,
                "has no event type" if kind == "handler" else "has no query type",
                f"annotate its parameter: async def {function.__name__}(self, {name}: OrderPlaced)",
            )
    return [hints.get(name, Any) for name in names]


def _hints(function: Any) -> dict[str, Any]:
    """Type hints, resolved; classes that are local to the same function as a handler are found too."""
    plain = inspect.unwrap(getattr(function, "__func__", function))
    return typing.get_type_hints(plain, localns=_local_classes(plain))


def _local_classes(function: Any) -> dict[str, type]:
    if "<locals>" not in function.__qualname__:
        return {}
    return {
        cls.__name__: cls
        for base in (Event, Query)
        for cls in _subclasses(base)
        if cls.__module__ == function.__module__
        and function.__qualname__.startswith(cls.__qualname__.rpartition(".")[0])
    }


def _require_async(function: Any, kind: str) -> None:
    if not inspect.iscoroutinefunction(function):
        raise _handler_error(
            function, "is not async", f"async def {getattr(function, '__name__', kind)}(…)", kind=kind
        )


def _add(table: dict[str, Any], name: str, value: Any, member: Any) -> None:
    if name in table:
        raise _handler_error(member, f"has the name {name!r}, which another one has", '@on(name="…")')
    table[name] = value


def _classes(cls: type, modules: set[str]) -> tuple[list[type[Event]], list[type[Query[Any]]]]:
    """Event and query classes that the plugin's modules define (local ones included) or import."""
    found: set[type] = set()
    for name in modules:
        module = sys.modules.get(name)
        found.update(value for value in vars(module).values() if isinstance(value, type)) if module else None
    for base in (Event, Query):
        found.update(sub for sub in _subclasses(base) if sub.__module__ in modules)
    events = [item for item in found if issubclass(item, Event) and item.__event_type__]
    queries = [item for item in found if issubclass(item, Query) and item.__capability__]
    return sorted(events, key=_name), sorted(queries, key=_name)


def _subclasses(cls: type) -> Iterable[type]:
    sub: type
    for sub in type.__subclasses__(cls):
        yield sub
        yield from _subclasses(sub)


def _named_events(cls: type) -> Iterable[type[Event]]:
    """Event classes in the annotations of marked methods, results included."""
    for _, member in _members(cls):
        if not (hasattr(member, ON) or hasattr(member, PROVIDES)):
            continue
        for hint in _hints(member).values():
            for part in (hint, *get_args(hint)):
                if isinstance(part, type) and issubclass(part, Event):
                    yield part


def _catalog_entry(event: type[Event]) -> CatalogEntry:
    return CatalogEntry(
        type=event.__event_type__,
        version=event.__event_version__,
        description=inspect.cleandoc(event.__doc__ or ""),
        json_schema=event_schema(event),
    )


def place(function: Any) -> str:
    """`file:line` of a function or class."""
    if isinstance(function, type):
        return f"{inspect.getsourcefile(function) or function.__module__}:{function.__qualname__}"
    code = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else _name(type(function))


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", value))


def _handler_error(function: Any, what: str, fix: str, *, kind: str = "handler") -> HandlerDefinitionError:
    name = getattr(function, "__name__", repr(function))
    return HandlerDefinitionError(f"{kind} {name!r} {what}", where=place(function), fix=fix)
