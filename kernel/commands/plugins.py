"""`kernel.plugin.*`: what is there, and starting and stopping it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from contracts.bus import Call, SubscriptionSpec
from contracts.health import HealthReport
from contracts.inspection import check_tag
from contracts.messages import (
    CommandResult,
    DisablePlugin,
    EnablePlugin,
    ListPlugins,
    PluginDetails,
    PluginInfo,
    ShowHealth,
    ShowPlugin,
    StartPlugin,
    StopPlugin,
)
from contracts.messages.commands import HandlerInfo
from contracts.plugin import PluginStatus

from ..attribution import ask_pending, figures_of
from ..dependents import needed_by
from ..health import health_of
from ..port import source_of
from ..registry import Generation, PluginRecord
from ..security import ENFORCED_IN_PROCESS
from ..selection import is_selected
from .desk import CommandDesk


class PluginCommands:
    def __init__(self, desk: CommandDesk) -> None:
        self._desk = desk
        self._kernel = desk.kernel
        self._control = desk.kernel.control

    async def open(self) -> None:
        await self._desk.provide(ListPlugins, self._list)
        await self._desk.provide(ShowPlugin, self._show)
        await self._desk.provide(ShowHealth, self._health)
        await self._desk.provide(StartPlugin, self._start)
        await self._desk.provide(StopPlugin, self._stop)
        await self._desk.provide(EnablePlugin, self._enable)
        await self._desk.provide(DisablePlugin, self._disable)

    async def _list(self, query: ListPlugins, call: Call) -> tuple[PluginInfo, ...]:
        pending = await ask_pending(self._desk.bus)
        selected = (record for record in self._kernel.registry if is_selected(record, query))
        return tuple(plugin_info(record, pending) for record in selected)

    async def _show(self, query: ShowPlugin, call: Call) -> PluginDetails:
        record = self._kernel.registry.record(query.plugin_id)
        pending = await ask_pending(self._desk.bus)
        return plugin_details(record, needed_by(record.plugin_id, self._kernel.registry), pending)

    async def _health(self, query: ShowHealth, call: Call) -> tuple[HealthReport, ...]:
        return self._kernel.health.reports(query.plugin_id)

    async def _start(self, query: StartPlugin, call: Call) -> CommandResult:
        return await self._command("start", self._control.start, query, call)

    async def _stop(self, query: StopPlugin, call: Call) -> CommandResult:
        self._control.require_not_edge(query.plugin_id, with_dependents=query.with_dependents)
        stop = partial(self._control.stop, with_dependents=query.with_dependents)
        return await self._command("stop", stop, query, call)

    async def _enable(self, query: EnablePlugin, call: Call) -> CommandResult:
        def enable(plugin_id: str, reason: str) -> Awaitable[bool]:
            return self._control.enable(plugin_id, call.source)

        return await self._command("enable", enable, query, call)

    async def _disable(self, query: DisablePlugin, call: Call) -> CommandResult:
        def disable(plugin_id: str, reason: str) -> Awaitable[bool]:
            along = query.with_dependents
            return self._control.disable(plugin_id, call.source, with_dependents=along)

        self._control.require_not_edge(query.plugin_id, with_dependents=query.with_dependents)
        return await self._command("disable", disable, query, call)

    async def _command(
        self,
        name: str,
        action: Callable[[str, str], Awaitable[bool]],
        query: StartPlugin | StopPlugin | EnablePlugin | DisablePlugin,
        call: Call,
    ) -> CommandResult:
        """Run now; or, where a plugin commands itself, soon: it could not wait for its own end."""
        plugin_id = query.plugin_id
        record = self._kernel.registry.record(plugin_id)
        # No await between here and the step: of two that have seen the same state, one is refused.
        check_tag(f"plugin {plugin_id!r}", plugin_info(record).tag, query.if_tags)
        self._desk.audit(call, f"plugin.{name}", plugin_id)
        reason = f"{name} by {call.source}"
        if call.source == source_of(plugin_id):
            self._desk.soon(name, plugin_id, partial(action, plugin_id, reason))
            return CommandResult(outcome="accepted", plugin=plugin_info(record))
        changed = await action(plugin_id, reason)
        return CommandResult(outcome="done" if changed else "unchanged", plugin=plugin_info(record))


def plugin_info(record: PluginRecord, pending: Mapping[str, int] | None = None) -> PluginInfo:
    """One row of `plugin list`."""
    generation = record.current
    return PluginInfo(
        plugin_id=record.plugin_id,
        name=record.metadata.name,
        version=record.metadata.version,
        status=record.status,
        activity=record.activity.value,
        reason=record.reason,
        level_requested=record.metadata.security_level.value,
        level_effective=generation.security.effective.value if generation else "",
        generation=generation.number if generation else 0,
        source=record.metadata.source,
        tags=record.metadata.tags,
        subscriptions=len(generation.port.subscriptions) if generation else 0,
        capabilities=_provided(generation) if generation else (),
        has_routes=generation is not None and generation.mount is not None,
        health=health_of(record),
        metrics=figures_of(record, pending),
    )


def _provided(generation: Generation) -> tuple[str, ...]:
    """What its code declares, and what it provides beside that now."""
    live = (spec.capability for spec in generation.port.offers.specs)
    return tuple(dict.fromkeys((*generation.declaration.capabilities, *live)))


def plugin_details(
    record: PluginRecord, needed_by: tuple[str, ...], pending: Mapping[str, int] | None = None
) -> PluginDetails:
    """What `plugin show` tells."""
    generation = record.current
    port = generation.port if generation else None
    return PluginDetails(
        **plugin_info(record, pending).model_dump(),
        metadata=record.metadata if record.found is not None else None,
        security=generation.security if generation else None,
        handlers=tuple(_handler_info(spec, spec.handler in port.filtered) for spec in port.subscriptions)
        if port
        else (),
        needed_by=needed_by,
        shadowed=record.shadowed,
        request_order=_request_order(generation),
        limits_enforced=ENFORCED_IN_PROCESS if generation else (),
        traceback=record.traceback if record.status is PluginStatus.ERROR else "",
        last_stall=generation.last_stall if generation else None,
    )


def _request_order(generation: Generation | None) -> int | None:
    if generation is None or not generation.declaration.sees_requests:
        return None
    return generation.declaration.request_order


def _handler_info(spec: SubscriptionSpec, filtered: bool) -> HandlerInfo:
    options = spec.options
    return HandlerInfo(
        name=spec.handler,
        group=spec.group,
        patterns=spec.patterns,
        concurrency=options.concurrency,
        timeout=options.timeout,
        retry=options.retry,
        filtered=filtered,
        options=options.model_dump(mode="json", exclude_defaults=True),
    )
