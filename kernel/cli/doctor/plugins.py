"""The plugins that the settings lead to, as far as that can be told without running their code."""

import logging
from collections.abc import Iterator

from contracts.bus import Features
from contracts.errors import PlugbusError

from ...finding import PluginFinder
from ...registry import PluginRecord, PluginRegistry
from ...resolver import DependencyResolver
from ...security import SecurityManager
from ...settings import PluginSettings, Settings
from ...version import plugbus_version
from .check import Check, failed, ok, warning


def find_plugins(settings: Settings) -> PluginRegistry:
    """Records of everything that `plugbus run` would find."""
    silent = logging.getLogger("plugbus.doctor")
    silent.disabled = True  # what is refused is told by its record
    registry = PluginRegistry(settings.deadlines.health)
    PluginFinder(settings, "run", (), silent).find(registry)
    return registry


def check_plugins(settings: Settings, registry: PluginRegistry) -> list[Check]:
    """One line for all that is well, and one for each plugin that could not start."""
    records = list(registry)
    problems = [*_refused(records), *_unsolved(settings, records)]
    enabled = [record.plugin_id for record in records if record.enabled and record.found is not None]
    text = f"{len(records)} found, {len(enabled)} enabled"
    told = ok("plugins", f"{text}: {', '.join(enabled)}", found=len(records), enabled=enabled)
    return problems or [told]


def _refused(records: list[PluginRecord]) -> Iterator[Check]:
    """Their manifests cannot be read."""
    for record in records:
        if record.found is None and record.reason is not None:
            text = f"{record.plugin_id}: {record.reason.text}"
            where = f" ({record.reason.place})" if record.reason.place else ""
            yield _problem(record, text + where, record.reason.next_step)


def _unsolved(settings: Settings, records: list[PluginRecord]) -> Iterator[Check]:
    """Enabled, and missing something, or asking for a level that is not to be had."""
    starting = [record for record in records if record.enabled and record.found is not None]
    resolution = DependencyResolver().resolve(
        [record.metadata for record in starting],
        plugbus_version=plugbus_version(),
        bus_features=Features(persistent=settings.bus.url.startswith("redis"), shared=True),
        disabled=[record.plugin_id for record in records if not record.enabled],
        refused=[record.plugin_id for record in records if record.found is None],
    )
    for record in starting:
        errors: list[PlugbusError] = [*resolution.problems.get(record.plugin_id, ())]
        policy = settings.plugins.get(record.plugin_id) or PluginSettings()
        try:
            SecurityManager(lambda _: None).effective_level(record.metadata, policy, record.consent)
        except PlugbusError as error:
            errors.append(error)
        for problem in errors:
            yield _problem(record, f"{record.plugin_id}: {problem.message}", problem.fix)


def _problem(record: PluginRecord, text: str, fix: str) -> Check:
    say = failed if record.metadata.criticality == "required" else warning
    return say("plugins", text, fix, plugin=record.plugin_id)
