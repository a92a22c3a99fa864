"""Alerts about machines and repositories: a plugin that handles the events of others.

It does not import the plugins whose events it handles. Of an event it takes what it needs with models
of its own (`event.as_(Sample)`): whatever else stands in the event is ignored, and may change.

A condition raises one alert when it begins, and may raise another only after it was over. What is
active is kept in memory: after a restart, what still holds is raised again. Ask with `alerts.active`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import AliasChoices, AliasPath, BaseModel, Field, JsonValue

from plugbus import BasePlugin, Event, EventResult, PluginEvent, Query, on, provides

MAX_ACTIVE = 1_000
"""Alerts that are remembered; beyond it the oldest is forgotten, and can be raised again."""
CLEAR = 0.9
"""A figure must fall below this part of its limit before its condition is over."""

Severity = Literal["warning", "critical"]


# --- what the plugin tells -----------------------------------------------------------------------------


class Alert(BaseModel, frozen=True):
    """Something that somebody should look at."""

    id: str
    """The same whenever the same condition holds."""
    severity: Severity
    title: str
    about: str
    """The host, the repository or the organization."""
    details: str = ""
    since: datetime


class AlertRaised(Event, Alert, type="alerts.raised"):
    """A condition began that somebody should look at."""


class ActiveAlerts(Query[tuple[Alert, ...]], capability="alerts.active"):
    """The alerts whose condition holds, the oldest first."""

    about: str | None = None
    """Only those about this host, repository or organization."""


# --- what it takes of the events of others -------------------------------------------------------------


class Disk(BaseModel):
    mount: str
    percent: float


class Sample(Event):
    """Of a sample of a machine."""

    host: str
    cpus: int
    load_1: float
    memory_percent: float
    disks: tuple[Disk, ...] = ()


class Finding(BaseModel):
    """Of a scanner's alert or a security advisory."""

    id: int | str = Field(validation_alias=AliasChoices("number", "ghsa_id", "id"))
    html_url: str | None = None
    severity: str | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "severity",
            AliasPath("security_advisory", "severity"),
            AliasPath("rule", "security_severity_level"),
        ),
    )


class Run(BaseModel):
    """Of a run of a workflow or a check."""

    name: str | None = None
    conclusion: str | None = None
    html_url: str | None = None
    branch: str | None = Field(
        default=None, validation_alias=AliasChoices("head_branch", AliasPath("check_suite", "head_branch"))
    )


class FindingPayload(BaseModel):
    subject: Finding = Field(validation_alias=AliasChoices("alert", "security_advisory"))


class RunPayload(BaseModel):
    subject: Run = Field(validation_alias=AliasChoices("workflow_run", "check_run"))


class Report(Event):
    """Of any event of GitHub."""

    action: str | None = None
    repository: str | None = None
    organization: str | None = None

    @property
    def about(self) -> str:
        return self.repository or self.organization or "github"


class FindingReported(Report):
    payload: FindingPayload


class RunReported(Report):
    payload: RunPayload


# --- what it makes of them -----------------------------------------------------------------------------

FINDINGS = (
    "github.code_scanning_alert",
    "github.dependabot_alert",
    "github.repository_vulnerability_alert",
    "github.secret_scanning_alert",
    "github.security_advisory",
)
RUNS = ("github.check_run", "github.workflow_run")

_BEGINS = (
    "appeared_in_branch", "auto_reopened", "create", "created", "published", "publicly_leaked",
    "reintroduced", "reopen", "reopened", "reopened_by_user", "updated",
)  # fmt: skip
_ENDS = (
    "auto_dismissed", "closed_by_user", "dismiss", "dismissed", "fixed", "resolve", "resolved", "withdrawn",
)  # fmt: skip
HOLDS_AFTER = {**dict.fromkeys(_BEGINS, True), **dict.fromkeys(_ENDS, False)}
"""Action of a finding → whether it needs somebody then. Other actions tell nothing."""
HOLDS_WITH = {"failure": True, "timed_out": True, "startup_failure": True, "success": False}
"""Conclusion of a run → whether it needs somebody then."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What an event tells of one condition."""

    id: str
    about: str
    holds: bool | None
    """None: it stays as it was."""
    severity: Severity
    title: str
    details: str = ""


class Settings(BaseModel, extra="forbid"):
    """The plugin's configuration."""

    load_above: float = Field(gt=0)
    memory_above: float = Field(gt=0)
    disk_above: float = Field(gt=0)


class Alerts(BasePlugin):
    """Raises an alert when a machine is overloaded or a repository needs somebody."""

    settings: Settings
    active: dict[str, tuple[Alert, str]]
    """Id of the alert → the alert, and the id of the event that raised it."""

    async def configure(self, configuration: Mapping[str, JsonValue]) -> None:
        """Thresholds hold from the next event on; active alerts stay until it is judged by them."""
        self.settings = self.read_config(Settings, configuration)

    async def initialize(self) -> None:
        self.settings = self.read_config(Settings)
        self.active = {}

    @on("github.**", "host.sampled")
    async def watch(self, event: PluginEvent) -> EventResult:
        raised = [self.note(condition, event) for condition in self.conditions(event)]
        return EventResult.ok(*(alert for alert in raised if alert is not None))

    @provides
    async def list_active(self, query: ActiveAlerts) -> tuple[Alert, ...]:
        return tuple(alert for alert, _ in self.active.values() if query.about in (None, alert.about))

    def conditions(self, event: PluginEvent) -> Iterator[Condition]:
        """What `event` tells; nothing for most."""
        if event.type == "host.sampled":
            yield from of_sample(event.as_(Sample), self.settings)
        elif event.type in FINDINGS:
            yield of_finding(event.type, event.as_(FindingReported))
        elif event.type in RUNS:
            yield of_run(event.type, event.as_(RunReported))

    def note(self, condition: Condition, event: PluginEvent) -> AlertRaised | None:
        """Keep what `event` tells; returns what is to be published, the same at each attempt."""
        if condition.holds is False:
            self.active.pop(condition.id, None)
        if condition.holds and condition.id not in self.active:
            self.remember(condition, event)
        alert, raised_by = self.active.get(condition.id, (None, ""))
        return AlertRaised(**alert.model_dump()) if alert and raised_by == event.id else None

    def remember(self, condition: Condition, event: PluginEvent) -> None:
        alert = Alert(
            id=condition.id,
            severity=condition.severity,
            title=condition.title,
            about=condition.about,
            details=condition.details,
            since=event.envelope.time,
        )
        if len(self.active) >= MAX_ACTIVE:
            del self.active[next(iter(self.active))]
        self.active[alert.id] = alert, event.id


def of_sample(sample: Sample, settings: Settings) -> Iterator[Condition]:
    load = sample.load_1 / sample.cpus
    yield of_figure(sample.host, "load", load, settings.load_above, f"Load is {load:.1f} per processor")
    memory = sample.memory_percent
    yield of_figure(sample.host, "memory", memory, settings.memory_above, f"Memory is {memory:.0f} % full")
    for disk in sample.disks:
        title = f"Disk {disk.mount} is {disk.percent:.0f} % full"
        yield of_figure(sample.host, f"disk {disk.mount}", disk.percent, settings.disk_above, title)


def of_figure(host: str, name: str, figure: float, limit: float, title: str) -> Condition:
    holds = True if figure > limit else False if figure < limit * CLEAR else None
    return Condition(f"{host}: {name}", host, holds, "warning", title, f"the limit is {limit:g}")


def of_finding(event_type: str, report: FindingReported) -> Condition:
    finding = report.payload.subject
    what = f"{_kind(event_type)} {finding.id}"
    urgent = event_type == "github.secret_scanning_alert" or finding.severity in ("high", "critical")
    return Condition(
        f"{report.about}: {what}",
        report.about,
        HOLDS_AFTER.get(report.action or ""),
        "critical" if urgent else "warning",
        what,
        finding.html_url or "",
    )


def of_run(event_type: str, report: RunReported) -> Condition:
    run = report.payload.subject
    what = f"{_kind(event_type)} {run.name or '(unnamed)'} of {run.branch or '(no branch)'}"
    return Condition(
        f"{report.about}: {what}",
        report.about,
        HOLDS_WITH.get(run.conclusion or "") if report.action == "completed" else None,
        "warning",
        f"{what} failed",
        run.html_url or "",
    )


def _kind(event_type: str) -> str:
    return event_type.removeprefix("github.").replace("_", " ").capitalize()
