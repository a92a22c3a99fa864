"""Alerts: a condition raises once, until it was over."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts import EventResult, PluginEvent
from contracts.base import ON
from contracts.errors import InvalidEvent, SettingsError
from contracts.event import dump_event
from plugins.alerts import ActiveAlerts, Alert, AlertRaised, Alerts
from plugins.alerts.alerts import MAX_ACTIVE
from plugins.host_monitor import Disk, HostSampled
from plugins.webhooks.webhooks import make_event

REPOSITORY = "blue-harbour/tide-tables"
DATA = Path(__file__).parents[1] / "data" / "github"


@pytest.fixture
async def alerts(set_up: Callable[..., Any]) -> Any:
    plugin = set_up(Alerts)
    await plugin.initialize()
    return plugin


class Feed:
    """Gives events to the plugin as the bus does, each with an id of its own."""

    def __init__(self, alerts: Any) -> None:
        self.alerts = alerts
        self.count = 0

    async def sample(self, host: str = "ada", id: str = "", **figures: Any) -> list[AlertRaised]:
        known = {"load_1": 0.0, "memory_percent": 10.0, "disks": (), "cpus": 2, **figures}
        other = {"load_5": 0.0, "load_15": 0.0, "cpu_percent": 0.0, "memory_available_bytes": 1}
        return await self.give(HostSampled(host=host, **known, **other), id)

    async def github(self, name: str, id: str = "", **payload: Any) -> list[AlertRaised]:
        body = {"repository": {"full_name": REPOSITORY}, **payload}
        return await self.give(make_event(name, json.dumps(body).encode()), id)

    async def give(self, event: Any, id: str = "") -> list[AlertRaised]:
        self.count += 1
        delivery = PluginEvent.of(event, id=id or f"e{self.count}")
        result = await self.alerts.watch(delivery)
        assert isinstance(result, EventResult)
        return list(result.events)  # type: ignore[arg-type]  # all that this plugin returns


@pytest.fixture
def feed(alerts: Any) -> Feed:
    return Feed(alerts)


async def active(alerts: Any, about: str | None = None) -> list[str]:
    return [alert.id for alert in await alerts.list_active(ActiveAlerts(about=about))]


OVER = {
    "load": ({"load_1": 8.1, "cpus": 2}, "ada: load", "Load is 4.0 per processor"),
    "memory": ({"memory_percent": 93.4}, "ada: memory", "Memory is 93 % full"),
    "disk": ({"disks": (Disk(mount="/", percent=95.0, free_bytes=1),)}, "ada: disk /", "Disk / is 95 % full"),
}


@pytest.mark.parametrize(("figures", "id", "title"), OVER.values(), ids=OVER)
async def test_a_figure_over_its_limit_raises_an_alert(
    alerts: Any, feed: Feed, figures: dict[str, Any], id: str, title: str
) -> None:
    """Load counts per processor; the alert names the host, the figure and the limit."""
    [raised] = await feed.sample(**figures)
    assert (raised.id, raised.title, raised.about, raised.severity) == (id, title, "ada", "warning")
    assert "limit" in raised.details
    assert await alerts.list_active(ActiveAlerts()) == (Alert(**raised.model_dump()),)


async def test_a_machine_at_rest_raises_nothing(alerts: Any, feed: Feed) -> None:
    """At its limit is not above it."""
    assert await feed.sample(load_1=8.0, cpus=2, memory_percent=90.0) == []
    assert await active(alerts) == []


async def test_a_condition_raises_once_until_it_was_over(alerts: Any, feed: Feed) -> None:
    """A figure that trembles about its limit does not raise again; one that fell well below may."""
    assert len(await feed.sample(memory_percent=95)) == 1
    assert await feed.sample(memory_percent=97) == []
    assert await feed.sample(memory_percent=85) == []
    assert await active(alerts) == ["ada: memory"]
    assert await feed.sample(memory_percent=92) == []
    assert await feed.sample(memory_percent=80) == []
    assert await active(alerts) == []
    assert len(await feed.sample(memory_percent=95)) == 1


async def test_the_same_delivery_raises_the_same_alert_again(feed: Feed) -> None:
    """An attempt whose returned events could not be published is repeated, and must return them again."""
    [first] = await feed.sample(memory_percent=95, id="d1")
    [again] = await feed.sample(memory_percent=95, id="d1")
    assert again.model_dump(exclude={"since"}) == first.model_dump(exclude={"since"})
    assert await feed.sample(memory_percent=95, id="d2") == []


async def test_conditions_of_several_hosts_and_disks_are_apart(alerts: Any, feed: Feed) -> None:
    """Each host and each disk has alerts of its own; one sample may raise several."""
    full = tuple(Disk(mount=mount, percent=99.0, free_bytes=1) for mount in ("/", "/data"))
    assert len(await feed.sample("ada", disks=full, memory_percent=99)) == 3
    assert len(await feed.sample("lin", disks=full[:1])) == 1
    assert await active(alerts, about="lin") == ["lin: disk /"]
    assert len(await active(alerts)) == 4


FINDINGS = {
    "dependabot": (
        "dependabot_alert",
        {"alert": {"number": 3, "security_advisory": {"severity": "high"}}},
        ("created", "fixed"),
        "critical",
    ),
    "code scanning": (
        "code_scanning_alert",
        {"alert": {"number": 10, "rule": {"security_severity_level": None}}},
        ("reopened_by_user", "closed_by_user"),
        "warning",
    ),
    "secret": ("secret_scanning_alert", {"alert": {"number": 191}}, ("created", "resolved"), "critical"),
    "vulnerability": (
        "repository_vulnerability_alert",
        {"alert": {"id": 7, "severity": "moderate"}},
        ("create", "dismiss"),
        "warning",
    ),
    "advisory": (
        "security_advisory",
        {"security_advisory": {"ghsa_id": "GHSA-1", "severity": "critical"}, "repository": None},
        ("published", "withdrawn"),
        "critical",
    ),
}


@pytest.mark.parametrize(("name", "payload", "actions", "severity"), FINDINGS.values(), ids=FINDINGS)
async def test_a_finding_of_github_raises_until_it_is_settled(
    alerts: Any, feed: Feed, name: str, payload: dict[str, Any], actions: tuple[str, str], severity: str
) -> None:
    """What a scanner finds raises an alert; fixing or dismissing it ends the condition."""
    begins, ends = actions
    [raised] = await feed.github(name, action=begins, **payload)
    assert raised.severity == severity
    assert raised.about == ("github" if name == "security_advisory" else REPOSITORY)
    assert await feed.github(name, action="assignees_changed", **payload) == []
    assert await active(alerts) == [raised.id]
    assert await feed.github(name, action=ends, **payload) == []
    assert await active(alerts) == []


def run(conclusion: str | None, branch: str = "main") -> dict[str, Any]:
    return {"name": "Build", "conclusion": conclusion, "head_branch": branch, "html_url": "https://e.org/1"}


async def test_a_failed_workflow_raises_until_it_succeeds(alerts: Any, feed: Feed) -> None:
    """Each branch counts for itself; a cancelled run tells nothing."""
    assert await feed.github("workflow_run", action="requested", workflow_run=run("failure")) == []
    [raised] = await feed.github("workflow_run", action="completed", workflow_run=run("failure"))
    assert raised.title == "Workflow run Build of main failed"
    assert raised.details == "https://e.org/1"
    assert await feed.github("workflow_run", action="completed", workflow_run=run("cancelled")) == []
    assert await feed.github("workflow_run", action="completed", workflow_run=run("success", "other")) == []
    assert await active(alerts) == [raised.id]
    assert await feed.github("workflow_run", action="completed", workflow_run=run("success")) == []
    assert await active(alerts) == []


async def test_a_failed_check_names_its_branch(feed: Feed) -> None:
    """A check run has its branch in its suite."""
    check = {"name": "lint", "conclusion": "timed_out", "check_suite": {"head_branch": "main"}}
    [raised] = await feed.github("check_run", action="completed", check_run=check)
    assert raised.title == "Check run lint of main failed"


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("dependabot_alert__created.json", 1),
        ("workflow_run__failed.json", 1),
        ("push__unusual-characters.json", 0),
        ("issues__opened.json", 0),
        ("organization__member_added.json", 0),
        ("ping__of-an-app.json", 0),
    ],
)
async def test_most_events_of_github_raise_nothing(feed: Feed, file: str, expected: int) -> None:
    """Only what needs somebody raises an alert."""
    event = make_event(file.partition("__")[0], (DATA / file).read_bytes())
    assert len(await feed.give(event)) == expected


async def test_a_finding_without_its_subject_is_an_invalid_event(feed: Feed) -> None:
    """What is not in the shape that GitHub documents becomes a dead letter with its reason."""
    with pytest.raises(InvalidEvent, match=r"payload\.alert"):
        await feed.github("dependabot_alert", action="created")


async def test_what_is_remembered_is_bounded(alerts: Any, feed: Feed) -> None:
    """Beyond the bound the oldest alert is forgotten."""
    for number in range(MAX_ACTIVE + 2):
        await feed.sample(f"h{number}", memory_percent=99)
    remembered = await active(alerts)
    assert len(remembered) == MAX_ACTIVE
    assert remembered[0] == "h2: memory"


async def test_an_alert_tells_since_when(feed: Feed) -> None:
    """The moment is that of the event that raised it."""
    event = make_event("workflow_run", (DATA / "workflow_run__failed.json").read_bytes())
    delivery = PluginEvent.of(event, id="d1")
    [raised] = (await feed.alerts.watch(delivery)).events
    assert raised.since == delivery.envelope.time
    assert AlertRaised.model_validate_json(dump_event(raised)) == raised


@pytest.mark.parametrize("config", [{"load_above": 0}, {"memory_above": "much"}, {"disk": 1}])
async def test_a_wrong_configuration_is_named(set_up: Callable[..., Any], config: dict[str, Any]) -> None:
    """The error names the key that does not fit."""
    with pytest.raises(SettingsError, match=next(iter(config))):
        await set_up(Alerts, **config).initialize()


def test_the_manifest_and_the_handler_name_the_same_patterns() -> None:
    """The group exists before the plugin is loaded, with what the handler subscribes to."""
    manifest = tomllib.loads((Path(__file__).parents[2] / "plugins/alerts/plugin.toml").read_text())
    assert manifest["subscribes"] == {"watch": list(getattr(Alerts.watch, ON).patterns)}
    assert manifest["capabilities"] == [ActiveAlerts.__capability__]
    assert manifest["publishes"] == [AlertRaised.__event_type__]
