"""What a plugin's class says of itself, read by inspection, and the functions that run its handlers.

Read once at load; per message only the compiled functions run.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

from contracts.base import ON, PROVIDES, OnMark, ProvidesMark
from contracts.bus import CatalogEntry, Predicate
from contracts.errors import HandlerDefinitionError
from contracts.event import Event, event_schema
from contracts.plugin import IEventPlugin, IWebPlugin
from contracts.query import Query
from contracts.web import IRequestPlugin

from . import Declaration, ProviderDeclaration
from .handlers import CompiledHandler, HandlerFunction, compile_explicit, compile_handler
from .providers import ProviderFunction, compile_provider
from .reading import handler_error, hints_of, members, name_of, subclasses_of


@dataclass
class Compiled:
    """A plugin's declaration, and the functions behind its names."""

    declaration: Declaration
    handlers: dict[str, HandlerFunction] = field(default_factory=dict)
    predicates: dict[str, Predicate] = field(default_factory=dict)
    providers: dict[str, ProviderFunction] = field(default_factory=dict)


def compile_plugin(instance: object, modules: Iterable[str]) -> Compiled:
    """Read the marks and interfaces of `instance`, whose code lies in `modules`.

    Raises `HandlerDefinitionError` for the first handler or provider that cannot work, with its place; its
    `details["others"]` are those of the others.
    """
    cls = type(instance)
    handlers: dict[str, CompiledHandler] = {}
    providers: dict[str, tuple[ProviderDeclaration, ProviderFunction]] = {}
    problems: list[HandlerDefinitionError] = []
    for attribute, member in members(cls):
        try:
            if isinstance(mark := getattr(member, ON, None), OnMark):
                handler = compile_handler(getattr(instance, attribute), mark)
                _add(handlers, handler.declaration.name, handler, member)
            if isinstance(getattr(member, PROVIDES, None), ProvidesMark):
                provider = compile_provider(getattr(instance, attribute))
                _add(providers, provider[0].name, provider, member)
        except HandlerDefinitionError as error:
            problems.append(error)
    if problems:
        problems[0].details = {"others": tuple(problems[1:])}
        raise problems[0]
    if isinstance(instance, IEventPlugin) and (explicit := compile_explicit(instance)) is not None:
        _add(handlers, "handle_event", explicit, type(instance).handle_event)
    events, queries = _classes(cls, set(modules))
    named = [event for event in _named_events(cls) if event.__event_type__]
    provided = {declared.capability for declared, _ in providers.values()}
    declaration = Declaration(
        handlers=tuple(handler.declaration for handler in handlers.values()),
        providers=tuple(declared for declared, _ in providers.values()),
        event_types=tuple(_catalog_entry(event) for event in dict.fromkeys([*events, *named])),
        publishes=tuple(sorted({event.__event_type__ for event in [*events, *named]})),
        requests=tuple(sorted({query.__capability__ for query in queries} - provided)),
        is_web=isinstance(instance, IWebPlugin),
        is_configurable=hasattr(instance, "configure"),
        has_health=hasattr(instance, "health_check"),
        has_metrics=hasattr(instance, "get_metrics"),
        sees_requests=isinstance(instance, IRequestPlugin),
        request_order=_request_order(instance),
    )
    return Compiled(
        declaration,
        {name: handler.run for name, handler in handlers.items()},
        {name: handler.wants for name, handler in handlers.items() if handler.wants is not None},
        {name: function for name, (_, function) in providers.items()},
    )


def _request_order(instance: object) -> int:
    """The place of a request plugin. Raises `HandlerDefinitionError` where it, or its method, cannot work."""
    if not isinstance(instance, IRequestPlugin):
        return 0
    method, order = type(instance).handle_request, getattr(instance, "request_order", 0)
    if not inspect.iscoroutinefunction(method):
        raise handler_error(method, "is not async", "async def handle_request(self, request: RequestInfo)")
    if type(order) is not int:
        raise handler_error(method, f"has request_order = {order!r}", "request_order = 10, an int")
    return order


def _add(table: dict[str, Any], name: str, value: Any, member: Any) -> None:
    if name in table:
        raise handler_error(member, f"has the name {name!r}, which another one has", '@on(name="…")')
    table[name] = value


def _classes(cls: type, modules: set[str]) -> tuple[list[type[Event]], list[type[Query[Any]]]]:
    """Event and query classes that the plugin's modules define (local ones included) or import."""
    found: set[type] = set()
    for name in modules:
        module = sys.modules.get(name)
        found.update(value for value in vars(module).values() if isinstance(value, type)) if module else None
    for base in (Event, Query):
        found.update(sub for sub in subclasses_of(base) if sub.__module__ in modules)
    events = [item for item in found if issubclass(item, Event) and item.__event_type__]
    queries = [item for item in found if issubclass(item, Query) and item.__capability__]
    return sorted(events, key=name_of), sorted(queries, key=name_of)


def _named_events(cls: type) -> Iterable[type[Event]]:
    """Event classes in the annotations of marked methods, results included."""
    for _, member in members(cls):
        if not (hasattr(member, ON) or hasattr(member, PROVIDES)):
            continue
        for hint in hints_of(member).values():
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
