"""`PluginManager`: the one public face, and the one place where bus, kernel and hosts are joined."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pydantic import JsonValue

from contracts.bus import EventBus
from contracts.errors import BusError, PlugbusError, PluginNotFound
from contracts.messages import PluginInfo, Readiness
from contracts.plugin import PluginHandle, PluginStatus

from .announcer import Announcer
from .buses import Told, open_bus, open_patiently
from .commands import Commands, plugin_info
from .configuration.layers import ConfigurationLayers
from .configuration.live import LiveStore
from .discovery import PluginDiscovery, metadata_of
from .edge import Edge, EdgeSlot
from .enabling import Decisions
from .finding import PluginFinder, Profile
from .handler_options import HandlerOptions
from .hosts import Host
from .hosts.code import Code, GivenClass, LoadedCode
from .hosts.in_process import InProcess, instance_with
from .hosts.pooled import Pooled, SharedCode
from .kernel import Kernel
from .loader import PluginLoader
from .manifest_index import FILE_NAME, ManifestIndex
from .mounts import WebMounts
from .quarantine import Quarantine
from .registry import Activity, PluginRecord, PluginRegistry
from .request_chain import RequestPlugins
from .scope import UNDO_TIMEOUT
from .security import SecurityManager
from .services import Services
from .settings import Settings
from .state import StateFolder

if TYPE_CHECKING:
    from starlette.applications import Starlette


BY_APPLICATION = "registered by the application"
"""The consent of a plugin that an application hands over."""
STALL_AFTER = 1.0
"""Seconds for which the event loop may stand still where the settings do not say."""


class PluginManager:
    """A kernel with its bus and its plugins, as an application holds it.

    ```python
    async with PluginManager(load_settings()) as manager:
        ...
    ```
    `PluginManager(app, settings=…)` embeds it into a FastAPI or Starlette application that has not started:
    it is started after the application's own lifespan has begun, and stopped before that ends; requests have
    it as `request.state.plugin_manager`; plugins answer below `{prefix}/plugins/{id}`, and the addresses of
    the gateway that `serve` names (`kernel.embed.ADDRESSES`) beside them. Nothing listens on a port of its
    own. Without an application, the settings may come first.

    `profile` decides which built-ins are on by default. `consent` names files and folders whose code
    the operator trusts by naming them. `bus` replaces the one that the settings name, and is then opened
    and closed by whoever made it. With `bus_told` a start waits for a bus that cannot be reached, and tells
    that it waits (the error) and that it goes on (None). `backoff` scales every pause between retries (the
    test kit: 0). `safe_mode` leaves all but built-ins unloaded. Used from one event loop; started once.
    """

    def __init__(
        self,
        app: Starlette | Settings | None = None,
        *,
        settings: Settings | None = None,
        serve: Sequence[str] = (),
        prefix: str = "",
        profile: Profile = "run",
        consent: Sequence[Path] = (),
        bus: EventBus | None = None,
        bus_told: Told | None = None,
        backoff: float = 1.0,
        safe_mode: bool = False,
        log: logging.Logger | None = None,
    ) -> None:
        app, settings = _told_apart(app, settings)
        self.settings = settings or Settings()
        self.profile = profile
        self.registry = PluginRegistry(self.settings.deadlines.health)
        self._consent = tuple(consent)
        self._log = log or logging.getLogger("plugbus.kernel")
        self._given_bus = bus
        self._bus_told = bus_told
        self._backoff = backoff
        self._safe_mode = safe_mode
        self._bus: EventBus | None = None
        self._state: StateFolder | None = None
        self._started = False
        self._opening = asyncio.Lock()
        """Held while things are opened, so that a stop closes all of them."""
        self._stop: asyncio.Task[None] | None = None
        self._stop_asked = asyncio.Event()
        self._announcer: Announcer | None = None
        self._kernel: Kernel | None = None
        self._edge: Edge | None = None
        self._loader = PluginLoader()
        self._mounts = WebMounts()
        self._slot = (
            EdgeSlot(min(self.settings.deadlines.drain, UNDO_TIMEOUT / 2)) if app is not None else None
        )
        if app is not None and self._slot is not None:
            from .embed import Embedding  # needs FastAPI, which a kernel alone does not

            Embedding(app, self, self._slot, serve=serve, prefix=prefix)

    # --- life -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the state folder and the bus, find the plugins, start them.

        Returns when every plugin that can be started is. Plugins that cannot are in `plugins()` with
        their reason. Raises `PlugbusError` for what the operator must mend first: another kernel on the
        state folder, an unknown bus, a bus that cannot be reached (where nobody is told of that) or that
        says that waiting will not help. Nothing is left open then.
        """
        if self._started or self._stop is not None:
            raise RuntimeError("a manager is started once; make a new one")
        self._started = True
        try:
            async with self._opening:
                await self._open()
            self._find_plugins()
            await self.kernel.boot()
        except BaseException:
            await self.stop("failed to start")
            raise
        if self._stop is not None:
            await self.stop()
            raise BusError("the manager was stopped while it was starting")

    def _find_plugins(self) -> None:
        index = None
        if self._state is not None:
            index = ManifestIndex(self._state.path / FILE_NAME, plugbus_version(), self._log)
        finder = PluginFinder(
            self.settings,
            self.profile,
            self._consent,
            self._log,
            index=index,
            decisions=self.kernel.services.decisions,
            safe_mode=self._safe_mode,
        )
        finder.find(self.registry)

    async def _open(self) -> None:
        state = StateFolder.locate(self.settings.state_dir, self.settings.file)
        state.open()
        self._state = state
        bus = self._bus = self._given_bus or await self._open_bus()
        self._announcer = Announcer(bus, self._log)
        self._announcer.open()
        token = state.token(self.settings.configured_token())
        requests = RequestPlugins(self.settings.deadlines.request, self._log)
        self._edge = Edge(bus, self._mounts, requests, state.path, token, self._slot)
        services = Services(
            bus=bus,
            settings=self.settings,
            mounts=self._mounts,
            requests=requests,
            security=SecurityManager(self._announcer.announce),
            audit=self._announcer.announce,
            announce=self._announcer.announce,
            settle=self._announcer.settle,
            make_host=self._make_host,
            data_dir=lambda plugin_id: state.path / "data" / plugin_id,
            configuration=ConfigurationLayers(self.settings, LiveStore(state.path)),
            quarantine=Quarantine(state.path, self.settings.quarantine, self._log),
            decisions=Decisions(state.path),
            handler_options=HandlerOptions(state.path, self._log),
            backoff=self._backoff,
        )
        self._kernel = Kernel(
            services,
            self.registry,
            self._announcer,
            self._log,
            version=plugbus_version(),
            stall_after=self._stall_after,
        )
        await Commands(self._kernel).open()

    @property
    def _stall_after(self) -> float:
        """An application watches its loop itself, or asks for it."""
        default = 0.0 if self.profile == "embedded" else STALL_AFTER
        return default if (given := self.settings.health.stall_after) is None else given

    async def _open_bus(self) -> EventBus:
        bus = open_bus(self.settings)
        try:
            await open_patiently(bus, self._bus_told, self._stop_asked)
        except BaseException:
            await bus.close(0)
            raise
        return bus

    async def stop(self, reason: str = "stop") -> None:
        """Stop everything in order, close what was opened. Safe twice; leaves nothing behind.

        Once begun it is finished: a cancellation is raised when everything is closed.
        """
        self._stop_asked.set()
        if self._stop is None:
            self._stop = asyncio.create_task(self._close(reason), name="plugbus stop")
        cancelled: asyncio.CancelledError | None = None
        while not self._stop.done():
            try:
                await asyncio.wait([self._stop])
            except asyncio.CancelledError as error:
                cancelled = error
        self._stop.result()
        if cancelled is not None:
            raise cancelled

    async def _close(self, reason: str) -> None:
        """What fails to close is raised, after everything else is closed."""
        async with self._opening, AsyncExitStack() as last:  # left in the opposite order
            if self._state is not None:
                last.callback(self._state.close)
            if self._bus is not None and self._bus is not self._given_bus:
                last.push_async_callback(self._bus.close, self.settings.deadlines.drain)
            if self._announcer is not None:
                last.push_async_callback(self._announcer.close)
            if self._kernel is not None:
                last.callback(self._kernel.stalls.stop)  # it sees the stopping as well
                last.push_async_callback(self._kernel.shutdown, reason)
        self._kernel = self._announcer = self._bus = self._state = None

    def begin_again(self) -> None:
        """Let a manager that has stopped be started once more, as an application with a lifespan may be.

        What the application registered stays registered; everything else is looked for anew. Does nothing
        where it was never started; raises `RuntimeError` while it runs.
        """
        if not self._started and self._stop is None:
            return
        if self._stop is None or not self._stop.done():
            raise RuntimeError("the manager runs")
        for record in self.registry:
            record.activity = Activity.NONE  # it may have waited for another try
            if record.consent != BY_APPLICATION:
                self.registry.unregister_plugin(record.plugin_id)
            elif record.status is PluginStatus.ERROR:
                record.transition(PluginStatus.UNLOADED)
        self._started, self._stop = False, None
        self._opening, self._stop_asked = asyncio.Lock(), asyncio.Event()  # perhaps in another loop

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- what it shows ----------------------------------------------------------------------------------

    @property
    def bus(self) -> EventBus:
        if self._bus is None:
            raise BusError("the manager is not started", fix="await manager.start()")
        return self._bus

    @property
    def kernel(self) -> Kernel:
        if self._kernel is None:
            raise BusError("the manager is not started", fix="await manager.start()")
        return self._kernel

    @property
    def replica(self) -> str:
        return self.bus.replica

    @property
    def mounts(self) -> WebMounts:
        return self._mounts

    @property
    def url(self) -> str | None:
        """Where the gateway listens, if it does."""
        endpoint = self._state.endpoint() if self._state else None
        return endpoint.url if endpoint else None

    @property
    def state_dir(self) -> Path | None:
        return self._state.path if self._state else None

    def plugins(self) -> list[PluginInfo]:
        """All plugins that were found, refused ones included, in start order."""
        return [plugin_info(record) for record in self.registry]

    def get_plugin(self, plugin_id: str) -> PluginHandle:
        """Raises `PluginNotFound`."""
        return self.registry.get_plugin(plugin_id)

    async def readiness(self) -> Readiness:
        """Whether work can be taken: every required plugin is started, and the bus answers now."""
        return await self.kernel.readiness()

    # --- what it does -------------------------------------------------------------------------------------

    async def start_plugin(self, plugin_id: str) -> bool:
        """True once it is started. Raises as `PluginControl.start`."""
        await self.kernel.control.start(plugin_id, "application")
        return True

    async def activate(self, plugin_id: str) -> bool:
        """True once it is started: a lazy plugin is loaded now. Raises as `PluginControl.start`.

        Where it comes or goes already, that is waited for.
        """
        await self.kernel.control.activate(plugin_id, "application")
        return True

    async def stop_plugin(self, plugin_id: str) -> bool:
        """True once it is stopped and unloaded. Raises as `PluginControl.stop`."""
        await self.kernel.control.stop(plugin_id, "application")
        return True

    async def register_plugin(
        self,
        plugin: type | Path | str,
        *,
        config: Mapping[str, JsonValue] | None = None,
        replace: bool = False,
        **metadata: Any,
    ) -> PluginHandle:
        """Add a plugin class, or a file or folder with one; the caller consents to run it in this process.

        Before `start`: it is started with the others. After: it is registered, and `start_plugin` starts
        it. `config` lies over its other configuration, `metadata` completes what a class does not say;
        with `replace` it may take the place of an earlier registration that is not loaded.
        Raises `ManifestError`, `PluginAlreadyRegisteredError`.
        """
        consent = BY_APPLICATION
        if isinstance(plugin, type):
            record = PluginRecord(metadata_of(plugin, **metadata), found=plugin, consent=consent)
        else:
            discovered = PluginDiscovery().discover_path(Path(plugin))
            record = PluginRecord(discovered.metadata, found=discovered, consent=consent)
        record.config = dict(config or {})
        if self._make_way(record, replace) and self._kernel is not None:
            await self._kernel.activation.forget(record.plugin_id)
        self.registry.register_plugin(record)
        return self.registry.get_plugin(record.plugin_id)

    def _make_way(self, record: PluginRecord, replace: bool) -> bool:
        """What was only found gives way to what the application registers; it is reported as shadowed."""
        if record.plugin_id not in self.registry:
            return False
        other = self.registry.record(record.plugin_id)
        if not other.is_idle or (other.consent and not replace):
            return False  # registering says so
        self.registry.unregister_plugin(record.plugin_id)
        record.loads = other.loads  # counted on: a number may still be held by an import that hangs
        if not other.consent:
            record.shadowed = (other.metadata.file_path, *other.shadowed)
        return True

    async def get_plugin_instance(self, plugin_id: str) -> PluginHandle:
        """The handle of a plugin that is started; lazy: where it is not, it is started now.

        A handle and never the instance itself, which only its host has. Raises as `PluginControl.start`.
        """
        await self.kernel.operations.idle(plugin_id)
        await self.start_plugin(plugin_id)
        return self.get_plugin(plugin_id)

    async def load_plugin_safe(self, plugin: type | Path | str) -> PluginHandle | None:
        """As `register_plugin` and `start_plugin`; None on failure, whose reason is on the record."""
        try:
            handle = await self.register_plugin(plugin)
            await self.start_plugin(handle.id)
        except PlugbusError as error:
            self._log.error("%s", error)
            return None
        return handle

    # --- making hosts ---------------------------------------------------------------------------------

    def _make_host(self, record: PluginRecord, generation: int) -> Host:
        code, instances = self._code_of(record, generation), record.metadata.instances
        if instances == 1:
            return self._in_process(record, code)
        shared = SharedCode(code, instances)
        return Pooled([self._in_process(record, shared) for _ in range(instances)])

    def _in_process(self, record: PluginRecord, code: Code) -> InProcess:
        return InProcess(
            code,
            logging.getLogger(f"plugbus.plugins.{record.plugin_id}"),
            web_adapter=self.settings.web_adapter,
            make_instance=instance_with(record.metadata),
            **self._context_options(record),
        )

    def _code_of(self, record: PluginRecord, generation: int) -> Code:
        if isinstance(record.found, type):
            return GivenClass(record.found)
        if record.found is None:
            raise PluginNotFound(f"{record.plugin_id} has no code", plugin_id=record.plugin_id)
        return LoadedCode(self._loader, record.found, generation)

    def _context_options(self, record: PluginRecord) -> dict[str, Any]:
        if record.plugin_id in self.settings.edge_plugins and self._edge is not None:
            return {"make_context": self._edge.make_context}
        return {}


def _told_apart(
    first: Starlette | Settings | None, settings: Settings | None
) -> tuple[Starlette | None, Settings | None]:
    """Application and settings, of which the settings alone may come first."""
    if isinstance(first, Settings):
        if settings is not None:
            raise TypeError("settings are given twice")
        return None, first
    if first is not None and not hasattr(first, "add_middleware"):
        raise TypeError(
            f"PluginManager({type(first).__name__}): neither an application nor settings; "
            "give it a FastAPI or Starlette application, or settings=load_settings()"
        )
    return first, settings


def plugbus_version() -> str:
    try:
        return version("plugbus")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "0.0.0"
