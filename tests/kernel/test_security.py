"""Grants, permissions, levels and the source stamp: what a plugin may do, and what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from contracts.errors import PluginStepFailed
from contracts.messages import AuditRecorded, ShowPlugin
from contracts.security import DANGEROUS_PERMISSIONS, SAFE_PERMISSIONS, ResourceLimits, ResourceUsage
from kernel.security import ResourceManager
from kernel.settings import PluginSettings, Settings
from kernel.testing import Harness, MockPlugin
from plugbus import (
    BasePlugin,
    Event,
    Permission,
    PermissionDeniedError,
    PluginEvent,
    PluginStatus,
    ProviderFailed,
    Query,
    SecurityLevel,
    on,
    provides,
)


class Mine(Event, type="sec.mine"):
    pass


class Forged(Event, type="kernel.started"):
    pass


class Try(Query[str], capability="sec.try"):
    what: str


class Trier(BasePlugin, plugin_id="trier", version="1", security_level="trusted"):
    """Tries what it is told, and answers with the error's sentence."""

    @provides
    async def attempt(self, query: Try) -> str:
        try:
            await getattr(self, query.what)()
        except PermissionDeniedError as error:
            return f"{error} -> {error.fix}"
        return "done"

    async def publish_mine(self) -> None:
        await self.context.publish(Mine())

    async def publish_forged(self) -> None:
        await self.context.publish(Forged())

    async def subscribe_all(self) -> None:
        await self.context.subscribe(self.watch, "sec.**")

    async def watch(self, event: PluginEvent) -> None: ...

    async def command(self) -> None:
        from contracts.messages import StopPlugin

        await self.context.request(StopPlugin(plugin_id="trier"))

    async def data(self) -> None:
        (self.context.data_dir / "x").write_text("x")


async def attempt(harness: Harness, what: str) -> str:
    return await harness.request(Try(what=what))


async def test_what_the_code_declares_is_granted_and_nothing_else(harness: Harness) -> None:
    """A trusted plugin without grants in its manifest gets what its code says; the rest is denied."""
    await harness.load(Trier)
    assert await attempt(harness, "publish_mine") == "done"
    assert "may not subscribe 'sec.**'" in await attempt(harness, "subscribe_all")
    assert 'subscribes = ["sec.**"]' in await attempt(harness, "subscribe_all")
    assert "may not request 'kernel.plugin.stop'" in await attempt(harness, "command")


async def test_reserved_topics_belong_to_the_kernel(harness: Harness) -> None:
    """No grant lets a plugin speak as the kernel or the bus; the attempt is audited."""
    await harness.load(Trier, publishes=("kernel.**", "sec.mine"))
    assert "may not publish 'kernel.started'" in await attempt(harness, "publish_forged")
    await harness.quiet()
    audited = harness.published(AuditRecorded)
    assert ("trier", "publish.denied", "kernel.started") in [
        (record.plugin_id, record.action, record.subject) for record in audited
    ]


async def test_the_manifest_limits_what_the_code_does(harness: Harness) -> None:
    """Where the manifest says the grants, the code gets no more than that, handlers included."""
    await harness.load(Trier, publishes=("sec.other",), subscribes=("sec.**",))
    assert "may not publish 'sec.mine'" in await attempt(harness, "publish_mine")
    assert await attempt(harness, "subscribe_all") == "done"

    class Listener(
        BasePlugin, plugin_id="listener", version="1", security_level="trusted", subscribes=("x.y",)
    ):
        @on
        async def listen(self, event: Mine) -> None: ...

    with pytest.raises(PluginStepFailed, match=r"may not subscribe 'sec\.mine'"):
        await harness.load(Listener)


async def test_what_a_handler_returns_is_checked_as_well(harness: Harness) -> None:
    """Returning an event is publishing it: without a grant the attempt fails, and nothing is published."""
    mock = MockPlugin.make("mock", handles=["sec.mine"], result=Forged())
    await harness.load(mock)
    await harness.publish(Mine())
    await harness.quiet()
    [dead] = await harness.dead_letters()
    assert dead.error is not None
    assert dead.error.matches("PermissionDeniedError")


async def test_the_operator_takes_away(tmp_path: Path) -> None:
    """deny wins over every grant, and over patterns that are wider than it."""
    policy = {"trier": PluginSettings(deny=("sec.mine",))}
    async with Harness(tmp_path, settings=Settings(plugins=policy)) as harness:
        await harness.load(Trier, subscribes=("sec.**",), publishes=("sec.**",))
        assert "[plugins.trier] deny" in await attempt(harness, "publish_mine")
        assert "[plugins.trier] deny" in await attempt(harness, "subscribe_all")


async def test_the_source_is_stamped(harness: Harness) -> None:
    """Everything that a plugin publishes carries its own source, whatever it says."""
    await harness.load(Trier)
    await attempt(harness, "publish_mine")
    await harness.quiet()
    [item] = [item for item in harness.published() if item.envelope.type == "sec.mine"]
    assert item.envelope.source == "/plugins/trier"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (SecurityLevel.UNRESTRICTED, set(Permission)),
        (SecurityLevel.TRUSTED, set(Permission) - DANGEROUS_PERMISSIONS),
    ],
)
async def test_a_level_bounds_the_permissions(
    harness: Harness, level: SecurityLevel, expected: set[Permission]
) -> None:
    """Granted is what is requested and the level allows."""
    await harness.load(
        MockPlugin.make("mock", security_level=level.value, required_permissions=tuple(Permission))
    )
    details = await harness.request(ShowPlugin(plugin_id="mock"))
    assert details.security is not None
    assert details.security.permissions == expected


async def test_permissions_by_policy_are_added_and_audited(tmp_path: Path) -> None:
    """The operator may add single permissions for a named plugin; each addition is in the audit log."""
    policy = {"trier": PluginSettings(add_permissions=(Permission.NETWORK_ACCESS,))}
    async with Harness(tmp_path, settings=Settings(plugins=policy)) as harness:
        await harness.load(Trier)
        details = await harness.request(ShowPlugin(plugin_id="trier"))
        assert details.security is not None
        assert details.security.permissions == {Permission.NETWORK_ACCESS}
        await harness.quiet()
        actions = [(record.action, record.subject) for record in harness.published(AuditRecorded)]
        assert ("permission.added", "network_access") in actions


async def test_the_data_folder_needs_a_permission(harness: Harness) -> None:
    """Without read_data or write_data there is none; with it, it is the plugin's own."""
    await harness.load(Trier)
    assert "may not use 'data_dir'" in await attempt(harness, "data")
    await harness.quiet()
    denied = [(record.action, record.subject) for record in harness.published(AuditRecorded)]
    assert ("use.denied", "data_dir") in denied
    await harness.unload("trier")
    await harness.load(MockPlugin.make("other"))

    class Writer(
        Trier, plugin_id="writer", version="1", security_level="trusted", required_permissions=("write_data",)
    ):
        pass

    await harness.load(Writer)
    assert await attempt(harness, "data") == "done"
    assert harness.manager.state_dir is not None
    assert (harness.manager.state_dir / "data" / "writer" / "x").read_text() == "x"


async def test_a_level_without_a_host_is_refused_with_the_fix(tmp_path: Path) -> None:
    """A sandboxed plugin does not start with less than it asks for, unless the operator allowed it."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "boxed.py").write_text(
        "from plugbus import BasePlugin\nclass Boxed(BasePlugin, plugin_id='boxed', version='1'): ...\n"
    )
    from kernel.manager import PluginManager

    state = tmp_path / "state"
    settings = Settings(state_dir=state, plugin_paths=(folder,))
    async with PluginManager(settings, profile="embedded") as manager:
        [info] = [info for info in manager.plugins() if info.plugin_id == "boxed"]
        assert info.status is PluginStatus.ERROR
        assert info.reason is not None
        assert "no worker host" in info.reason.text
        assert 'allow_level = "trusted"' in info.reason.next_step
    allowed = settings.model_copy(update={"plugins": {"boxed": PluginSettings(allow_level="trusted")}})
    async with PluginManager(allowed, profile="embedded") as manager:
        [info] = [info for info in manager.plugins() if info.plugin_id == "boxed"]
        assert info.status is PluginStatus.STARTED
        assert (info.level_requested, info.level_effective) == ("sandboxed", "trusted")


async def test_a_capability_of_the_kernel_cannot_be_provided(harness: Harness) -> None:
    """The commands are the kernel's own."""

    class Fake(Query[int], capability="kernel.fake"):
        pass

    class Faker(BasePlugin, plugin_id="faker", version="1", security_level="trusted"):
        @provides
        async def fake(self, query: Fake) -> int:
            return 1

    with pytest.raises(PluginStepFailed, match=r"may not provide 'kernel\.fake'"):
        await harness.load(Faker)


async def test_a_refused_request_reaches_the_asker_as_what_it_is(harness: Harness) -> None:
    """An error of the provider crosses the line with its name, sentence and place."""

    class Fails(BasePlugin, plugin_id="fails", version="1", security_level="trusted"):
        @provides
        async def attempt(self, query: Try) -> str:
            raise LookupError("nothing there")

    await harness.load(Fails)
    with pytest.raises(ProviderFailed, match="nothing there") as caught:
        await attempt(harness, "x")
    assert caught.value.info.matches("LookupError")
    assert "test_security.py" in caught.value.info.place


def test_limits_are_compared_with_what_is_used() -> None:
    """The names of the limits that a plugin is over; an execution time never exceeds the limit."""
    manager = ResourceManager(ResourceLimits(max_memory_mb=10, max_execution_time_seconds=2))
    assert manager.check_resource_limits(ResourceUsage(memory_mb=11, cpu_percent=99)) == (
        "max_memory_mb",
        "max_cpu_percent",
    )
    assert manager.check_resource_limits(ResourceUsage()) == ()
    assert manager.handler_timeout(30) == 2


def test_level_and_permission_words_are_accepted_in_any_spelling() -> None:
    """By value or by name, in any case."""
    assert SecurityLevel("SANDBOXED") is SecurityLevel("sandboxed") is SecurityLevel.SANDBOXED
    assert Permission("Network_Access") is Permission.NETWORK_ACCESS
    assert SAFE_PERMISSIONS.isdisjoint(DANGEROUS_PERMISSIONS)
    with pytest.raises(ValueError, match="no_such"):
        SecurityLevel("no_such")


class Greedy(BasePlugin, plugin_id="greedy", version="1", security_level="trusted"):
    """Does more than some manifests say."""

    entered: ClassVar[list[str]] = []

    async def initialize(self) -> None:
        self.entered.append("initialize")

    @on("orders.*")
    async def take(self, event: Event) -> None: ...

    @provides
    async def count(self, query: Count) -> int:
        return 0


class Count(Query[int], capability="greedy.count"):
    """How many?"""


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"provides": ["greedy.other"]}, "may not provide 'greedy.count'"),
        ({"subscribes": ["orders.placed"]}, "may not subscribe 'orders.*'"),
        ({"subscribes": {"take": ["orders.placed"]}}, "the manifest says that handler 'take' takes"),
        ({"subscribes": {"give": ["orders.*"]}}, "handler 'give'"),
        ({"subscribes": {}}, "the code has the handler 'take', which the manifest's table"),
    ],
)
async def test_code_that_contradicts_its_manifest_is_refused_at_load(
    harness: Harness, said: dict[str, object], text: str
) -> None:
    """Before anything of the plugin has run; the reason names both, and the fix is there."""
    Greedy.entered.clear()
    await harness.manager.register_plugin(Greedy, **said)
    with pytest.raises(PluginStepFailed) as caught:
        await harness.manager.start_plugin("greedy")
    assert (caught.value.step, Greedy.entered) == ("load", [])
    reason = harness.plugin("greedy").reason
    assert reason is not None
    assert text in reason.text
    assert reason.next_step
    assert [group.group for group in await harness.bus.groups() if group.plugin_id == "greedy"] == []
