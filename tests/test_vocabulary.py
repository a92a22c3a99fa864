"""The names that whoever knows plugin architectures expects: each is there, and of its kind."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from kernel import PluginRegistry
from kernel.loader import PluginLoader

STEPS = ("initialize", "start", "stop", "shutdown")
HOOKS = tuple(f"on_{when}_{step}" for step in STEPS for when in ("before", "after"))

NAMES: dict[str, tuple[str, ...]] = {
    # interfaces
    "contracts:IPlugin": ("plugin_id", "plugin_name", "version", "status", *STEPS),
    "contracts:IEventPlugin": ("handle_event", "get_subscribed_events"),
    "contracts:IWebPlugin": ("get_api_router", "get_static_mounts"),
    "contracts:IConfigurablePlugin": ("configure", "get_configuration_schema"),
    "contracts:IPluginHealth": ("health_check", "get_metrics"),
    "contracts:IWebConfigurablePlugin": ("get_api_router", "configure"),
    "contracts.plugin:IPluginRegistry": (
        "get_plugin", "get_metadata", "get_all_plugins", "get_plugins_by_capability", "get_plugins_by_tag",
        "get_plugins_by_status", "get_plugins_by_event_type", "get_plugins_by_level",
    ),
    "contracts:BasePlugin": ("plugin_id", "plugin_name", "version", "status", *STEPS, *HOOKS),
    # data
    "contracts:Envelope": ("id", "source", "type", "subject", "time", "specversion", "traceparent"),
    "contracts:PluginEvent": ("envelope", "attempt", "deadline", "data", "as_"),
    "contracts:EventResult": ("ok", "retry", "discard", "dead_letter"),
    "contracts:PluginContext": ("publish", "request", "subscribe", "provide", "spawn", "every", "on_close"),
    "contracts:PluginMetadata": (
        "plugin_id", "name", "version", "description", "author", "dependencies", "optional_dependencies",
        "capabilities", "tags", "entry_point", "security_level", "required_permissions",
        "default_configuration", "configuration_schema", "source", "file_path", "size_bytes", "checksum",
        "publishes", "subscribes", "provides", "requests", "requires_plugbus", "activation", "criticality",
        "resource_limits", "requires_bus", "order_after", "instances", "reload", "configuration_version",
    ),
    "contracts:PluginStatus": ("UNLOADED", "LOADED", "INITIALIZED", "STARTED", "STOPPED", "ERROR"),
    "contracts:ConfigurationResult": ("ok", "errors"),
    "contracts:HealthCheck": (),
    "contracts:PerformanceMetrics": (),
    "contracts:StaticMount": (),
    "contracts:PluginDependency": ("plugin_id", "version_spec"),
    # discovery, loading, dependencies
    "kernel:PluginDiscovery": (
        "discover_from_entry_points", "discover_from_directory", "discover_from_metadata", "discover_all",
    ),
    "kernel:PluginLoader": (
        "load_plugin_class", "load_from_entry_point", "load_plugin_safe", "get_plugin_class",
    ),
    "kernel:DependencyResolver": (
        "build_dependency_graph", "resolve_load_order", "detect_circular_dependencies",
        "check_version_conflicts",
    ),
    "contracts.errors:VersionConflict": (),
    "contracts.errors:CircularDependencyError": (),
    "contracts.errors:PluginLoadError": (),
    # lifecycle and registry
    "kernel:PluginLifecycleManager": ("load", *STEPS, "unload"),
    "kernel:PluginManager": (
        "start", "stop", "start_plugin", "stop_plugin", "register_plugin", "load_plugin_safe", "get_plugin",
        "get_plugin_instance",
    ),
    "kernel:PluginRegistry": (
        "register_plugin", "unregister_plugin", "get_plugin", "get_metadata", "get_all_plugins",
        "get_plugins_by_capability", "get_plugins_by_tag", "get_plugins_by_status",
        "get_plugins_by_event_type", "get_plugins_by_level",
    ),
    "contracts.errors:PluginAlreadyRegisteredError": (),
    # security
    "contracts:SecurityLevel": ("UNRESTRICTED", "TRUSTED", "SANDBOXED", "ISOLATED"),
    "contracts:Permission": (
        "READ_DATA", "WRITE_DATA", "DELETE_DATA", "EXECUTE_CODE", "NETWORK_ACCESS", "FILE_SYSTEM_ACCESS",
        "DATABASE_ACCESS",
    ),
    "contracts.security:SecurityContext": ("validate_permission",),
    "contracts:ResourceLimits": (
        "max_memory_mb", "max_cpu_percent", "max_execution_time_seconds", "max_file_size_mb",
        "max_network_requests",
    ),
    "contracts.security:ResourceUsage": (),
    "kernel:SecurityManager": ("create_security_context",),
    "kernel:PermissionManager": ("check_permission",),
    "kernel:ResourceManager": ("check_resource_limits",),
    "plugins.audit:AuditLogger": ("log_plugin_action",),
    "contracts.errors:PermissionDeniedError": (),
    # testing
    "kernel.testing:MockPlugin": (),
    "kernel.testing:harness": (),
}  # fmt: skip

ASYNC = {
    "contracts:IPlugin": STEPS,
    "contracts:IEventPlugin": ("handle_event",),
    "contracts:IWebPlugin": ("get_api_router", "get_static_mounts"),
    "contracts:IConfigurablePlugin": ("configure",),
    "contracts:IPluginHealth": ("health_check",),
    "contracts:BasePlugin": (*STEPS, *HOOKS),
}
SYNC = {
    "contracts:IEventPlugin": ("get_subscribed_events",),
    "contracts:IConfigurablePlugin": ("get_configuration_schema",),
    "contracts:IPluginHealth": ("get_metrics",),
}


def found(name: str) -> object:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def members(cls: object) -> set[str]:
    return {*dir(cls), *getattr(cls, "model_fields", {}), *getattr(cls, "__dataclass_fields__", {})}


@pytest.mark.parametrize("name", NAMES)
def test_the_name_is_there_with_its_members(name: str) -> None:
    """Imported from where it is documented; nothing that it should have is missing."""
    assert set(NAMES[name]) <= members(found(name)), set(NAMES[name]) - members(found(name))


@pytest.mark.parametrize(
    ("name", "method", "is_async"),
    [(name, method, True) for name in ASYNC for method in ASYNC[name]]
    + [(name, method, False) for name in SYNC for method in SYNC[name]],
)
def test_what_is_awaited_and_what_is_not(name: str, method: str, is_async: bool) -> None:
    """Steps, hooks, handlers, routes, configuration and health are async; what is read once is not."""
    assert inspect.iscoroutinefunction(getattr(found(name), method)) is is_async


@pytest.mark.parametrize("kind", ["contracts:SecurityLevel", "contracts:Permission"])
def test_enums_are_accepted_by_value_and_by_name(kind: str) -> None:
    """In any case."""
    cls = found(kind)
    for member in cls:  # type: ignore[attr-defined]
        for text in (member.value, member.name, member.value.title(), member.name.lower()):
            assert cls(text) is member  # type: ignore[operator]


def test_the_default_limits_are_those_of_the_guides() -> None:
    """512 MB, half a processor, 30 s, 100 MB, 100 requests."""
    limits = found("contracts:ResourceLimits")()  # type: ignore[operator]
    assert list(limits.model_dump().values())[:5] == [512, 50, 30, 100, 100]


def test_what_is_held_of_a_plugin_is_never_its_instance() -> None:
    """Whatever answers a plugin answers a handle."""
    for method in (PluginRegistry.get_plugin, found("kernel:PluginManager").get_plugin_instance):  # type: ignore[attr-defined]
        assert inspect.signature(method).return_annotation == "PluginHandle"
    assert not hasattr(PluginLoader, "instances")
