"""`PluginManager`: the one public face, and the one place where bus, kernel and hosts are joined."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import JsonValue

from contracts.bus import EventBus
from contracts.errors import BusError, PlugbusError, PluginNotFound, SettingsError
from contracts.messages import PluginInfo, PluginReason, Readiness
from contracts.metadata import PluginMetadata
from contracts.plugin import PluginHandle

from .announcer import Announcer
from .commands import Commands, plugin_info
from .discovery import Discovered, Discovery, PluginDiscovery, Refusal, Source, metadata_of
from .edge import Edge
from .hosts import Host
from .hosts.in_process import Code, GivenClass, InProcess, instance_with
from .kernel import Kernel, refused_record
from .lifecycle import Services
from .loader import PluginLoader
from .mounts import WebMounts
from .registry import PluginRecord, PluginRegistry, make_reason
from .security import SecurityManager
from .settings import DEFAULT, PluginSettings, Settings
from .state import StateFolder

Profile = Literal["run", "demo", "dev", "embedded"]

BUILT_IN_DEFAULTS: dict[str, frozenset[Profile]] = {
    "gateway": frozenset({"run", "demo", "dev"}),
    "audit": frozenset({"run", "demo", "dev"}),
    "webhooks": frozenset({"demo"}),
    "host_monitor": frozenset({"demo"}),
    "alerts": frozenset({"demo"}),
}
"""In which profiles a built-in plugin is on where the settings do not say."""

BUILT_IN = "builtin"
COMMAND_LINE = "command line"


class PluginManager:
    """A kernel with its bus and its plugins, as an application holds it.

    ```python
    async with PluginManager(load_settings()) as manager:
        ...
    ```
    `profile` decides which built-ins are on by default. `consent` names files and folders whose code
    the operator trusts by naming them. `bus` replaces the one that the settings name, and is then opened
    and closed by whoever made it. `backoff` scales every pause between retries (the test kit: 0). Used from
    one event loop; started once.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        profile: Profile = "run",
        consent: Sequence[Path] = (),
        bus: EventBus | None = None,
        backoff: float = 1.0,
        log: logging.Logger | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.profile = profile
        self.registry = PluginRegistry(self.settings.deadlines.health)
        self._consent = tuple(consent)
        self._log = log or logging.getLogger("plugbus.kernel")
        self._given_bus = bus
        self._backoff = backoff
        self._bus: EventBus | None = None
        self._state: StateFolder | None = None
        self._announcer: Announcer | None = None
        self._kernel: Kernel | None = None
        self._edge: Edge | None = None
        self._loader = PluginLoader()
        self._mounts = WebMounts()

    # --- life -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the state folder and the bus, find the plugins, start them.

        Returns when every plugin that can be started is. Plugins that cannot are in `plugins()` with
        their reason. Raises `PlugbusError` for what the operator must mend first: another kernel on the
        state folder, an unknown bus, a bus that cannot be reached. Nothing is left open then.
        """
        if self._kernel is not None:
            raise RuntimeError("the manager is started already")
        try:
            await self._open()
            self._find_plugins()
            await self.kernel.boot()
        except BaseException:
            await self.stop("failed to start")
            raise

    async def _open(self) -> None:
        state = StateFolder.locate(self.settings.state_dir, self.settings.file)
        state.open()
        self._state = state
        bus = self._given_bus or open_bus(self.settings)
        if self._given_bus is None:
            await bus.open()
        self._bus = bus
        self._announcer = Announcer(bus, self._log)
        self._announcer.open()
        self._edge = Edge(bus, self._mounts, state.path, state.token(self.settings.token))
        services = Services(
            bus=bus,
            settings=self.settings,
            mounts=self._mounts,
            security=SecurityManager(self._announcer.announce),
            audit=self._announcer.announce,
            announce=self._announcer.announce,
            make_host=self._make_host,
            data_dir=lambda plugin_id: state.path / "data" / plugin_id,
            backoff=self._backoff,
        )
        self._kernel = Kernel(services, self.registry, self._announcer, self._log, version=plugbus_version())
        await Commands(self._kernel).open()

    async def stop(self, reason: str = "stop") -> None:
        """Stop everything in order, close what was opened. Safe twice; leaves nothing behind."""
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            await kernel.shutdown(reason)
        announcer, self._announcer = self._announcer, None
        if announcer is not None:
            await announcer.close()
        bus, self._bus = self._bus, None
        if bus is not None and bus is not self._given_bus:
            await bus.close(self.settings.deadlines.drain)
        state, self._state = self._state, None
        if state is not None:
            state.close()

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

    def readiness(self) -> Readiness:
        return self.kernel.readiness()

    # --- what it does -------------------------------------------------------------------------------------

    async def start_plugin(self, plugin_id: str) -> bool:
        """True once it is started. Raises as `Kernel.start_plugin`."""
        await self.kernel.start_plugin(plugin_id, "application")
        return True

    async def stop_plugin(self, plugin_id: str) -> bool:
        """True once it is stopped and unloaded. Raises as `Kernel.stop_plugin`."""
        await self.kernel.stop_plugin(plugin_id, "application")
        return True

    async def register_plugin(
        self, plugin: type | Path | str, *, config: Mapping[str, JsonValue] | None = None, **metadata: Any
    ) -> PluginHandle:
        """Add a plugin class, or a file or folder with one; the caller consents to run it in this process.

        Before `start`: it is started with the others. After: it is registered, and `start_plugin` starts
        it. `config` lies over its other configuration, `metadata` completes what a class does not say.
        Raises `ManifestError`, `PluginAlreadyRegisteredError`.
        """
        consent = "registered by the application"
        if isinstance(plugin, type):
            record = PluginRecord(metadata_of(plugin, **metadata), found=plugin, consent=consent)
        else:
            discovered = PluginDiscovery().discover_path(Path(plugin))
            record = PluginRecord(discovered.metadata, found=discovered, consent=consent)
        record.config = dict(config or {})
        self._make_way(record)
        self.registry.register_plugin(record)
        return self.registry.get_plugin(record.plugin_id)

    def _make_way(self, record: PluginRecord) -> None:
        """What was only found gives way to what the application registers; it is reported as shadowed."""
        if record.plugin_id not in self.registry:
            return
        other = self.registry.record(record.plugin_id)
        if other.current is None and not other.consent:
            self.registry.unregister_plugin(record.plugin_id)
            record.shadowed = (other.metadata.file_path, *other.shadowed)

    async def load_plugin_safe(self, plugin: type | Path | str) -> PluginHandle | None:
        """As `register_plugin` and `start_plugin`; None on failure, whose reason is on the record."""
        try:
            handle = await self.register_plugin(plugin)
            await self.start_plugin(handle.id)
        except PlugbusError as error:
            self._log.error("%s", error)
            return None
        return handle

    # --- finding --------------------------------------------------------------------------------------------

    def _find_plugins(self) -> None:
        finder = PluginDiscovery()
        found = finder.discover_all(self._sources())
        for discovered in found.found:
            self._register_found(discovered, found)
        for refusal in found.refused:
            self._register_refused(refusal)

    def _sources(self) -> list[Source]:
        """Where plugins are looked for; the first that has an id wins."""
        by_default = self.settings.source_of("plugin_paths") == DEFAULT
        paths = [path for path in self.settings.plugin_paths if path not in self._consent]
        return [
            *(Source.named(path, COMMAND_LINE) for path in self._consent),
            # A folder that was asked for must be there; the default one may be missing.
            *(Source.folder(path) for path in paths if path.exists() or not by_default),
            Source.folder(_built_in_folder(), BUILT_IN),
            Source.entry_points(),
        ]

    def _register_found(self, discovered: Discovered, found: Discovery) -> None:
        metadata = discovered.metadata
        record = PluginRecord(
            metadata,
            found=discovered,
            consent="named on the command line" if metadata.source == COMMAND_LINE else "",
            shadowed=tuple(found.shadowed.get(metadata.plugin_id, ())),
            enabled=self._is_enabled(metadata),
        )
        if not record.enabled:
            record.reason = _disabled(record.plugin_id)
        if record.plugin_id in self.registry:  # registered by the application: that one wins
            self.registry.record(record.plugin_id).shadowed += (metadata.file_path,)
            return
        self.registry.register_plugin(record)

    def _register_refused(self, refusal: Refusal) -> None:
        error = refusal.error
        self._log.error("%s", error.explain())
        plugin_id = refusal.plugin_id
        if plugin_id in self.registry:
            plugin_id = f"{plugin_id} ({refusal.path})"
        metadata = PluginMetadata.model_construct(
            plugin_id=plugin_id, name=plugin_id, version="", file_path=str(refusal.path)
        )
        self.registry.register_plugin(refused_record(metadata, error))

    def _is_enabled(self, metadata: PluginMetadata) -> bool:
        policy = self.settings.plugins.get(metadata.plugin_id) or PluginSettings()
        if policy.enabled is not None:
            return policy.enabled
        if metadata.source == BUILT_IN:
            return self.profile in BUILT_IN_DEFAULTS.get(metadata.plugin_id, frozenset())
        return not metadata.source.startswith("entry point")

    # --- making hosts ---------------------------------------------------------------------------------

    def _make_host(self, record: PluginRecord, generation: int) -> Host:
        return InProcess(
            self._code_of(record, generation),
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


class LoadedCode(Code):
    """Code that our loader imports, under the name of its generation."""

    def __init__(self, loader: PluginLoader, found: Discovered, generation: int) -> None:
        self._loader = loader
        self._found = found
        self._generation = generation

    def load(self) -> type:
        return self._loader.load(self._found, self._generation)

    def modules(self) -> tuple[str, ...]:
        return self._loader.modules(self._found.metadata.plugin_id, self._generation)

    def files(self) -> Path | None:
        return self._found.code if self._found.single_file else self._found.root

    def unload(self) -> tuple[str, ...]:
        plugin_id = self._found.metadata.plugin_id
        self._loader.unload(plugin_id, self._generation)
        return tuple(self._loader.leftovers(plugin_id, self._generation))


def open_bus(settings: Settings) -> EventBus:
    """The bus that the URL's scheme names, from the entry-point group `plugbus.buses`; not opened yet."""
    scheme = urlsplit(settings.bus.url).scheme
    known = {entry.name: entry for entry in entry_points(group="plugbus.buses")}
    if scheme not in known:
        raise SettingsError(
            f"no bus for {scheme}:// is installed",
            where="bus.url",
            fix=f"one of: {', '.join(f'{name}://' for name in sorted(known))}",
        )
    bus: EventBus = known[scheme].load()(settings.bus.url, namespace=settings.bus.namespace)
    return bus


def _disabled(plugin_id: str) -> PluginReason:
    return make_reason(
        "disabled",
        "not enabled",
        next_step=f"[plugins.{plugin_id}] enabled = true, or plugbus plugin start {plugin_id}",
    )


def plugbus_version() -> str:
    try:
        return version("plugbus")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "0.0.0"


def _built_in_folder() -> Path:
    return Path(__file__).resolve().parent.parent / "plugins"
