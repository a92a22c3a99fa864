"""The host for plugins that run in this process: `unrestricted` and `trusted`.

Not a boundary. Permissions are checked by the context, which guards honest code.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from contracts.base import BasePlugin
from contracts.bus import Call, CallReply
from contracts.errors import PlugbusError, PluginLoadError
from contracts.event import EventResult, PluginEvent
from contracts.health import HealthCheck, PerformanceMetrics
from contracts.plugin import ConfigurationResult, IPlugin, PluginStatus
from contracts.web import ASGIApp, StaticMount, WebAdapter, WebMount

from . import Declaration, HostPort, Setup
from .context import HostContext
from .declarations import Compiled, HandlerFunction, ProviderFunction, compile_plugin, place

ContextFactory = Callable[[Setup, HostPort, Compiled, logging.Logger], HostContext]


class Code:
    """Where the plugin's class comes from, and how its code is let go."""

    def load(self) -> type:
        """Import. May block; called in a thread of its own."""
        raise NotImplementedError

    def modules(self) -> tuple[str, ...]:
        """Names of the modules that are the plugin's own."""
        raise NotImplementedError

    def files(self) -> Path | None:
        """The plugin's folder (or file), for static mounts and for telling whose task is whose."""
        raise NotImplementedError

    def unload(self) -> tuple[str, ...]:
        """Forget the modules; names of what is still there."""
        raise NotImplementedError


class GivenClass(Code):
    """A class that the application or a test handed over: not loaded by us, and not unloaded."""

    def __init__(self, cls: type) -> None:
        self._cls = cls

    def load(self) -> type:
        return self._cls

    def modules(self) -> tuple[str, ...]:
        return (self._cls.__module__,)

    def files(self) -> Path | None:
        module = inspect.getmodule(self._cls)
        return Path(module.__file__).parent if module is not None and module.__file__ else None

    def unload(self) -> tuple[str, ...]:
        return ()


class InProcess:
    """One generation of one plugin in this process. See `Host` for what each step promises."""

    def __init__(
        self,
        code: Code,
        log: logging.Logger,
        *,
        web_adapter: str,
        make_context: ContextFactory = HostContext,
        make_instance: Callable[[type], Any] | None = None,
    ) -> None:
        self._code = code
        self._log = log
        self._web_adapter = web_adapter
        self._make_context = make_context
        self._make_instance = make_instance or (lambda cls: cls())
        self._plugin: Any = None
        self._compiled = Compiled(Declaration())
        self._context: HostContext | None = None

    # --- the steps ------------------------------------------------------------------------------------

    async def load(self) -> Declaration:
        cls = await _in_daemon_thread(self._code.load, name="plugbus import")
        try:
            self._plugin = self._make_instance(cls)
            self._compiled = compile_plugin(self._plugin, self._code.modules())
        except PlugbusError:
            raise
        except Exception as error:
            raise PluginLoadError(
                f"{cls.__name__} could not be made: {type(error).__name__}: {error}",
                where=place(cls),
                fix="a plugin's class takes no arguments (or its metadata), and does nothing when it is made",
            ) from error
        return self._compiled.declaration

    async def configure(self, config: dict[str, JsonValue]) -> ConfigurationResult:
        if not self._compiled.declaration.is_configurable:
            return ConfigurationResult()
        return await self._plugin.configure(config) or ConfigurationResult()

    async def initialize(self, setup: Setup, port: HostPort) -> None:
        context = self._context = self._make_context(setup, port, self._compiled, self._log)
        self._plugin.metadata = setup.metadata
        self._plugin.context = context
        try:
            await self._step("initialize")
        except BaseException as error:
            await self._undo(context.outer.close(), error)
            raise

    async def start(self) -> None:
        context = self._entered()
        context.stopping.clear()
        context.inner = type(context.outer)(f"{context.metadata.plugin_id} (start)", self._log)
        try:
            await self._step("start")
        except BaseException as error:
            await self._undo(self._close_inner(context), error)
            raise

    async def stop(self) -> None:
        context = self._entered()
        context.stopping.set()
        error: BaseException | None = None
        try:
            await self._step("stop")
        except BaseException as raised:
            error = raised
            raise
        finally:
            await self._undo(self._close_inner(context), error)

    async def shutdown(self) -> None:
        context = self._entered()
        error: BaseException | None = None
        try:
            await self._step("shutdown")
        except BaseException as raised:
            error = raised
            raise
        finally:
            await self._undo(context.outer.close(), error)

    async def unload(self) -> tuple[str, ...]:
        leaks = [*(self._context.outer.names if self._context else ()), *self._stray_tasks()]
        self._plugin = self._context = None
        self._compiled = Compiled(Declaration())
        leaks += self._code.unload()
        gc.collect(0)  # a plugin's instance and its handlers refer to each other
        return tuple(leaks)

    async def _step(self, name: str) -> None:
        """One step of the plugin with its hooks; False means failed."""
        plugin = self._plugin
        hooked = isinstance(plugin, BasePlugin)
        if hooked:
            await getattr(plugin, f"on_before_{name}")()
        if await getattr(plugin, name)() is False:
            raise PluginLoadError(f"{name} returned False", where=place(getattr(plugin, name)))
        if hooked:
            await getattr(plugin, f"on_after_{name}")()

    async def _close_inner(self, context: HostContext) -> list[BaseException]:
        inner, context.inner = context.inner, None
        return await inner.close() if inner else []

    async def _undo(
        self, closing: Coroutine[Any, Any, list[BaseException]], error: BaseException | None
    ) -> None:
        """Close a scope; what went wrong there survives beside `error`."""
        errors = await closing
        if not errors:
            return
        if error is None:
            raise BaseExceptionGroup("what was acquired could not be undone", errors)
        for one in errors:
            error.add_note(f"and, while undoing it: {type(one).__name__}: {one}")
            self._log.error("undo failed: %s", one, exc_info=one)

    def _entered(self) -> HostContext:
        if self._context is None:
            raise RuntimeError("the plugin is not initialized")
        return self._context

    # --- work -------------------------------------------------------------------------------------------

    def handle(self, event: PluginEvent) -> Coroutine[Any, Any, EventResult | None]:
        # Not `async def`: one coroutine less for each event.
        handler: HandlerFunction = self._compiled.handlers[event.handler]
        return handler(event)

    def call(self, call: Call) -> Coroutine[Any, Any, CallReply]:
        provider: ProviderFunction = self._compiled.providers[call.provider]
        return provider(call)

    async def health(self) -> HealthCheck:
        if not self._compiled.declaration.has_health:
            return HealthCheck()
        answer: HealthCheck = await self._plugin.health_check()
        return answer

    async def metrics(self) -> PerformanceMetrics:
        if not self._compiled.declaration.has_metrics:
            return PerformanceMetrics()
        answer: PerformanceMetrics = self._plugin.get_metrics()
        return answer

    def mirror_status(self, status: PluginStatus) -> None:
        if isinstance(self._plugin, BasePlugin):
            self._plugin.mirror_status(status)

    async def asgi(self) -> WebMount | None:
        if not self._compiled.declaration.is_web:
            return None
        context = self._entered()
        plugin_id = context.metadata.plugin_id
        router: ASGIApp = await self._plugin.get_api_router()
        mounts = tuple(self._checked(plugin_id, mount) for mount in await self._plugin.get_static_mounts())
        return self._adapter()(plugin_id, context.generation, router, mounts)

    def _adapter(self) -> WebAdapter:
        module, _, name = self._web_adapter.partition(":")
        try:
            adapter: WebAdapter = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise PluginLoadError(
                f"the web adapter {self._web_adapter!r} cannot be imported: {error}",
                fix='set web_adapter = "plugins.gateway.adapter:build"',
            ) from error
        return adapter

    def _checked(self, plugin_id: str, mount: StaticMount) -> StaticMount:
        """The mount with its folder resolved; raises if that lies outside the plugin's own."""
        root = self._code.files()
        if root is None:
            raise PluginLoadError(f"{plugin_id} has no folder, so it cannot have static files")
        root = root if root.is_dir() else root.parent
        folder = (root / mount.directory).resolve()
        if not folder.is_relative_to(root.resolve()) or not folder.is_dir():
            raise PluginLoadError(
                f"static folder {mount.directory} of {plugin_id} is not a folder inside the plugin's own",
                where=str(folder),
                fix=f"put the files below {root}",
            )
        return mount.model_copy(update={"directory": folder})

    def _stray_tasks(self) -> list[str]:
        """Tasks of the plugin's own code that were not made through its context, and still run."""
        root = self._code.files()
        if root is None or isinstance(self._code, GivenClass):
            return []
        stray = []
        for task in asyncio.all_tasks():
            code = getattr(task.get_coro(), "cr_code", None)
            if code is not None and Path(code.co_filename).is_relative_to(root):
                stray.append(
                    f"task {task.get_name()} ({code.co_qualname}, {code.co_filename}:{code.co_firstlineno})"
                )
        return stray


async def _in_daemon_thread(function: Callable[[], type], *, name: str) -> type:
    """Run `function` beside the loop. A daemon thread: one that hangs must not hold up the exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[type] = loop.create_future()

    def deliver(setter: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            setter(value)

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - handed to the one who waits
            outcome: tuple[Callable[[Any], None], Any] = (future.set_exception, error)
        else:
            outcome = (future.set_result, result)
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, *outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future


def instance_with(metadata: Any) -> Callable[[type], IPlugin]:
    """How the loader makes a plugin: `cls()`, or `cls(metadata)` where `__init__` asks for it."""

    def make(cls: type) -> IPlugin:
        parameters = list(inspect.signature(cls).parameters.values())
        required = [
            p
            for p in parameters
            if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        plugin: IPlugin = cls(metadata) if required else cls()
        return plugin

    return make
