"""Who needs whom among the plugins that are there, and whether it gets it. Pure."""

from __future__ import annotations

from collections.abc import Container

from contracts.errors import DependencyError, ErrorInfo, PluginStateError
from contracts.plugin import PluginStatus

from .registry import PluginRecord, PluginRegistry

S = PluginStatus

WAITS_FOR_DEPENDENCY = DependencyError.__name__
"""Code of the reason of a plugin that is well, but needs one that is not started."""


def needed_by(plugin_id: str, registry: PluginRegistry) -> tuple[str, ...]:
    """Ids of the plugins that depend on this one."""
    return tuple(
        record.plugin_id
        for record in registry
        if any(dependency.plugin_id == plugin_id for dependency in record.metadata.dependencies)
    )


def stopped_before(plugin_id: str, registry: PluginRegistry) -> tuple[str, ...]:
    """Ids of all that need it, or need one that does; each before those that it needs."""
    order: list[str] = []

    def visit(id: str) -> None:
        for user in needed_by(id, registry):
            if user not in order:
                visit(user)
                order.append(user)

    visit(plugin_id)
    return tuple(id for id in order if id != plugin_id)


def users_of(plugin_id: str, registry: PluginRegistry, under_way: Container[str]) -> list[str]:
    """Ids of those that depend on this one and are started, or are being started: they have seen it there."""
    users = map(registry.record, needed_by(plugin_id, registry))
    return [user.plugin_id for user in users if user.status is S.STARTED or _comes(user, under_way)]


def _comes(record: PluginRecord, under_way: Container[str]) -> bool:
    return record.plugin_id in under_way and not record.activity.goes_down


def concerned_by(plugin_id: str, registry: PluginRegistry) -> tuple[str, ...]:
    """Ids of the started plugins that depend on this one, or use it where it is there."""
    return tuple(
        record.plugin_id
        for record in registry
        if record.status is S.STARTED
        and any(
            one.plugin_id == plugin_id
            for one in (*record.metadata.dependencies, *record.metadata.optional_dependencies)
        )
    )


def is_needed_now(plugin_id: str, registry: PluginRegistry, under_way: Container[str]) -> bool:
    """Whether one that depends on it is loaded, or comes or goes: is `under_way`."""
    users = map(registry.record, needed_by(plugin_id, registry))
    return any(user.current is not None or user.plugin_id in under_way for user in users)


def failed_dependency(record: PluginRecord, registry: PluginRegistry) -> ErrorInfo | None:
    """Why it cannot start: what it needs is neither started nor starts when it is needed."""
    for dependency in record.metadata.dependencies:
        needed = registry.record(dependency.plugin_id)
        if needed.status is not S.STARTED and not needed.is_armed:
            why = needed.reason.text if needed.reason else needed.status.value
            return ErrorInfo(
                type=WAITS_FOR_DEPENDENCY,
                message=f"it needs {needed.plugin_id!r}, which is not started: {why}",
                place=needed.reason.place if needed.reason else "",
                fix=f"mend {needed.plugin_id!r} first: plugbus plugin show {needed.plugin_id}",
            )
    return None


def require_dependencies(record: PluginRecord, registry: PluginRegistry) -> None:
    """Raises `PluginStateError` where one of them has failed."""
    if (waiting := failed_dependency(record, registry)) is not None:
        raise PluginStateError(
            f"plugin {record.plugin_id!r} cannot be started: {waiting.message}",
            plugin_id=record.plugin_id,
            fix=waiting.fix,
        )
