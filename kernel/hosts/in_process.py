"""The host for plugins that run in this process: `unrestricted` and `trusted`.

Not a boundary. Permissions are checked by the context, which guards honest code.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import importlib
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, TypeVar

from pydantic import BaseModel, JsonValue

from contracts.base import BasePlugin
from contracts.bus import Call, CallReply
from contracts.errors import PlugbusError, PluginLoadError
from contracts.event import EventResult
from contracts.health import HealthCheck, PerformanceMetrics
from contracts.message import PluginEvent
from contracts.messages import ConfigurationProblem
from contracts.metering import Meter
from contracts.plugin import ConfigurationResult, IPlugin, PluginStatus
from contracts.web import ASGIApp, RequestInfo, ResponseInfo, StaticMount, WebAdapter, WebMount

from .. import library_caches
from ..configuration.schema import misfits_of, problems_of, schema_of
from ..contain import contained, outward, run_apart
from ..scope import Scope
from . import Declaration, HostPort, HostUsage, Setup
from .code import Code
from .context import HostContext
from .declarations import Compiled, compile_plugin
from .handlers import HandlerFunction
from .importing import importers
from .own_tasks import OWN_TASKS
from .providers import ProviderFunction
from .reading import place

T = TypeVar("T")
ContextFactory = Callable[[Setup, HostPort, Compiled, logging.Logger], HostContext]


THREAD_GRACE = 1.0
"""Seconds in which threads that run a plugin's code may end after it was shut down."""


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
        self._plugin_name = ""
        self._compiled = Compiled(Declaration())
        self._context: HostContext | None = None
        self._meter = Meter()

    # --- the steps ------------------------------------------------------------------------------------

    async def load(self) -> Declaration:
        cls = await contained(importers.run(self._code.load), "the import")
        self._plugin = _told(
            lambda: self._make_instance(cls),
            f"{cls.__name__} could not be made",
            cls,
            "a plugin's class takes no arguments (or its metadata), and does nothing when it is made",
        )
        self._plugin_name = cls.__name__
        self._compiled = _told(
            lambda: compile_plugin(self._plugin, self._code.modules()),
            f"what {cls.__name__} handles and provides could not be read",
            cls,
            "mend get_subscribed_events, or the annotation that the error names",
        )
        return self._compiled.declaration

    async def configure(self, config: dict[str, JsonValue]) -> ConfigurationResult:
        if not self._compiled.declaration.is_configurable:
            return ConfigurationResult()
        answer = await self._run("configure", copy.deepcopy(config))
        result = (
            ConfigurationResult() if answer is None else self._is_a(ConfigurationResult, "configure", answer)
        )
        if self._context is not None and result.ok and not result.restart_required:
            self._context.set_config(config)
        return result

    async def configuration_schema(self) -> dict[str, JsonValue] | None:
        if hasattr(self._plugin, "get_configuration_schema"):
            return _told(
                lambda: dict(self._plugin.get_configuration_schema()),
                "get_configuration_schema failed",
                type(self._plugin),
                "return a JSON Schema as a dict",
            )
        models = self._models()
        return schema_of(models[0]) if len(models) == 1 else None

    async def check_configuration(self, config: dict[str, JsonValue]) -> tuple[ConfigurationProblem, ...]:
        if hasattr(self._plugin, "get_configuration_schema"):
            schema = await self.configuration_schema()
            return problems_of(schema or {}, config)
        return tuple(problem for model in self._models() for problem in misfits_of(model, config))

    async def migrate_configuration(
        self, configuration: dict[str, JsonValue], version: int
    ) -> dict[str, JsonValue]:
        if not hasattr(self._plugin, "migrate_configuration"):
            return configuration
        answer = await self._run("migrate_configuration", copy.deepcopy(configuration), version)
        return self._is_a(dict, "migrate_configuration", answer)

    def _models(self) -> tuple[type[BaseModel], ...]:
        return self._plugin.configuration_models if isinstance(self._plugin, BasePlugin) else ()

    async def initialize(self, setup: Setup, port: HostPort) -> None:
        context = self._context = self._make_context(setup, port, self._compiled, self._log)
        context.meter = self._meter
        OWN_TASKS.count(self._code.package(), self._meter)
        self._plugin.metadata = setup.metadata
        self._plugin.context = context
        await self._all_or_nothing("initialize", context.outer)

    async def start(self) -> None:
        context = self._entered()
        context.stopping.clear()
        context.inner = Scope(f"{context.metadata.plugin_id} (start)", self._log)
        try:
            await self._all_or_nothing("start", context.inner)
        except BaseException:
            context.inner = None
            raise

    async def stop(self) -> None:
        context = self._entered()
        context.stopping.set()
        try:
            await self._then_close("stop", context.inner or context.outer)
        finally:
            context.inner = None

    async def shutdown(self) -> None:
        await self._then_close("shutdown", self._entered().outer)

    async def unload(self) -> tuple[str, ...]:
        leaks = [*self._stray_tasks(), *await self._threads_that_stay()]
        for scope in (self._context.inner, self._context.outer) if self._context else ():
            leaks += await self._left_in(scope)
        self._plugin = self._context = None
        self._compiled = Compiled(Declaration())
        OWN_TASKS.forget(self._code.package())
        leaks += self._code.unload()
        library_caches.forget()
        gc.collect(0)  # a plugin's instance and its handlers refer to each other
        return tuple(leaks)

    async def _step(self, name: str) -> None:
        """One step of the plugin with its hooks; False means failed."""
        hooked = isinstance(self._plugin, BasePlugin)
        if hooked and self._has_own(f"on_before_{name}"):
            await self._run(f"on_before_{name}")
        if self._has_own(name) and await self._run(name) is False:
            raise PluginLoadError(f"{name} returned False", where=place(getattr(self._plugin, name)))
        if hooked and self._has_own(f"on_after_{name}"):
            await self._run(f"on_after_{name}")

    def _has_own(self, method: str) -> bool:
        """Whether there is anything to run: the steps and hooks of `BasePlugin` do nothing."""
        found = getattr(self._plugin, method)
        return getattr(found, "__func__", found) is not getattr(BasePlugin, method)

    async def _run(self, method: str, *args: Any) -> Any:
        """Run a method of the plugin; only results and ordinary errors come out, and cancelling works."""
        steps = self._meter.steps(self._awaited(method, *args))
        return await run_apart(steps, f"{method} of {self._plugin_name}")

    async def _awaited(self, method: str, *args: Any) -> Any:
        answer = getattr(self._plugin, method)(*args)
        if not inspect.isawaitable(answer):
            where = place(getattr(self._plugin, method))
            raise PluginLoadError(f"{method} is not async", where=where, fix=f"async def {method}(self, …)")
        return await answer

    def _is_a(self, kind: type[T], method: str, answer: object) -> T:
        if not isinstance(answer, kind):
            raise PluginLoadError(
                f"{method} returned {type(answer).__name__}",
                where=place(getattr(self._plugin, method)),
                fix=f"return {kind.__name__}(…)",
            )
        return answer

    async def _all_or_nothing(self, step: str, scope: Scope) -> None:
        """Run a step up; where it fails, what it had acquired is undone and both errors survive."""
        try:
            await self._step(step)
        except BaseException as error:
            await self._undo(scope, error)
            raise

    async def _then_close(self, step: str, scope: Scope) -> None:
        """Run a step down; what its opposite acquired is undone in any case, and all errors survive."""
        try:
            await self._step(step)
        except BaseException as error:
            await self._undo(scope, error)
            raise
        if errors := await scope.close():
            raise ExceptionGroup("what was acquired could not be undone", errors)

    async def _undo(self, scope: Scope, error: BaseException) -> None:
        for one in await scope.close():
            error.add_note(f"and, while undoing it: {type(one).__name__}: {one}")
            self._log.error("undo failed: %s", one, exc_info=one)

    async def _left_in(self, scope: Scope | None) -> list[str]:
        """What a step that was never run would have undone: named, and undone now."""
        if scope is None:
            return []
        names = list(scope.names)
        for error in await scope.close():
            self._log.error("undo failed: %s", error, exc_info=error)
        return names

    def _entered(self) -> HostContext:
        if self._context is None:
            raise RuntimeError("the plugin is not initialized")
        return self._context

    # --- work -------------------------------------------------------------------------------------------

    def handle(self, event: PluginEvent) -> Coroutine[Any, Any, EventResult | None]:
        # Not `async def`: one coroutine less for each event.
        handler: HandlerFunction = self._compiled.handlers[event.handler]
        return handler(event)

    def wants(self, event: PluginEvent) -> bool:
        return self._compiled.predicates[event.handler](event)

    def call(self, call: Call) -> Coroutine[Any, Any, CallReply]:
        provider: ProviderFunction = self._compiled.providers[call.provider]
        return self._meter.steps(provider(call))

    async def handle_request(self, request: RequestInfo) -> ResponseInfo | None:
        answer = await self._run("handle_request", request)
        return None if answer is None else self._is_a(ResponseInfo, "handle_request", answer)

    async def health(self) -> HealthCheck:
        if not self._compiled.declaration.has_health:
            return HealthCheck()
        # Not apart: whoever asks has a task for it, and sees there whether it ends.
        steps = self._meter.steps(self._awaited("health_check"))
        answer = await contained(steps, f"health_check of {self._plugin_name}")
        return self._is_a(HealthCheck, "health_check", answer)

    async def metrics(self) -> PerformanceMetrics:
        if not self._compiled.declaration.has_metrics:
            return PerformanceMetrics()
        answer = _told(
            self._plugin.get_metrics, "get_metrics failed", type(self._plugin), "return PerformanceMetrics(…)"
        )
        return self._is_a(PerformanceMetrics, "get_metrics", answer)

    def usage(self) -> HostUsage:
        context = self._context
        scopes = (context.inner, context.outer) if context else ()
        tasks = sum(scope.tasks for scope in scopes if scope is not None)
        return HostUsage(loop_seconds=self._meter.loop_seconds, tasks=tasks)

    def owns(self, module: str, function: str) -> bool:
        return self._code.owns(module, function)

    def mirror_status(self, status: PluginStatus) -> None:
        if isinstance(self._plugin, BasePlugin):
            self._plugin.mirror_status(status)

    async def asgi(self) -> WebMount | None:
        if not self._compiled.declaration.is_web:
            return None
        context = self._entered()
        plugin_id = context.metadata.plugin_id
        router: ASGIApp = await self._run("get_api_router")
        if not callable(router):
            raise PluginLoadError(
                f"get_api_router returned {type(router).__name__}",
                where=place(self._plugin.get_api_router),
                fix="return an APIRouter, or any ASGI application",
            )
        listed = await self._run("get_static_mounts")
        if not isinstance(listed, Sequence):
            raise PluginLoadError(
                f"get_static_mounts returned {type(listed).__name__}",
                where=place(self._plugin.get_static_mounts),
                fix="return a list of StaticMount, or []",
            )
        mounts = tuple(
            self._checked(plugin_id, self._is_a(StaticMount, "get_static_mounts", mount)) for mount in listed
        )
        mount = self._adapter()(plugin_id, context.generation, router, mounts)
        return dataclasses.replace(mount, app=_metered(mount.app, self._meter))

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
        """Tasks of this generation's own code that were not made through its context, and still run."""
        if self._code.is_given:
            return []
        frames = ((f"task {task.get_name()}", _waiting(task.get_coro())) for task in asyncio.all_tasks())
        return self._own(frames)

    async def _threads_that_stay(self) -> list[str]:
        """Stray threads; a call that a cancelled task has left in a thread may end by itself."""
        loop = asyncio.get_running_loop()
        until = loop.time() + THREAD_GRACE
        while (found := self._stray_threads()) and loop.time() < until:  # noqa: ASYNC110 - no thread tells
            await asyncio.sleep(THREAD_GRACE / 50)
        return found

    def _stray_threads(self) -> list[str]:
        """Threads that are within its code."""
        if self._code.is_given:
            return []
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        me = threading.get_ident()
        running = sys._current_frames().items()
        return self._own(
            (f"thread {names.get(ident, ident)}", _calls(frame)) for ident, frame in running if ident != me
        )

    def _own(self, found: Iterable[tuple[str, Iterable[FrameType]]]) -> list[str]:
        """Those with a frame of the plugin's, and which function that is."""
        own = []
        for name, frames in found:
            for frame in frames:
                code = frame.f_code
                if self._code.owns(str(frame.f_globals.get("__name__", "")), code.co_qualname):
                    own.append(f"{name} ({code.co_qualname}, {code.co_filename}:{code.co_firstlineno})")
                    break
        return own


def _metered(app: ASGIApp, meter: Meter) -> ASGIApp:
    """A plugin's web face, with the time that its requests take of the event loop counted."""

    async def run(*request: Any) -> None:
        await app(*request)

    async def metered(scope: Any, receive: Any, send: Any) -> None:
        await meter.steps(run(scope, receive, send))

    return metered


def _waiting(coro: Any) -> Iterator[FrameType]:
    """The frame of a coroutine, and of what it awaits: ours may run the plugin's."""
    while coro is not None:
        if (frame := getattr(coro, "cr_frame", None)) is not None:
            yield frame
        coro = getattr(coro, "cr_await", None)


def _calls(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _told(make: Callable[[], T], what: str, cls: type, fix: str) -> T:
    """Run code of the plugin's author; whatever it raises becomes an error that tells them."""
    try:
        return make()
    except PlugbusError:
        raise
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        told = outward(error, what)
        text = told.message if isinstance(told, PlugbusError) else f"{what}: {type(told).__name__}: {told}"
        raise PluginLoadError(text, where=place(cls), fix=fix) from error


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
