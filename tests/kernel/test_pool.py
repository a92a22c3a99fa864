"""Several instances of one plugin: each does one thing at a time, order per key is kept, and none is left."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import defaultdict
from typing import Any, ClassVar

import pytest

from contracts.errors import PluginStepFailed
from contracts.messages import PluginLeaked, SetConfiguration, ShowPlugin
from contracts.web import RequestInfo, ResponseInfo
from kernel import PluginPool
from kernel.testing import Harness
from plugbus import (
    BasePlugin,
    ConfigurationResult,
    Event,
    HealthCheck,
    PerformanceMetrics,
    PluginEvent,
    PluginStatus,
    Query,
    RetryPolicy,
    on,
    provides,
)

# --- the pool alone ---------------------------------------------------------------------------------------


async def test_who_waits_is_served_in_order() -> None:
    """And a member that is given back goes to the first."""
    pool = PluginPool(["a"])
    assert await pool.acquire() == "a"
    served: list[int] = []

    async def use(number: int) -> None:
        async with pool.one():
            served.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(use(number))
        await asyncio.sleep(0)
        assert (pool.free, pool.waiting, len(pool)) == (0, 5, 1)
        pool.release("a")
    assert served == [0, 1, 2, 3, 4]
    assert (pool.free, pool.waiting) == (1, 0)


@pytest.mark.parametrize("is_served", [False, True], ids=["still waiting", "just served"])
async def test_who_gives_up_waiting_takes_none(is_served: bool) -> None:
    """Also where it was served in the very moment of its cancellation."""
    pool = PluginPool(["a"])
    await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    if is_served:
        pool.release("a")
    waiting.cancel()
    await asyncio.wait([waiting])
    if not is_served:
        pool.release("a")
    assert (pool.free, pool.waiting) == (1, 0)
    assert await pool.acquire() == "a"


async def test_only_what_is_acquired_can_be_released() -> None:
    """Twice would let two use one."""
    pool = PluginPool(["a", "b"])
    member = await pool.acquire()
    pool.release(member)
    for wrong in (member, "c"):
        with pytest.raises(ValueError, match="is not acquired"):
            pool.release(wrong)
    assert pool.free == 2


# --- a plugin of several instances ------------------------------------------------------------------------


class Job(Event, type="pool.job"):
    n: int


class Ask(Query[int], capability="pool.ask"):
    pass


class Pooled(BasePlugin, plugin_id="pooled", version="1", security_level="trusted", instances=3):
    """Tells what it does."""

    made: list[Pooled] = []  # noqa: RUF012 - a test looks through all of them
    steps: list[str] = []  # noqa: RUF012
    gate = asyncio.Event
    fails_in = ""

    def __init__(self) -> None:
        super().__init__()
        self.busy = 0
        self.most = 0
        self.seen: list[int] = []
        Pooled.made.append(self)

    async def step(self, name: str) -> None:
        Pooled.steps.append(name)
        if Pooled.fails_in == name and Pooled.made.index(self) == 1:
            raise RuntimeError(f"told to fail in {name}")

    async def initialize(self) -> None:
        await self.step("initialize")

    async def start(self) -> None:
        await self.step("start")

    async def stop(self) -> None:
        await self.step("stop")

    async def shutdown(self) -> None:
        await self.step("shutdown")

    async def use(self) -> None:
        self.busy += 1
        self.most = max(self.most, self.busy)
        for _ in range(3):
            await asyncio.sleep(0)
        self.busy -= 1

    @on
    async def work(self, event: Job, meta: PluginEvent) -> None:
        await self.use()
        self.seen.append(event.n)
        BY_KEY[str(meta.envelope.partitionkey)].append(event.n)

    @on(name="slow", concurrency=2)
    async def slow(self, event: Job) -> None:
        await self.use()

    @provides
    async def ask(self, query: Ask) -> int:
        await self.use()
        return Pooled.made.index(self)

    async def health_check(self) -> HealthCheck:
        is_ill = Pooled.made.index(self) == 1
        return HealthCheck(status="degraded", message="tired") if is_ill else HealthCheck()

    def get_metrics(self) -> PerformanceMetrics:
        return PerformanceMetrics(extra={"seen": len(self.seen)})

    async def configure(self, config: dict[str, Any]) -> ConfigurationResult:
        self.config = config
        if config.get("size") == "odd" and Pooled.made.index(self) == 1:
            return ConfigurationResult(ok=False, errors=("not odd",))
        return ConfigurationResult()


BY_KEY: dict[str, list[int]] = defaultdict(list)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Pooled.made.clear()
    Pooled.steps.clear()
    Pooled.fails_in = ""
    BY_KEY.clear()


async def test_instances_share_the_work_and_each_does_one_thing_at_a_time(harness: Harness) -> None:
    """Handlers and providers alike; events of one key stay in order."""
    await harness.load(Pooled)
    assert len(Pooled.made) == 3
    for n in range(60):
        await harness.publish(Job(n=n), key=f"k{n % 4}")
    answers = await asyncio.gather(*(harness.request(Ask()) for _ in range(6)))
    await harness.quiet()
    assert set(answers) <= {0, 1, 2}
    assert [one.most for one in Pooled.made] == [1, 1, 1]
    assert all(one.seen for one in Pooled.made)
    assert sum(len(one.seen) for one in Pooled.made) == 60
    assert all(seen == sorted(seen) for seen in BY_KEY.values())
    assert len(BY_KEY) == 4


async def test_concurrency_is_bounded_by_the_instances(harness: Harness) -> None:
    """As many as there are, where a handler says nothing; not more, whatever it says."""
    await harness.load(Pooled)
    shown = await harness.request(ShowPlugin(plugin_id="pooled"))
    assert {handler.name: handler.concurrency for handler in shown.handlers} == {"work": 3, "slow": 2}
    await harness.unload("pooled")
    await harness.load(Pooled, instances=2)
    shown = await harness.request(ShowPlugin(plugin_id="pooled"))
    assert {handler.name: handler.concurrency for handler in shown.handlers} == {"work": 2, "slow": 2}


async def test_every_instance_goes_through_every_step_and_nothing_is_left(harness: Harness) -> None:
    """Neither of instances nor of what they acquired."""
    await harness.load(Pooled)
    await harness.unload("pooled")
    assert Pooled.steps == [step for step in ("initialize", "start", "stop", "shutdown") for _ in range(3)]
    await harness.quiet()
    assert harness.published(PluginLeaked) == []
    left = weakref.WeakSet(Pooled.made)
    Pooled.made.clear()
    gc.collect()
    assert not left


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("initialize", ["initialize", "initialize", "shutdown"]),
        ("start", [*["initialize"] * 3, "start", "start", "stop", *["shutdown"] * 3]),
    ],
)
async def test_one_that_fails_takes_the_others_back(harness: Harness, step: str, expected: list[str]) -> None:
    """The plugin does not start, and starts when all do."""
    Pooled.fails_in = step
    with pytest.raises(PluginStepFailed, match=f"told to fail in {step}"):
        await harness.load(Pooled)
    assert Pooled.steps == expected
    Pooled.made.clear()
    Pooled.fails_in = ""
    await harness.manager.start_plugin("pooled")
    assert harness.plugin("pooled").status is PluginStatus.STARTED


@pytest.mark.parametrize("step", ["stop", "shutdown"])
async def test_one_that_fails_to_stop_does_not_keep_the_others(harness: Harness, step: str) -> None:
    """All of them are stopped, and the failure is told."""
    await harness.load(Pooled)
    Pooled.fails_in = step
    with pytest.raises(PluginStepFailed, match=f"told to fail in {step}"):
        await harness.unload("pooled")
    assert Pooled.steps.count(step) == 3
    assert harness.plugin("pooled").status is not PluginStatus.STARTED


async def test_health_is_that_of_the_worst_and_figures_are_of_all(harness: Harness) -> None:
    """Which instance it is, is said."""
    handle = await harness.load(Pooled)
    check = await handle.health()
    assert (check.status, check.message) == ("degraded", "instance 2 of 3: tired")
    for n in range(5):
        await harness.publish(Job(n=n))
    await harness.quiet()
    await harness.manager.kernel.health.check(harness.manager.registry.record("pooled"))
    metrics = harness.plugin("pooled").metrics
    assert metrics is not None
    assert metrics.extra == {"seen": 5}
    assert metrics.handled == 10


async def test_a_configuration_is_taken_by_all_or_by_none(harness: Harness) -> None:
    """What one refuses, the others give back."""
    await harness.load(Pooled, config={"size": "even"})
    outcome = await harness.request(SetConfiguration(plugin_id="pooled", values={"size": "odd"}))
    assert outcome.outcome == "refused"
    assert "instance 2 refused it: not odd" in outcome.problems[0].expected
    assert [one.config for one in Pooled.made] == [{"size": "even"}] * 3


async def test_an_instance_whose_handler_runs_out_of_time_is_free_again(harness: Harness) -> None:
    """Others go on meanwhile."""
    done: list[int] = []

    class Hanging(BasePlugin, plugin_id="hanging", version="1", security_level="trusted", instances=2):
        @on(timeout=0.1, retry=RetryPolicy(attempts=1))
        async def work(self, event: Job) -> None:
            if event.n < 2:
                await asyncio.Event().wait()
            done.append(event.n)

    await harness.load(Hanging)
    for n in range(10):
        await harness.publish(Job(n=n), key=str(n))
    await harness.quiet()
    assert sorted(done) == list(range(2, 10))


async def test_an_instance_does_not_subscribe_by_itself(harness: Harness) -> None:
    """All of them would: the error says what to do."""

    class Alone(BasePlugin, plugin_id="alone", version="1", security_level="trusted", instances=2):
        async def start(self) -> None:
            await self.context.subscribe(self.handle, "pool.job", name="more")

        async def handle(self, event: PluginEvent) -> None: ...

    with pytest.raises(PluginStepFailed, match="one of several instances cannot subscribe 'more'") as failed:
        await harness.load(Alone)
    assert "@on" in failed.value.fix


async def test_a_file_is_imported_once_for_all_instances(harness: Harness, tmp_path: Any) -> None:
    """And is gone after the last; it can be started again."""
    file = tmp_path / "many.py"
    file.write_text(
        "from plugbus import BasePlugin\n"
        "class Many(BasePlugin, plugin_id='many', version='1', instances=4):\n    pass\n"
    )
    await harness.load(file)
    for _ in range(3):
        await harness.unload("many")
        await harness.manager.start_plugin("many")
    await harness.unload("many")
    await harness.quiet()
    assert harness.published(PluginLeaked) == []


class Doorman(BasePlugin, plugin_id="doorman", version="1.0.0", security_level="trusted", instances=2):
    """Sees web requests, and takes its time."""

    inside = 0
    both: ClassVar[asyncio.Barrier]
    arrived: ClassVar[set[int]]

    async def handle_request(self, request: RequestInfo) -> ResponseInfo | None:
        assert not self.inside, "an instance does one thing at a time"
        self.inside += 1
        self.arrived.add(id(self))
        await self.both.wait()
        self.inside -= 1
        return None


async def test_web_requests_are_seen_by_an_instance_that_is_free(harness: Harness) -> None:
    """Two at once by two; neither waits for the other."""
    Doorman.both, Doorman.arrived = asyncio.Barrier(2), set()
    await harness.load(Doorman)
    current = harness.manager.registry.record("doorman").current
    assert current is not None
    request = RequestInfo(method="GET", path="/plugins/shop/")
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*(current.host.handle_request(request) for _ in range(2)))
    assert answers == [None, None]
    assert len(Doorman.arrived) == 2
