"""The test kit: a pytest plugin with the fixture `harness`, `MockPlugin`, and a leak check on every test.

Switched on with `-p kernel.testing` (and `asyncio_mode = "auto"`) in your pytest settings:

```python
async def test_somebody_who_joins_is_welcomed(harness):
    await harness.load(Greeter)
    await harness.publish(UserJoined(name="Ada"))
    await harness.quiet()
    assert harness.published(Welcomed) == [Welcomed(text="Hello Ada")]
```

The harness is a real kernel on a real memory bus. Plugins run behind a line that sends everything
through JSON, so that what works here works in a worker too; retries have no pauses.

`PLUGBUS_TEST_BUS=redis://127.0.0.1:6379` runs the same tests on a real Redis, each in a namespace of its own
that is removed afterwards. One test on both: `@pytest.mark.parametrize("harness_bus", ["memory://", URL])`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, cast

import psutil
import pytest
from pydantic import JsonValue

from contracts.base import BasePlugin
from contracts.bus import DEFAULT_TIMEOUT, DeadLetter, Erasable, EventBus, GroupInfo, Tail, TailItem
from contracts.errors import CallRefused, PluginAlreadyRegisteredError
from contracts.event import AnyEvent, Event, HandlerResult, Receipt, dump_event, load_model
from contracts.message import PluginEvent
from contracts.messages import PluginInfo
from contracts.plugin import PluginHandle
from contracts.query import Query, answer_adapter

from .buses import open_bus
from .commands import plugin_info
from .hosts import Host
from .hosts.loopback import LoopbackHost
from .manager import PluginManager
from .registry import PluginRecord
from .settings import BusSettings, Settings

if TYPE_CHECKING:
    import httpx

E = TypeVar("E", bound=Event)
R = TypeVar("R")

SOURCE = "/test"
"""Source of what a test publishes."""

QUIET_DEADLINE = 10.0
"""Seconds after which `quiet` fails and says what is still under way."""

THREAD_GRACE = 1.0
"""Seconds in which a thread that has done its work may end."""


def default_bus() -> str:
    """The URL of the bus on which tests run that do not choose one."""
    return os.environ.get("PLUGBUS_TEST_BUS") or "memory://"


@dataclass(frozen=True)
class Handled:
    """One delivery that a handler has finished."""

    plugin_id: str
    handler: str
    event: PluginEvent

    @property
    def type(self) -> str:
        return self.event.type


class Harness:
    """A kernel with a bus, driven by a test: the fixture `harness`, or `async with Harness(tmp)`.

    `bus`: a URL, for a bus in a namespace of its own, which is removed at the end; or a bus that somebody
    else opened, and closes; None: as the settings say, or where they say nothing, `PLUGBUS_TEST_BUS`.
    """

    def __init__(
        self, folder: Path, *, settings: Settings | None = None, bus: EventBus | str | None = None
    ) -> None:
        base = settings or Settings()
        if bus is None and "bus" not in base.model_fields_set:
            bus = default_bus()
        update: dict[str, Any] = {"state_dir": folder / "state", "plugin_paths": ()}
        self._owns_namespace = isinstance(bus, str)
        if isinstance(bus, str):
            own = {"url": bus, "namespace": f"test-{secrets.token_hex(6)}"}
            update["bus"] = BusSettings.model_validate({**base.bus.model_dump(exclude_unset=True), **own})
        self.manager = _TestManager(
            base.model_copy(update=update),
            profile="embedded",
            bus=None if isinstance(bus, str) else bus,
            backoff=0.0,
            watch=self._watch,
        )
        self._handled: list[Handled] = []
        self._tail: Tail | None = None
        self._seen: list[TailItem] = []
        self._trimmed = 0
        """Events that were gone before this harness came."""
        self._http: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        await self.manager.start()
        try:
            self._tail = self.bus.tail(
                "**", "kernel.**", "plugin.**", "audit.**", "bus.**", position="oldest"
            )
            self._trimmed = sum(topic.published - topic.events for topic in await self.bus.topics())
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            if self._http is not None:
                await self._http.aclose()
            if self._tail is not None:
                self._tail.close()
        finally:
            await self._end()

    async def _end(self) -> None:
        await self.manager.stop("end of the test")
        if not self._owns_namespace:
            return
        bus = open_bus(self.manager.settings)
        try:
            if isinstance(bus, Erasable):
                await bus.erase()
        finally:
            await bus.close(0)

    @property
    def bus(self) -> EventBus:
        return self.manager.bus

    # --- plugins ------------------------------------------------------------------------------------------

    async def load(
        self, plugin: type | Path | str, *, config: Mapping[str, JsonValue] | None = None, **metadata: Any
    ) -> PluginHandle:
        """Load and start a plugin: its class, its file or folder, or the id of a built-in one.

        One that was unloaded may be loaded again, with other code or configuration. Raises what the
        author has to mend: `ManifestError`, `PluginStepFailed`, `PluginAlreadyRegisteredError` (it is
        loaded).
        """
        if isinstance(plugin, str) and plugin in self.manager.registry:
            self.manager.registry.record(plugin).config = dict(config or {})
            handle = self.manager.get_plugin(plugin)
        else:
            handle = await self.manager.register_plugin(plugin, config=config, replace=True, **metadata)
        if not await self.manager.kernel.control.start(handle.id, "the test"):
            raise PluginAlreadyRegisteredError(
                f"plugin {handle.id!r} is loaded already",
                plugin_id=handle.id,
                fix="await harness.unload(…) first",
            )
        return handle

    async def unload(self, plugin_id: str) -> None:
        """Stop and unload; its groups keep their place."""
        await self.manager.stop_plugin(plugin_id)

    def plugin(self, plugin_id: str) -> PluginInfo:
        """How a plugin stands. Raises `PluginNotFound`."""
        return plugin_info(self.manager.registry.record(plugin_id))

    # --- events -------------------------------------------------------------------------------------------

    async def publish(
        self,
        event: AnyEvent,
        *,
        key: str | None = None,
        id: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        expires: datetime | None = None,
        source: str = SOURCE,
    ) -> Receipt:
        """Publish as somebody outside would; needs no grant."""
        return await self.bus.publish(
            event, source=source, key=key, id=id, delay=delay, at=at, expires=expires
        )

    async def quiet(self, *, timeout: float = QUIET_DEADLINE) -> None:
        """Wait until everything that was published, and everything that it caused, has a final outcome.

        Fails after `timeout` seconds with the groups that are still busy.
        """
        try:
            async with asyncio.timeout(timeout):
                await self.manager.kernel.settle()
                await self.bus.quiet()
                await self._catch_up()
        except TimeoutError:
            busy = [line for group in await self.bus.groups() if (line := _busy(group))]
            pytest.fail(f"not quiet after {timeout:g} s: {'; '.join(busy) or 'no group is busy'}")

    def published(self, model: type[E] | None = None) -> list[Any]:
        """What was published so far: as instances of `model`, or everything as `TailItem`s.

        Of each topic the oldest first. After `quiet` that is everything; before, on a bus with a server,
        what has come back from there.
        """
        self._read()
        if model is None:
            return list(self._seen)
        wanted = model.__event_type__
        return [load_model(model, i.data, what=wanted) for i in self._seen if i.envelope.type == wanted]

    def _read(self) -> None:
        while self._tail is not None and (more := self._tail.read_nowait()):
            self._seen += more

    async def _catch_up(self) -> None:
        """Return when whatever was published by now has been read."""
        there = sum(topic.published for topic in await self.bus.topics()) - self._trimmed
        self._read()
        while self._tail is not None and len(self._seen) + sum(item.missed for item in self._seen) < there:
            self._seen.append(await anext(self._tail))

    def handled(self, handler: str | None = None) -> list[Handled]:
        """Deliveries that handlers have finished, in order; of `<plugin_id>.<handler>`, or all."""
        return [one for one in self._handled if handler in (None, f"{one.plugin_id}.{one.handler}")]

    async def dead_letters(self) -> list[DeadLetter]:
        """The newest first."""
        return await self.bus.dead_letters()

    def _watch(self, plugin_id: str, event: PluginEvent) -> None:
        self._handled.append(Handled(plugin_id, event.handler, event))

    # --- requests and the web -------------------------------------------------------------------------------

    async def request(self, query: Query[R], *, timeout: float = DEFAULT_TIMEOUT) -> R:
        """Ask as somebody outside would; raises as `PluginContext.request`."""
        data = dump_event(query).decode()
        name = type(query).__capability__
        replies = await self.bus.request(name, data, source=SOURCE, timeout=timeout)
        return cast(R, answer_adapter(type(query)).validate_json(replies[0].data))

    @property
    def http(self) -> httpx.AsyncClient:
        """A client for the plugins' own addresses, `/plugins/{plugin_id}/…`, without a socket."""
        if self._http is None:
            import httpx

            transport = httpx.ASGITransport(app=self._dispatch)
            self._http = httpx.AsyncClient(transport=transport, base_url="http://harness")
        return self._http

    async def _dispatch(self, scope: Any, receive: Any, send: Any) -> None:
        """`/plugins/{plugin_id}/…` to the plugin's mount, as the gateway does."""
        words = scope["path"].split("/", 3)
        mount = self.manager.mounts.get(words[2]) if words[1:2] == ["plugins"] and len(words) > 2 else None
        if mount is None:
            raise CallRefused(
                f"no loaded plugin serves {scope['path']}", fix="harness.http serves /plugins/{id}/…"
            )
        prefix = f"/plugins/{words[2]}"
        await mount.app({**scope, "root_path": scope.get("root_path", "") + prefix}, receive, send)


class _TestManager(PluginManager):
    """Runs every plugin but those at the edge behind a loopback."""

    def __init__(self, settings: Settings, *, watch: Callable[[str, PluginEvent], None], **more: Any) -> None:
        super().__init__(settings, **more)
        self._watch = watch

    def _wrapped(self, record: PluginRecord, host: Host) -> Host:
        if record.plugin_id in self.settings.edge_plugins:
            return host
        return LoopbackHost(host, lambda event: self._watch(record.plugin_id, event))


def _busy(group: GroupInfo) -> str:
    if not (group.waiting or group.in_flight or group.parked):
        return ""
    return f"{group.group}: {group.waiting} waiting, {group.in_flight} running, {group.parked} parked"


# --- a plugin to test with --------------------------------------------------------------------------------


class MockPlugin(BasePlugin):
    """A plugin that writes down what is done to it. `MockPlugin.make` gives a class of its own.

    ```python
    mock = MockPlugin.make("billing", handles=["orders.**"], fails=2)
    await harness.load(mock)
    assert mock.steps == ["initialize", "start"]
    ```
    """

    steps: ClassVar[list[str]]
    events: ClassVar[list[PluginEvent]]
    handles: ClassVar[Sequence[str]] = ()
    fails: ClassVar[int] = 0
    fails_in: ClassVar[str | None] = None
    result: ClassVar[HandlerResult] = None

    @classmethod
    def make(
        cls,
        plugin_id: str = "mock",
        *,
        handles: Sequence[str] = (),
        fails: int = 0,
        fails_in: str | None = None,
        result: HandlerResult = None,
        **metadata: Any,
    ) -> type[MockPlugin]:
        """A new plugin class: `handles` patterns, fails the first `fails` deliveries, raises in step
        `fails_in`, and returns `result` from its handler."""
        keywords = {"version": "1.0.0", "security_level": "trusted", **metadata, "plugin_id": plugin_id}
        made = type(
            "MockPlugin",
            (cls,),
            {
                "steps": [],
                "events": [],
                "handles": tuple(handles),
                "fails": fails,
                "fails_in": fails_in,
                "result": result,
                "__manifest__": keywords,
            },
        )
        return cast(type[MockPlugin], made)

    async def initialize(self) -> None:
        self._step("initialize")

    async def start(self) -> None:
        self._step("start")

    async def stop(self) -> None:
        self._step("stop")

    async def shutdown(self) -> None:
        self._step("shutdown")

    def _step(self, name: str) -> None:
        type(self).steps.append(name)
        if type(self).fails_in == name:
            raise RuntimeError(f"{self.plugin_id} was told to fail in {name}")

    def get_subscribed_events(self) -> Sequence[str]:
        return type(self).handles

    async def handle_event(self, event: PluginEvent) -> HandlerResult:
        cls = type(self)
        cls.events.append(event)
        if len(cls.events) <= cls.fails:
            raise RuntimeError(f"{self.plugin_id} was told to fail delivery {len(cls.events)}")
        return cls.result


# --- fixtures -----------------------------------------------------------------------------------------------


@pytest.fixture
def harness_bus() -> str:
    """The URL of the bus on which `harness` runs: `PLUGBUS_TEST_BUS`, else in memory. Override it at will."""
    return default_bus()


@pytest.fixture
async def harness(tmp_path: Path, harness_bus: str) -> AsyncIterator[Harness]:
    """A running kernel without plugins; load what you test."""
    async with Harness(tmp_path, bus=harness_bus) as running:
        yield running


@pytest.fixture(autouse=True)
def leak_check(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a task, a thread or a child process behind."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("task_leak_check")
    threads, children = set(threading.enumerate()), _children()
    yield
    left = [thread.name for thread in set(threading.enumerate()) - threads if not _is_ending(thread)]
    left += [f"process {pid}" for pid in sorted(_children() - children)]
    if left:
        pytest.fail(f"left behind: {', '.join(left)}")


@pytest.fixture
async def task_leak_check() -> AsyncIterator[None]:
    """The part of the leak check that needs the test's event loop."""
    before = asyncio.all_tasks()
    yield
    me = asyncio.current_task()
    left = [task for task in asyncio.all_tasks() - before if task is not me and not task.done()]
    if left:
        for task in left:
            task.cancel()
        pytest.fail(f"tasks left behind: {', '.join(sorted(repr(task.get_coro()) for task in left))}")


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _is_ending(thread: threading.Thread) -> bool:
    """Threads of the loop's executor end with the loop, after this check; others may be on their way."""
    if thread.name.startswith("asyncio_"):
        return True
    thread.join(THREAD_GRACE)
    return not thread.is_alive()
