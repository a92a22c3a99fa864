"""The kernel's commands: queries that it provides on the bus, on each replica for itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from contracts.bus import (
    Call,
    CallReply,
    CatalogEntry,
    DeadLetter,
    DeadLetterSelection,
    GroupInfo,
    ProviderSpec,
)
from contracts.errors import DeadLetterNotFound
from contracts.event import load_model
from contracts.messages import (
    AuditRecorded,
    CapabilityInfo,
    CommandResult,
    DiscardDeadLetters,
    GetReadiness,
    ListCapabilities,
    ListDeadLetters,
    ListEventTypes,
    ListGroups,
    ListPlugins,
    PluginDetails,
    PluginInfo,
    Readiness,
    RedriveDeadLetters,
    ShowDeadLetter,
    ShowPlugin,
    StartPlugin,
    StopPlugin,
)
from contracts.messages.commands import HandlerInfo
from contracts.query import Query, answer_adapter

from .hosts import ProviderDeclaration
from .kernel import Kernel
from .port import source_of
from .registry import PluginRecord, check_health
from .security import ENFORCED_IN_PROCESS

Q = TypeVar("Q", bound=Query[Any])


class Commands:
    """Answers the queries of `contracts.messages`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._bus = kernel.services.bus

    async def open(self) -> None:
        """Provide every command; undone by the kernel's scope."""
        await self._provide(ListPlugins, self._list_plugins)
        await self._provide(ShowPlugin, self._show_plugin)
        await self._provide(StartPlugin, self._start_plugin)
        await self._provide(StopPlugin, self._stop_plugin)
        await self._provide(ListDeadLetters, self._list_dead_letters)
        await self._provide(ShowDeadLetter, self._show_dead_letter)
        await self._provide(RedriveDeadLetters, self._redrive)
        await self._provide(DiscardDeadLetters, self._discard)
        await self._provide(ListGroups, self._list_groups)
        await self._provide(ListEventTypes, self._list_event_types)
        await self._provide(ListCapabilities, self._list_capabilities)
        await self._provide(GetReadiness, self._readiness)

    async def _provide(self, query: type[Q], answer: Callable[[Q, Call], Awaitable[Any]]) -> None:
        name = query.__capability__
        adapter = answer_adapter(query)

        async def provider(call: Call) -> CallReply:
            asked = load_model(query, call.data, what=f"the query of {name}")
            return CallReply(data=adapter.dump_json(await answer(asked, call)).decode())

        spec = ProviderSpec(capability=name, plugin_id="kernel", provider=name, reach="local", timeout=120.0)
        subscription = await self._bus.provide(spec, provider)
        self._kernel.scope.push(f"command {name}", subscription.remove)

    # --- plugins ------------------------------------------------------------------------------------------

    async def _list_plugins(self, query: ListPlugins, call: Call) -> tuple[PluginInfo, ...]:
        return tuple(plugin_info(record) for record in self._kernel.registry)

    async def _show_plugin(self, query: ShowPlugin, call: Call) -> PluginDetails:
        record = self._kernel.registry.record(query.plugin_id)
        health = await check_health(record, self._kernel.services.settings.deadlines.health)
        return plugin_details(record, self._kernel.needed_by(record.plugin_id)).model_copy(
            update={"health": health}
        )

    async def _start_plugin(self, query: StartPlugin, call: Call) -> CommandResult:
        return await self._command("start", self._kernel.start_plugin, query.plugin_id, call)

    async def _stop_plugin(self, query: StopPlugin, call: Call) -> CommandResult:
        return await self._command("stop", self._kernel.stop_plugin, query.plugin_id, call)

    async def _command(
        self, name: str, action: Callable[[str, str], Awaitable[bool]], plugin_id: str, call: Call
    ) -> CommandResult:
        """Run now; or, where a plugin commands itself, soon: it could not wait for its own end."""
        record = self._kernel.registry.record(plugin_id)
        self._kernel.services.audit(
            AuditRecorded(plugin_id=call.source, action=f"plugin.{name}", subject=plugin_id)
        )
        reason = f"{name} by {call.source}"
        if call.source == source_of(plugin_id):
            self._kernel.scope.spawn(self._later(action, plugin_id, reason), name=f"{name} {plugin_id}")
            return CommandResult(outcome="accepted", plugin=plugin_info(record))
        changed = await action(plugin_id, reason)
        return CommandResult(outcome="done" if changed else "unchanged", plugin=plugin_info(record))

    async def _later(
        self, action: Callable[[str, str], Awaitable[bool]], plugin_id: str, reason: str
    ) -> None:
        """For a plugin that commands itself, perhaps from within the step that is under way."""
        await self._kernel.operations.idle(plugin_id)
        await action(plugin_id, reason)

    # --- dead letters, groups, types, capabilities -----------------------------------------------------

    async def _list_dead_letters(self, query: ListDeadLetters, call: Call) -> tuple[DeadLetter, ...]:
        selection = DeadLetterSelection(group=query.group)
        return tuple(await self._bus.dead_letters(selection, limit=query.limit))

    async def _show_dead_letter(self, query: ShowDeadLetter, call: Call) -> DeadLetter:
        found = await self._bus.dead_letters(DeadLetterSelection(ids=(query.id,)), limit=1)
        if not found:
            raise DeadLetterNotFound(f"there is no dead letter {query.id!r}", fix="plugbus dlq list")
        return found[0]

    async def _redrive(self, query: RedriveDeadLetters, call: Call) -> int:
        return await self._settle_dead("redrive", query.selection, self._bus.redrive, call)

    async def _discard(self, query: DiscardDeadLetters, call: Call) -> int:
        return await self._settle_dead("discard", query.selection, self._bus.discard, call)

    async def _settle_dead(
        self,
        name: str,
        selection: DeadLetterSelection,
        action: Callable[[DeadLetterSelection], Awaitable[int]],
        call: Call,
    ) -> int:
        count = await action(selection)
        if selection.ids and not count:
            raise DeadLetterNotFound(
                f"no dead letter has the id {selection.ids[0]!r}", fix="plugbus dlq list"
            )
        which = ", ".join(selection.ids or ()) or selection.group or "all"
        self._kernel.services.audit(
            AuditRecorded(
                plugin_id=call.source, action=f"dlq.{name}", subject=which, details=(("count", str(count)),)
            )
        )
        return count

    async def _list_groups(self, query: ListGroups, call: Call) -> tuple[GroupInfo, ...]:
        return tuple(await self._bus.groups())

    async def _list_event_types(self, query: ListEventTypes, call: Call) -> tuple[CatalogEntry, ...]:
        return tuple(self._bus.types())

    async def _list_capabilities(self, query: ListCapabilities, call: Call) -> tuple[CapabilityInfo, ...]:
        by_name: dict[str, list[Any]] = {}
        for info in self._bus.providers():
            if query.name in (None, info.capability):
                by_name.setdefault(info.capability, []).append(info)
        declared = self._declared_providers()
        return tuple(
            CapabilityInfo(
                name=name,
                description=known.description if (known := declared.get(name)) else "",
                providers=tuple(infos),
                query_schema=known.query_schema if known else None,
                answer_schema=known.answer_schema if known else None,
            )
            for name, infos in sorted(by_name.items())
        )

    def _declared_providers(self) -> dict[str, ProviderDeclaration]:
        return {
            provider.capability: provider
            for record in self._kernel.registry
            if record.current is not None
            for provider in record.current.declaration.providers
        }

    async def _readiness(self, query: GetReadiness, call: Call) -> Readiness:
        return self._kernel.readiness()


def plugin_info(record: PluginRecord) -> PluginInfo:
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
        subscriptions=len(generation.port.subscriptions) if generation else 0,
        capabilities=generation.declaration.capabilities if generation else (),
        has_routes=generation is not None and generation.mount is not None,
    )


def plugin_details(record: PluginRecord, needed_by: tuple[str, ...]) -> PluginDetails:
    """What `plugin show` tells."""
    generation = record.current
    specs = generation.port.subscriptions if generation else ()
    return PluginDetails(
        **plugin_info(record).model_dump(),
        metadata=record.metadata,
        security=generation.security if generation else None,
        handlers=tuple(
            HandlerInfo(
                name=spec.handler,
                group=spec.group,
                patterns=spec.patterns,
                concurrency=spec.options.concurrency,
                timeout=spec.options.timeout,
                retry=spec.options.retry,
            )
            for spec in specs
        ),
        needed_by=needed_by,
        shadowed=record.shadowed,
        limits_enforced=ENFORCED_IN_PROCESS if generation else (),
    )
