"""The steps of one plugin: load, initialize, start, stop, shutdown, unload.

Each step has a deadline, is undone where it fails half-way, changes the record first and announces the
change afterwards. Nothing is awaited between the success of a step and the change.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue

from contracts.bus import CatalogEntry, EventBus
from contracts.errors import (
    MESSAGE_LIMIT,
    ErrorInfo,
    HandlerDefinitionError,
    PlugbusError,
    PluginStepFailed,
    SettingsError,
)
from contracts.event import Event
from contracts.messages import (
    PluginFailed,
    PluginInitialized,
    PluginLeaked,
    PluginLoaded,
    PluginStarted,
    PluginStopped,
    PluginUnloaded,
)
from contracts.patterns import covered
from contracts.plugin import ConfigurationResult, PluginStatus
from contracts.security import SecurityContext
from contracts.web import WebMount

from .configuration.layers import ConfigurationLayers
from .configuration.migration import migrated
from .configuration.schema import problems_of, told
from .enabling import Decisions
from .handler_options import HandlerOptions
from .hosts import Declaration, Host, Setup
from .mounts import WebMounts
from .offers import Notices, Offers
from .port import PluginPort
from .quarantine import Quarantine
from .registry import Activity, Generation, PluginRecord, make_reason
from .request_chain import RequestPlugins
from .scope import Scope
from .security import Audit, PermissionManager, SecurityManager
from .settings import Deadlines, PluginSettings, Settings
from .tracing import step_of
from .use import Use

S = PluginStatus
T = TypeVar("T")


@dataclass(frozen=True)
class Services:
    """What the lifecycle works with; joined by the composition root."""

    bus: EventBus
    settings: Settings
    mounts: WebMounts
    requests: RequestPlugins
    security: SecurityManager
    audit: Audit
    announce: Callable[[Event], None]
    settle: Callable[[float], Awaitable[object]]
    """Returns when what was announced is published, or after so many seconds."""
    make_host: Callable[[PluginRecord, int], Host]
    data_dir: Callable[[str], Path]
    configuration: ConfigurationLayers
    quarantine: Quarantine
    decisions: Decisions
    handler_options: HandlerOptions
    backoff: float = 1.0
    """Scales every pause between retries."""


class PluginLifecycleManager:
    """Takes one plugin through its steps. The caller keeps them from overlapping for one plugin."""

    def __init__(
        self,
        services: Services,
        log: logging.Logger,
        *,
        loaded: Callable[[PluginRecord], None] = lambda record: None,
        dependents: Callable[[str], tuple[str, ...]] = lambda plugin_id: (),
    ) -> None:
        """`loaded` is told of each plugin that was loaded, before it is initialized; it must not raise.

        `dependents`: the started plugins that a change of one concerns.
        """
        self._dependents = dependents
        self._services = services
        self._loaded = loaded
        self._log = log

    @property
    def _deadlines(self) -> Deadlines:
        return self._services.settings.deadlines

    def _policy(self, record: PluginRecord) -> PluginSettings:
        return self._services.settings.plugins.get(record.plugin_id) or PluginSettings()

    # --- up -------------------------------------------------------------------------------------------

    async def bring_up(self, record: PluginRecord, reason: str) -> None:
        """From where it stands to started. Raises `PluginStepFailed`; the record then says why."""
        began = time.monotonic()
        if record.status is S.ERROR:
            record.transition(S.UNLOADED)
        if record.status is S.UNLOADED:
            await self.load(record, reason)
        if record.status is S.LOADED:
            await self.initialize(record, reason)
        await self.start(record, reason, began)

    async def load(self, record: PluginRecord, reason: str) -> None:
        """Import the code, decide the level and the grants, hand over the configuration."""
        services, metadata = self._services, record.metadata
        async with self._step(record, "load", Activity.LOADING, self._deadlines.load):
            services.security.effective_level(metadata, self._policy(record), record.consent)
            number = record.loads = record.loads + 1
            host = services.make_host(record, number)
            try:
                declaration = await host.load()
                _check_against_manifest(record, declaration)
                security = services.security.create_security_context(
                    metadata, declaration, self._policy(record), consent=record.consent
                )
                permissions = PermissionManager(security, services.audit)
                _check_grants(permissions, declaration)
                config = await self._configured(record, host)
            except BaseException:
                await self._anyway(record, "unload", host.unload(), self._deadlines.shutdown)
                raise
            port = PluginPort(
                metadata.plugin_id,
                number,
                services.bus,
                host,
                permissions,
                offers=self._offers(record, number),
                version=metadata.version,
                backoff=services.backoff,
                use=Use() if metadata.activation == "lazy" else None,
            )
            scope = Scope(f"{metadata.plugin_id} (kernel)", self._log)
            record.current = Generation(number, host, declaration, security, port, scope, config=config)
            record.transition(S.LOADED)
        self._announce(record, PluginLoaded, reason)
        self._loaded(record)

    def _offers(self, record: PluginRecord, number: int) -> Offers:
        services, metadata = self._services, record.metadata
        notices = Notices(services.announce, services.settle)
        ranks = self._policy(record).ranks
        return Offers(metadata.plugin_id, metadata.version, number, services.bus, notices, ranks)

    async def initialize(self, record: PluginRecord, reason: str) -> None:
        generation = _current(record)
        async with self._step(record, "initialize", Activity.INITIALIZING, self._deadlines.initialize):
            setup = self._setup(record, generation.security)
            await generation.host.initialize(setup, generation.port)
            try:
                generation.mount = await generation.host.asgi()
            except BaseException:
                await self._anyway(record, "shutdown", generation.host.shutdown(), self._deadlines.shutdown)
                raise
            record.transition(S.INITIALIZED)
        self._announce(record, PluginInitialized, reason)

    async def start(self, record: PluginRecord, reason: str, began: float | None = None) -> None:
        """Run `start`, then make handlers, providers and routes active."""
        generation = _current(record)
        began = time.monotonic() if began is None else began
        async with self._step(record, "start", Activity.STARTING, self._deadlines.start):
            generation.scope = Scope(f"{record.plugin_id} (kernel)", self._log)
            generation.port.open(generation.scope)
            started = False
            try:
                await generation.host.start()
                started = True
                await self._activate(generation)
            except BaseException:
                await self._anyway(record, "deactivate", self._deactivate(generation), self._deadlines.stop)
                if started:
                    await self._anyway(record, "stop", generation.host.stop(), self._deadlines.stop)
                raise
            record.transition(S.STARTED)
        security = generation.security
        self._announce(
            record,
            PluginStarted,
            reason,
            level_requested=security.requested.value,
            level_effective=security.effective.value,
            seconds=round(time.monotonic() - began, 6),
            dependents=self._dependents(record.plugin_id),
        )

    async def _activate(self, generation: Generation) -> None:
        """Everything that the code declares, acquired through the same port as what it asks for later."""
        scope, port = generation.scope, generation.port
        scope.push("event types", self._services.bus.add_types(_owned(generation, port.plugin_id)))
        for provider in generation.declaration.providers:
            await port.provide(provider)
        for handler in generation.declaration.handlers:
            await port.subscribe(handler)
        if generation.declaration.sees_requests:
            order, ask = generation.declaration.request_order, generation.host.handle_request
            scope.push("requests", self._services.requests.put(port.plugin_id, order, ask))
        if generation.mount is not None:
            use = port.use
            self._mount(generation, generation.mount if use is None else use.counting(generation.mount))

    def _mount(self, generation: Generation, mount: WebMount) -> None:
        unmount = self._services.mounts.put(mount, grace=self._deadlines.drain)
        plugin_id = generation.port.plugin_id

        async def undo() -> None:
            if cut := await unmount():
                grace = self._deadlines.drain
                self._log.warning("%s: %d web requests were cut after %g s", plugin_id, cut, grace)

        generation.routes = generation.scope.push("routes", undo)

    def _setup(self, record: PluginRecord, security: SecurityContext) -> Setup:
        return Setup(
            metadata=record.metadata,
            generation=_current(record).number,
            config=_current(record).config,
            security=security,
            data_dir=self._services.data_dir(record.plugin_id),
        )

    async def _configured(self, record: PluginRecord, host: Host) -> dict[str, JsonValue]:
        """Hand the configuration over; what had to be lifted for it is kept once the plugin has taken it."""
        layers = self._services.configuration
        live = layers.store.read(record.plugin_id)
        lifted = await migrated(live, record.metadata, host)
        config = layers.with_live(record, lifted)
        await self._configure(record, host, config)
        if lifted is not live:
            layers.store.write(record.plugin_id, lifted)
        return config

    async def _configure(self, record: PluginRecord, host: Host, config: dict[str, JsonValue]) -> None:
        where, schema = f"[plugins.{record.plugin_id}.config]", record.metadata.configuration_schema
        problems = problems_of(schema, config) if schema is not None else ()
        if not problems:
            problems = await host.check_configuration(config)
        if problems:
            raise SettingsError(
                f"the configuration of {record.plugin_id!r} does not fit: {'; '.join(map(told, problems))}",
                where=where,
                fix=problems[0].fix or "give the values that the plugin expects",
            )
        result = await host.configure(config)
        if not result.ok:
            raise PlugbusError(
                f"the configuration of {record.plugin_id!r} was refused: {'; '.join(result.errors)}",
                where=where,
                fix=f"give the values that the plugin expects: plugbus config explain {record.plugin_id}",
            )

    async def reconfigure(
        self,
        record: PluginRecord,
        config: dict[str, JsonValue],
        keep: Callable[[ConfigurationResult], None],
    ) -> ConfigurationResult:
        """Hand a running plugin another configuration, then `keep` it.

        Where the plugin refuses it, raises or takes too long, or where it cannot be kept, the former stays in
        force: it is handed over again unless the plugin said by itself that it has taken nothing.
        """
        generation = _current(record)
        try:
            with step_of(record.plugin_id, "configure"):
                result = await self._hand_over(generation, config)
        except Exception as error:  # noqa: BLE001 - whatever it raises, the former configuration is put back
            text = str(ErrorInfo.of(error))
            if isinstance(error, TimeoutError):
                text = f"configure took longer than {self._deadlines.configure:g} s"
            return ConfigurationResult(ok=False, errors=(text, *await self._put_back(record, generation)))
        if not result.ok:
            return result
        try:
            keep(result)
        except OSError as error:
            back = await self._put_back(record, generation)
            why = "; ".join((f"it cannot be kept: {error.strerror or error}", *back))
            return ConfigurationResult(ok=False, errors=(why,))
        if not result.restart_required:
            generation.config = config
        return result

    async def _hand_over(self, generation: Generation, config: dict[str, JsonValue]) -> ConfigurationResult:
        async with asyncio.timeout(self._deadlines.configure):
            return await generation.host.configure(config)

    async def _put_back(self, record: PluginRecord, generation: Generation) -> tuple[str, ...]:
        """Hand the former configuration over again; what is to be said where that fails."""
        try:
            result = await self._hand_over(generation, generation.config)
            why = "" if result.ok else "; ".join(result.errors) or "refused"
        except Exception as error:  # noqa: BLE001 - told to whoever asked for the change
            why = str(ErrorInfo.of(error))
        if not why:
            return ()
        self._log.error("%s: the former configuration could not be handed back", record.plugin_id)
        id = record.plugin_id
        return (
            f"and the former could not be handed back ({why}): plugbus plugin stop {id}, then start {id}",
        )

    # --- down -----------------------------------------------------------------------------------------

    async def bring_down(self, record: PluginRecord, reason: str) -> None:
        """From where it stands to unloaded, as far as it goes; what fails is recorded and gone past.

        Raises `PluginStepFailed` afterwards: the step that failed, or the first with all behind it as its
        cause (an `ExceptionGroup`).
        """
        errors: list[PluginStepFailed] = []
        entered = record.status in (S.STARTED, S.STOPPED, S.INITIALIZED)
        if record.status is S.STARTED:
            await self._attempt(self.stop(record, reason), errors)
        if entered and record.current is not None:
            await self._attempt(self.shutdown(record, reason), errors)
        if record.current is not None:
            await self.unload(record, reason)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            group = ExceptionGroup(f"plugin {record.plugin_id!r} did not stop cleanly", errors)
            first = errors[0]
            raise PluginStepFailed(
                "; ".join(error.message for error in errors),
                plugin_id=record.plugin_id,
                step=first.step,
                info=first.info,
                where=first.where,
                fix=first.fix,
            ) from group

    async def _attempt(self, step: Awaitable[None], errors: list[PluginStepFailed]) -> None:
        try:
            await step
        except PluginStepFailed as error:
            errors.append(error)

    async def stop(self, record: PluginRecord, reason: str) -> None:
        """No new deliveries, drain, `stop`, undo. Its groups keep their place."""
        generation = _current(record)
        record.activity = Activity.DRAINING
        await generation.health.end()
        drain = self._deadlines.drain
        if generation.routes is not None:  # while everything that they use is still there
            longest = drain + self._deadlines.stop
            await self._anyway(record, "close routes", generation.routes.undo(longest), longest)
        # Draining keeps the grace itself; the deadline is for a bus that does not answer.
        if (
            await self._anyway(record, "drain", generation.port.drain(drain), drain + self._deadlines.stop)
            is False
        ):
            self._log.warning("%s: handlers were cancelled after %g s", record.plugin_id, drain)
        async with self._step(record, "stop", Activity.STOPPING, self._deadlines.stop):
            try:
                await self._deactivate(generation)
            finally:
                await generation.host.stop()
            record.transition(S.STOPPED)
        self._announce(record, PluginStopped, reason, dependents=self._dependents(record.plugin_id))

    async def _deactivate(self, generation: Generation) -> None:
        errors = await generation.scope.close()
        generation.port.scope = None
        if errors:
            raise ExceptionGroup("what the plugin had acquired could not be given back", errors)

    async def _anyway(
        self, record: PluginRecord, what: str, doing: Awaitable[T], deadline: float
    ) -> T | None:
        """Do what must be done whether it works or not; what it raises is logged, the answer then None."""
        try:
            async with asyncio.timeout(deadline):
                return await doing
        except Exception:  # noqa: BLE001 - the plugin goes in any case; what was raised is logged
            self._log.exception("%s: %s failed", record.plugin_id, what)
            return None

    async def shutdown(self, record: PluginRecord, reason: str) -> None:
        """Run `shutdown` and undo what `initialize` acquired."""
        async with self._step(record, "shutdown", Activity.STOPPING, self._deadlines.shutdown):
            await _current(record).host.shutdown()

    async def unload(self, record: PluginRecord, reason: str) -> None:
        """Let the code go, and prove that nothing of the plugin is left."""
        generation = _current(record)
        leaks = record.leaks = await self._let_go(record, generation)
        if record.status is not S.ERROR:
            why = make_reason("stopped", reason, next_step=f"plugbus plugin start {record.plugin_id}")
            record.transition(S.UNLOADED, why)
        record.current = None
        self._announce(record, PluginUnloaded, reason, generation=generation.number)
        if leaks:
            self._log.error("%s left behind: %s", record.plugin_id, "; ".join(leaks))
            self._announce(record, PluginLeaked, reason, generation=generation.number, leaks=leaks)

    async def _let_go(self, record: PluginRecord, generation: Generation) -> tuple[str, ...]:
        """Unload, and undo what a step that was cut off had left; its names, and what is there even so."""
        held = [*generation.scope.names, *generation.health.left()]
        await self._anyway(record, "undo", self._deactivate(generation), self._deadlines.shutdown)
        generation.port.retire()
        bus = self._services.bus
        held += [
            f"provider {info.capability}"
            for info in bus.providers()
            if info.plugin_id == record.plugin_id
            and info.replica == bus.replica
            and info.capability not in record.standing_in
        ]
        held += [
            f"event type {entry.type}"
            for entry in bus.types()
            if entry.plugin_id == record.plugin_id and bus.replica in entry.replicas
        ]
        mount = self._services.mounts.get(record.plugin_id)
        if mount is not None and mount.generation:  # else it is a stand-in's
            held.append("routes")
        left = await self._anyway(record, "unload", generation.host.unload(), self._deadlines.shutdown)
        return (*held, *(left if left is not None else ("its code",)))

    # --- one step ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _step(
        self, record: PluginRecord, step: str, activity: Activity, deadline: float
    ) -> AsyncIterator[None]:
        """Run the body under the deadline; a failure is recorded, announced and raised."""
        record.activity = activity
        try:
            with step_of(record.plugin_id, step):
                async with asyncio.timeout(deadline):
                    yield
        except TimeoutError as error:
            info = ErrorInfo.of(error).model_copy(
                update={
                    "message": f"{step} took longer than {deadline:g} s",
                    "place": record.metadata.file_path,
                    "fix": _deadline_fix(step),
                }
            )
            await self._fail(record, step, info)
            raise self._failed(record, step, info) from error
        except Exception as error:
            info = ErrorInfo.of(error)
            await self._fail(record, step, info)
            raise self._failed(record, step, info) from error
        finally:
            record.activity = Activity.NONE

    async def _fail(self, record: PluginRecord, step: str, info: ErrorInfo) -> None:
        self._log.debug("%s", info.traceback)
        self.refuse(record, step, info)
        if record.current is not None and step in ("initialize", "start"):
            await self._clear_up(record, step)

    async def _clear_up(self, record: PluginRecord, failed_step: str) -> None:
        """After a failed step the steps before it are undone as well; the code is let go."""
        generation = _current(record)
        if failed_step == "start":
            await self._anyway(record, "shutdown", generation.host.shutdown(), self._deadlines.shutdown)
        await self.unload(record, f"{failed_step} failed")

    def refuse(self, record: PluginRecord, step: str, info: ErrorInfo) -> None:
        """Put a plugin into `error` with the reason, and announce it."""
        short = info.type.rpartition(".")[2]
        text = _bounded(info.message)
        next_step = info.fix or f"plugbus plugin start {record.plugin_id}"
        place = f" ({info.place})" if info.place else ""
        self._log.error("plugin %s failed to %s: %s: %s%s", record.plugin_id, step, short, text, place)
        if record.status is S.ERROR:
            record.transition(S.UNLOADED)
        record.transition(S.ERROR, make_reason(short, text, place=info.place, next_step=next_step))
        self._announce(
            record, PluginFailed, f"{step} failed",
            step=step, code=short, error=text, place=info.place, fix=info.fix,
        )  # fmt: skip

    def _failed(self, record: PluginRecord, step: str, info: ErrorInfo) -> PluginStepFailed:
        return PluginStepFailed(
            f"plugin {record.plugin_id!r} failed to {step}: {_bounded(str(info))}",
            plugin_id=record.plugin_id,
            step=step,
            info=info,
            where=info.place,
            fix=info.fix,
        )

    def _announce(self, record: PluginRecord, kind: type[Event], reason: str, **more: object) -> None:
        fact = {
            "plugin_id": record.plugin_id,
            "version": record.metadata.version,
            "generation": record.current.number if record.current else record.loads,
            "replica": self._services.bus.replica,
            "reason": reason,
        }
        self._services.announce(kind.model_validate({**fact, **more}))


def _current(record: PluginRecord) -> Generation:
    if record.current is None:
        raise RuntimeError(f"{record.plugin_id} has no generation")
    return record.current


def _owned(generation: Generation, plugin_id: str) -> list[CatalogEntry]:
    grants = generation.security.grants.publishes
    return [
        entry.model_copy(update={"plugin_id": plugin_id, "published": covered(grants, entry.type)})
        for entry in generation.declaration.event_types
    ]


def _bounded(text: str) -> str:
    return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]} …"


def _deadline_fix(step: str) -> str:
    return f"make it faster, or raise [deadlines] {step} in plugbus.toml"


def _check_lazy(record: PluginRecord, declaration: Declaration) -> None:
    for handler in declaration.handlers:
        if handler.options.broadcast:
            raise HandlerDefinitionError(
                f"handler {handler.name!r} has broadcast, which keeps nothing while it is not loaded",
                where=record.metadata.file_path,
                fix='take broadcast away, or activation = "lazy"',
            )


def _check_grants(permissions: PermissionManager, declaration: Declaration) -> None:
    """What the code declares and manifest or operator do not grant is known before anything runs."""
    for provider in declaration.providers:
        permissions.check_provide(provider.capability)
    for pattern in declaration.patterns:
        permissions.check_subscribe(pattern)


def _check_against_manifest(record: PluginRecord, declaration: Declaration) -> None:
    """The manifest's table of handlers, where there is one, names the groups before anything is loaded."""
    metadata = record.metadata
    table = metadata.subscribes
    if not isinstance(table, dict):
        return
    declared = {handler.name: set(handler.patterns) for handler in declaration.handlers}
    if record.metadata.activation == "lazy":
        _check_lazy(record, declaration)
    for name, patterns in table.items():
        if declared.get(name) != set(patterns):
            found = sorted(declared[name]) if name in declared else "no such handler"
            raise HandlerDefinitionError(
                f"the manifest says that handler {name!r} takes {sorted(patterns)}; the code says {found}",
                where=metadata.file_path,
                fix="make [subscribes] and @on say the same",
            )
    if unsaid := sorted(declared.keys() - table.keys()):
        name = unsaid[0]
        raise HandlerDefinitionError(
            f"the code has the handler {name!r}, which the manifest's table of handlers does not name",
            where=metadata.file_path,
            fix=f"subscribes = {{ {name} = {json.dumps(sorted(declared[name]))} }} beside the others",
        )
