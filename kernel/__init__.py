"""Lifecycle and registry, and the order in which things happen. See README.md.

`PluginManager` is the face that an application embeds; the other names are its parts. They are handed
on lazily: importing the kernel costs no more than the part that is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .collector import rarely_collected

__plugbus__ = "kernel"  # the door checks that this package is ours

_PLACES = {
    "DependencyResolver": "resolver",
    "PermissionManager": "security",
    "PluginDiscovery": "discovery",
    "PluginLifecycleManager": "lifecycle",
    "PluginLoader": "loader",
    "PluginManager": "manager",
    "PluginPool": "hosts.pool",
    "PluginRegistry": "registry",
    "ResourceManager": "security",
    "SecurityManager": "security",
    "Settings": "settings",
    "load_settings": "settings",
}

if TYPE_CHECKING:
    from .discovery import PluginDiscovery as PluginDiscovery
    from .hosts.pool import PluginPool as PluginPool
    from .lifecycle import PluginLifecycleManager as PluginLifecycleManager
    from .loader import PluginLoader as PluginLoader
    from .manager import PluginManager as PluginManager
    from .registry import PluginRegistry as PluginRegistry
    from .resolver import DependencyResolver as DependencyResolver
    from .security import PermissionManager as PermissionManager
    from .security import ResourceManager as ResourceManager
    from .security import SecurityManager as SecurityManager
    from .settings import Settings as Settings
    from .settings import load_settings as load_settings


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'kernel' has no attribute {name!r}")
    with rarely_collected():
        return getattr(import_module(f".{_PLACES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
