"""Whether a class is the plugin that it claims to be."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from contracts.base import ON
from contracts.errors import ManifestError, PluginLoadError
from contracts.metadata import PluginMetadata
from contracts.plugin import (
    IConfigurablePlugin,
    IConfigurationMigration,
    IEventPlugin,
    IPluginHealth,
    IWebPlugin,
)

from .manifest import Manifest, build_metadata
from .manifest_problems import suggestion

_STEPS = ("initialize", "start", "stop", "shutdown")
_FACTS = ("plugin_id", "plugin_name", "version", "status")
_HALVES: Mapping[type, tuple[str, ...]] = {
    IEventPlugin: ("handle_event", "get_subscribed_events"),
    IWebPlugin: ("get_api_router", "get_static_mounts"),
}
"""Interfaces that a class claims by having a part of them, because half of them would be of no effect."""
_CLAIMED: Mapping[type, tuple[str, ...]] = {
    IConfigurablePlugin: ("configure", "get_configuration_schema"),
    IConfigurationMigration: ("migrate_configuration",),
    IPluginHealth: ("health_check", "get_metrics"),
}
"""Interfaces that a class claims only by deriving from them; a part of them works alone."""
_SYNC = frozenset({"get_subscribed_events", "get_configuration_schema", "get_metrics"})
_HOOKS = tuple(f"on_{when}_{step}" for step in _STEPS for when in ("before", "after"))


def plugin_class_in(module: ModuleType, name: str) -> type:
    """The class `name` of a plugin's module. Raises `PluginLoadError`, which names what is there."""
    found = getattr(module, name, None)
    if isinstance(found, type):
        return found
    where = module.__file__ or module.__name__
    if found is not None:
        kind = type(found).__name__
        raise PluginLoadError(
            f"'{name}' is not a class, but of type {kind}", where=where, fix="name the class in 'entry_point'"
        )
    own = [key for key, value in vars(module).items() if _is_own_class(value, module)]
    there = f"it has {', '.join(own)}" if own else "it has no class"
    meant = suggestion(name, own) or next(iter(own), "")
    raise PluginLoadError(
        f"the module has no class '{name}'; {there}",
        where=where,
        fix=f"did you mean '{meant}'? Say so in 'entry_point'" if meant else f"class {name}(BasePlugin): …",
    )


def check_plugin_class(cls: type, metadata: PluginMetadata) -> None:
    """Raise `PluginLoadError` for the first thing by which `cls` is not what it claims to be."""
    _check_is_plugin(cls)
    _check_interfaces(cls)
    _check_async(cls)
    _check_complete(cls)
    _check_same_manifest(cls, metadata)


def place_of(item: Any) -> str:
    """`file:line` of a class or function, as well as it is known."""
    try:
        file = inspect.getsourcefile(item)
        return f"{file}:{inspect.getsourcelines(item)[1]}"
    except (OSError, TypeError):
        return getattr(item, "__module__", "")


def _is_own_class(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def _check_is_plugin(cls: type) -> None:
    missing = [name for name in _STEPS if not _has(cls, name)]
    missing += [name for name in _FACTS if not _has(cls, name) and not _is_annotated(cls, name)]
    if missing:
        raise PluginLoadError(
            f"{cls.__name__} is no plugin: it has no {_listed(missing)}",
            where=place_of(cls),
            fix=f"class {cls.__name__}(BasePlugin): brings all of IPlugin",
        )


def _check_interfaces(cls: type) -> None:
    for interface, names in (*_HALVES.items(), *_CLAIMED.items()):
        present = [name for name in names if _has(cls, name) and not _is_handler(cls, name)]
        claims = interface in cls.__mro__ or (present and interface in _HALVES)
        if claims and (missing := [name for name in names if name not in present]):
            reason = f"it has {_listed(present)}" if present else "it derives from it"
            raise PluginLoadError(
                f"{cls.__name__} is half an {interface.__name__}: {reason}, but no {_listed(missing)}",
                where=place_of(cls),
                fix=f"add {_signature(missing[0])} to {cls.__name__}",
            )


def _check_async(cls: type) -> None:
    """What the kernel awaits must be async; a plain function would fail only when it is called."""
    names = (*_STEPS, *_HOOKS, *(name for names in (*_HALVES.values(), *_CLAIMED.values()) for name in names))
    for name in names:
        function = inspect.getattr_static(cls, name, None)
        if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
            continue
        if inspect.iscoroutinefunction(function) == (name in _SYNC):
            must = "must not be async" if name in _SYNC else "must be async"
            raise PluginLoadError(
                f"{cls.__name__}.{name} {must}", where=place_of(function), fix=f"write {_signature(name)}"
            )


def _check_complete(cls: type) -> None:
    if abstract := sorted(getattr(cls, "__abstractmethods__", ())):
        raise PluginLoadError(
            f"{cls.__name__} is abstract: {_listed(abstract)} has no body",
            where=place_of(cls),
            fix=f"write {abstract[0]}, or name a class in 'entry_point' that has it",
        )


def _check_same_manifest(cls: type, metadata: PluginMetadata) -> None:
    """The class line may repeat the manifest file, but not contradict it: nobody would see which counts."""
    said = vars(cls).get("__manifest__", {})
    completed = {"plugin_id": metadata.plugin_id, "version": metadata.version, **said}
    try:
        other = build_metadata(Manifest(Path(metadata.file_path), completed, "python"))
    except ManifestError as error:
        raise PluginLoadError(error.message, where=place_of(cls), fix=error.fix) from error
    for key in said:
        if getattr(other, key) != getattr(metadata, key):
            raise PluginLoadError(
                f"the class line of {cls.__name__} and {metadata.file_path} contradict each other in '{key}'",
                where=place_of(cls),
                fix=f"say '{key}' in one place only; if it was changed while the kernel runs, start it again",
            )


def _has(cls: type, name: str) -> bool:
    """Whether `cls` itself implements `name`: the protocol's own empty body does not count."""
    bases = (base for base in cls.__mro__ if not getattr(base, "_is_protocol", False))
    return any(name in vars(base) for base in bases)


def _is_annotated(cls: type, name: str) -> bool:
    return any(name in inspect.get_annotations(base) for base in cls.__mro__)


def _is_handler(cls: type, name: str) -> bool:
    return hasattr(getattr(cls, name), ON)


def _signature(name: str) -> str:
    return f"'def {name}(self)'" if name in _SYNC else f"'async def {name}(self, …)'"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
