"""Handlers: from a method marked `@on`, or a function given to `subscribe`, to what runs for each event.

Read once at load; per event only the compiled functions run.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from contracts.base import OnMark
from contracts.bus import Predicate, SubscriptionOptions
from contracts.event import Event, EventResult
from contracts.message import PluginEvent, event_from_message
from contracts.patterns import check_pattern, matches
from contracts.plugin import IEventPlugin

from ..contain import contained, outward
from . import HandlerDeclaration
from .predicates import compile_predicate
from .reading import handler_error, name_of, parameters_of, require_async

HandlerFunction = Callable[[PluginEvent], Coroutine[Any, Any, EventResult | None]]
ValueOf = Callable[[PluginEvent], Any]
"""What a handler is given first, made of an event."""


@dataclass(frozen=True, slots=True)
class CompiledHandler:
    """What a handler says of itself, what runs it, and whether it wants an event (None: each)."""

    declaration: HandlerDeclaration
    run: HandlerFunction
    wants: Predicate | None = None


def compile_handler(function: Any, mark: OnMark) -> CompiledHandler:
    """A method marked `@on`. Raises `HandlerDefinitionError` with its place for what cannot work."""
    parameters = parameters_of(function, "handler")
    if not 1 <= len(parameters) <= 2:
        raise handler_error(
            function, f"takes {len(parameters)} parameters", "one event, and PluginEvent if wanted"
        )
    annotation = parameters[0]
    wants_meta = len(parameters) == 2
    if wants_meta and parameters[1] is not PluginEvent:
        raise handler_error(function, "has a second parameter that is not PluginEvent", "meta: PluginEvent")
    models = _event_models(function, annotation)
    patterns = mark.patterns or tuple(model.__event_type__ for model in models)
    _check_annotation(function, annotation, models, mark)
    declared = HandlerDeclaration(
        name=mark.name or function.__name__,
        patterns=patterns,
        options=mark.options,
        filtered=mark.where is not None,
    )
    is_untyped = annotation is PluginEvent
    run = _returning(function) if is_untyped else _invoker(function, models, wants_meta)
    if mark.where is None:
        return CompiledHandler(declared, run)
    value_of = _itself if is_untyped else _maker(models)
    return CompiledHandler(declared, run, compile_predicate(mark.where, function, value_of))


def compile_subscription(
    function: Any,
    patterns: tuple[str, ...],
    name: str | None,
    options: SubscriptionOptions,
    where: Predicate | None = None,
) -> CompiledHandler:
    """A function given to `PluginContext.subscribe`."""
    require_async(function, "handler")
    for pattern in patterns:
        check_pattern(pattern)
    if not patterns:
        raise handler_error(function, "is subscribed without a pattern", "subscribe(handler, 'orders.**')")
    declared = HandlerDeclaration(
        name=name or function.__name__, patterns=patterns, options=options, filtered=where is not None
    )
    wants = None if where is None else compile_predicate(where, function, _itself)
    return CompiledHandler(declared, _returning(function), wants)


def compile_explicit(instance: IEventPlugin) -> CompiledHandler | None:
    """`handle_event` as a handler; None where it subscribes to nothing."""
    require_async(instance.handle_event, "handler")
    listed = instance.get_subscribed_events()
    if isinstance(listed, str) or not isinstance(listed, Iterable):
        raise handler_error(
            instance.get_subscribed_events,
            f"returned {listed!r}",
            'a list: ["orders.placed", "shop.**"]',
            kind="method",
        )
    patterns = tuple(check_pattern(_pattern_of(item, instance)) for item in listed)
    if not patterns:
        return None
    declared = HandlerDeclaration(name="handle_event", patterns=patterns)
    return CompiledHandler(declared, _returning(instance.handle_event))


def _pattern_of(item: object, instance: IEventPlugin) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, type) and issubclass(item, Event) and item.__event_type__:
        return item.__event_type__
    raise handler_error(
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
                f"{name_of(part)} derives from {name_of(part.__base__)}"
                if isinstance(part, type)
                else repr(part)
            )
            raise handler_error(
                function,
                f"takes {name_of(part)}, which is not an event ({what})",
                f'class {name_of(part)}(Event, type="…"), or PluginEvent with patterns: @on("…")',
            )
    return parts


def _check_annotation(function: Any, annotation: Any, models: tuple[type[Event], ...], mark: OnMark) -> None:
    if annotation is PluginEvent and not mark.patterns:
        raise handler_error(function, "takes PluginEvent but names no pattern", '@on("orders.**")')
    untyped = [model for model in models if not model.__event_type__]
    if untyped and not mark.patterns:
        raise handler_error(
            function,
            f"takes {untyped[0].__name__}, a base without a type",
            'a class with type="…", or @on("…")',
        )
    for model in models:
        kind = model.__event_type__
        if mark.patterns and kind and not any(matches(pattern, kind) for pattern in mark.patterns):
            raise handler_error(
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


def _itself(event: PluginEvent) -> PluginEvent:
    return event


def _maker(models: tuple[type[Event], ...]) -> ValueOf:
    """What makes the instance that a typed handler is given."""
    if len(models) == 1:
        model = models[0]
        return lambda event: _make(event, model)
    by_type = {model.__event_type__: model for model in models}
    return lambda event: _make(event, by_type[event.message.type])


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
    raise handler_error(
        function, f"returned {type(result).__name__}", "None, an event, or EventResult.ok(*events)"
    )
