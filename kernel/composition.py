"""The one place where bus, kernel and hosts are joined: opened in order, closed in the opposite one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack

from contracts.bus import EventBus

from .announcer import Announcer
from .buses import Told, open_bus, open_patiently
from .commands import Commands
from .configuration.layers import ConfigurationLayers
from .configuration.live import LiveStore
from .edge import Edge, EdgeSlot
from .enabling import Decisions
from .handler_options import HandlerOptions
from .host_factory import HostFactory
from .hosts import Host
from .hosts.own_tasks import OWN_TASKS
from .kernel import Kernel
from .loader import PluginLoader
from .mounts import WebMounts
from .quarantine import Quarantine
from .registry import PluginRecord, PluginRegistry
from .request_chain import RequestPlugins
from .security import SecurityManager
from .services import Services
from .settings import Settings
from .start_notes import StartNotes
from .state import StateFolder
from .version import plugbus_version


class Composition:
    """What there is from one start of a manager to its stop. Each part is None until it is opened, and again
    when all are closed."""

    def __init__(
        self,
        settings: Settings,
        registry: PluginRegistry,
        loader: PluginLoader,
        mounts: WebMounts,
        log: logging.Logger,
        *,
        bus: EventBus | None,
        slot: EdgeSlot | None,
        backoff: float,
        wrap: Callable[[PluginRecord, Host], Host],
    ) -> None:
        """`bus`: one that somebody else opens and closes. `wrap`: what is put around the host of a plugin."""
        self._settings = settings
        self._registry = registry
        self._loader = loader
        self._mounts = mounts
        self._log = log
        self._given_bus = bus
        self._slot = slot
        self._backoff = backoff
        self._wrap = wrap
        self._opening = asyncio.Lock()
        """Held while things are opened, so that a close closes all of them."""
        self._stop_asked = asyncio.Event()
        self.state: StateFolder | None = None
        self.bus: EventBus | None = None
        self.kernel: Kernel | None = None
        self._announcer: Announcer | None = None
        self._leave_loop: Callable[[], None] = lambda: None

    async def open(self, bus_told: Told | None, *, stall_after: float, is_own_loop: bool) -> None:
        """What is open when it raises is closed by `close`. `is_own_loop`: no application's."""
        async with self._opening:
            if is_own_loop:
                self._leave_loop = OWN_TASKS.follow(asyncio.get_running_loop())
            settings = self._settings
            state = StateFolder.locate(settings.state_dir, settings.file)
            state.open()
            self.state = state
            bus = self.bus = self._given_bus or await self._open_bus(bus_told)
            announcer = self._announcer = Announcer(bus, self._log)
            announcer.open()
            services = self._services(state, bus, announcer)
            self.kernel = Kernel(
                services,
                self._registry,
                announcer,
                self._log,
                version=plugbus_version(),
                stall_after=stall_after,
            )
            await Commands(self.kernel).open()

    async def _open_bus(self, told: Told | None) -> EventBus:
        bus = open_bus(self._settings)
        try:
            await open_patiently(bus, told, self._stop_asked)
        except BaseException:
            await bus.close(0)
            raise
        return bus

    def _services(self, state: StateFolder, bus: EventBus, announcer: Announcer) -> Services:
        settings, log = self._settings, self._log
        token = state.token(settings.configured_token())
        requests = RequestPlugins(settings.deadlines.request, log)
        edge = Edge(bus, self._mounts, requests, state.path, token, self._slot)
        hosts = HostFactory(settings, self._loader, edge)
        return Services(
            bus=bus,
            settings=settings,
            mounts=self._mounts,
            requests=requests,
            security=SecurityManager(announcer.announce),
            audit=announcer.announce,
            announce=announcer.announce,
            settle=announcer.settle,
            make_host=lambda record, generation: self._wrap(record, hosts.make(record, generation)),
            data_dir=lambda plugin_id: state.path / "data" / plugin_id,
            configuration=ConfigurationLayers(settings, LiveStore(state.path)),
            quarantine=Quarantine(state.path, settings.quarantine, log),
            start_notes=StartNotes(state.path, log),
            decisions=Decisions(state.path),
            handler_options=HandlerOptions(state.path, log),
            backoff=self._backoff,
        )

    def give_up_waiting(self) -> None:
        """Let `open` wait no longer for a bus that cannot be reached."""
        self._stop_asked.set()

    async def close(self, reason: str) -> None:
        """What fails to close is raised, after everything else is closed."""
        async with self._opening, AsyncExitStack() as last:  # left in the opposite order
            last.callback(self._leave_loop)
            if self.state is not None:
                last.callback(self.state.close)
            if self.bus is not None and self.bus is not self._given_bus:
                last.push_async_callback(self.bus.close, self._settings.deadlines.drain)
            if self._announcer is not None:
                last.push_async_callback(self._announcer.close)
            if self.kernel is not None:
                last.callback(self.kernel.stalls.stop)  # it sees the stopping as well
                last.push_async_callback(self.kernel.shutdown, reason)
        self.kernel = self._announcer = self.bus = self.state = None
