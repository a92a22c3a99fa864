"""`PluginManager`: the one public face."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import JsonValue

from contracts.bus import EventBus
from contracts.errors import BusError, PlugbusError
from contracts.messages import PluginInfo, Readiness
from contracts.plugin import PluginHandle

from .buses import Told
from .collector import rarely_collected
from .commands import plugin_info
from .composition import Composition
from .edge import EdgeSlot
from .finding import PluginFinder, Profile
from .hosts import Host
from .kernel import Kernel
from .loader import PluginLoader
from .manifest_index import FILE_NAME, ManifestIndex
from .mounts import WebMounts
from .registration import keep_registered, make_way, record_of
from .registry import PluginRecord, PluginRegistry
from .scope import UNDO_TIMEOUT
from .settings import Settings
from .version import plugbus_version

if TYPE_CHECKING:
    from starlette.applications import Starlette


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
    own. With `requests="all"` plugins that have `handle_request` see what goes to its own routes
    as well. Without an application, the settings may come first.

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
        requests: Literal["plugins", "all"] = "plugins",
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
        self._started = False
        self._stop: asyncio.Task[None] | None = None
        self._loader = PluginLoader()
        self._mounts = WebMounts()
        self._slot = (
            EdgeSlot(min(self.settings.deadlines.drain, UNDO_TIMEOUT / 2)) if app is not None else None
        )
        self._parts = self._composition()
        if app is not None and self._slot is not None:
            from .embed import Embedding  # needs FastAPI, which a kernel alone does not

            Embedding(app, self, self._slot, serve=serve, prefix=prefix, requests=requests)

    def _composition(self) -> Composition:
        return Composition(
            self.settings,
            self.registry,
            self._loader,
            self._mounts,
            self._log,
            bus=self._given_bus,
            slot=self._slot,
            backoff=self._backoff,
            wrap=self._wrapped,
        )

    def _wrapped(self, record: PluginRecord, host: Host) -> Host:
        """The host of a plugin as it is used; the test kit puts something around it."""
        return host

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
        self._parts = self._composition()  # of the settings as they are now, perhaps in another loop
        try:
            await self._parts.open(
                self._bus_told, stall_after=self._stall_after, is_own_loop=self._is_own_loop
            )
            with rarely_collected():
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
        if (state := self._parts.state) is not None:
            index = ManifestIndex(state.path / FILE_NAME, plugbus_version(), self._log)
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

    @property
    def _is_own_loop(self) -> bool:
        """Whether nothing but the kernel is in the event loop; an application may have the built-ins of any
        profile."""
        return self._slot is None and self.profile != "embedded"

    @property
    def _stall_after(self) -> float:
        """An application watches its loop itself, or asks for it."""
        default = STALL_AFTER if self._is_own_loop else 0.0
        return default if (given := self.settings.health.stall_after) is None else given

    async def stop(self, reason: str = "stop") -> None:
        """Stop everything in order, close what was opened. Safe twice; leaves nothing behind.

        Once begun it is finished: a cancellation is raised when everything is closed.
        """
        self._parts.give_up_waiting()
        if self._stop is None:
            self._stop = asyncio.create_task(self._parts.close(reason), name="plugbus stop")
        cancelled: asyncio.CancelledError | None = None
        while not self._stop.done():
            try:
                await asyncio.wait([self._stop])
            except asyncio.CancelledError as error:
                cancelled = error
        self._stop.result()
        if cancelled is not None:
            raise cancelled

    def begin_again(self) -> None:
        """Let a manager that has stopped be started once more, as an application with a lifespan may be.

        What the application registered stays registered; everything else is looked for anew. Does nothing
        where it was never started; raises `RuntimeError` while it runs.
        """
        if not self._started and self._stop is None:
            return
        if self._stop is None or not self._stop.done():
            raise RuntimeError("the manager runs")
        keep_registered(self.registry)
        self._started, self._stop = False, None

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
        if self._parts.bus is None:
            raise BusError("the manager is not started", fix="await manager.start()")
        return self._parts.bus

    @property
    def kernel(self) -> Kernel:
        if self._parts.kernel is None:
            raise BusError("the manager is not started", fix="await manager.start()")
        return self._parts.kernel

    @property
    def replica(self) -> str:
        return self.bus.replica

    @property
    def mounts(self) -> WebMounts:
        return self._mounts

    @property
    def url(self) -> str | None:
        """Where the gateway listens, if it does."""
        endpoint = self._parts.state.endpoint() if self._parts.state else None
        return endpoint.url if endpoint else None

    @property
    def state_dir(self) -> Path | None:
        return self._parts.state.path if self._parts.state else None

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
        record = record_of(plugin, config, metadata)
        if make_way(self.registry, record, replace=replace) and self._parts.kernel is not None:
            await self._parts.kernel.activation.forget(record.plugin_id)
        self.registry.register_plugin(record)
        return self.registry.get_plugin(record.plugin_id)

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
