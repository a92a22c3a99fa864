"""From what was found and seen to findings: each rule is the kernel's own, asked before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from contracts import messages
from contracts.bus import CatalogEntry, Features
from contracts.errors import (
    EventDefinitionError,
    ManifestError,
    PermissionDeniedError,
    PluginLoadError,
    SettingsError,
)
from contracts.messages import AuditRecorded
from contracts.patterns import RESERVED_TOPICS, matches, topic_of
from contracts.security import Permission

from ...discovered import Discovered
from ...discovery import Discovery, PluginDiscovery, Refusal, Source
from ...finding import BUILT_IN, BUILT_IN_FOLDER
from ...manifest_problems import suggestion
from ...project import announced_by, discover_from_project
from ...requirements import unmet_requirements
from ...resolver import DependencyResolver
from ...security import PermissionManager, SecurityManager
from ...settings import PluginSettings, load_settings
from ...version import plugbus_version
from .capabilities import check_capabilities
from .finding import Finding, Report
from .look import Look
from .looking import look_at_all

_ALIKE = 0.9
"""How alike two event types must be before one is taken for a slip of the pen."""
_TOLD_BY_US = frozenset(
    kind for name in messages.__all__ if (kind := getattr(getattr(messages, name), "__event_type__", ""))
)
_SILENT = ("title", "description", "default", "examples")
"""Parts of a schema that do not say which data fit."""


def examine(paths: Sequence[Path], deadline: float) -> list[Report]:
    """A report on each plugin that lies at `paths`, in the order in which they were found."""
    checked = _discover(paths)
    reports = [Report(one.plugin_id, one.metadata.file_path, one) for one in checked.found]
    for refusal in checked.refused:
        reports.append(Report(refusal.plugin_id, str(refusal.path)))
        reports[-1].add(refusal.error)
    by_id = {report.plugin_id: report for report in reports if report.found}
    for plugin_id, places in checked.shadowed.items():
        by_id[plugin_id].findings.append(_shadowed(plugin_id, places))
    named, others = _around()
    _resolve(by_id, checked.refused, (*others, *named))
    looks: dict[str, Look] = {}
    for report, seen in zip(by_id.values(), look_at_all(checked.found, deadline), strict=True):
        if isinstance(seen, PluginLoadError):
            report.add(seen)
        elif seen.problems:
            report.findings += [Finding(**problem) for problem in seen.problems]  # type: ignore[arg-type]  # as made
        else:
            looks[report.plugin_id] = report.seen = seen
    for plugin_id, seen in looks.items():
        _check_security(by_id[plugin_id], seen)
        _check_handlers(by_id[plugin_id], seen, looks)
    _check_events(by_id, looks)
    check_capabilities(by_id, named, others, deadline)
    return reports


def _discover(paths: Sequence[Path]) -> Discovery:
    found = Discovery()
    for path in paths:
        try:
            is_project = bool(announced_by(path))
        except ManifestError as error:
            more = Discovery(refused=(Refusal(path.absolute().name, path, error),))
        else:
            named = PluginDiscovery().discover(Source.named(path))
            more = discover_from_project(path) if is_project else named
        found = _joined(found, more)
    return found


def _joined(first: Discovery, second: Discovery) -> Discovery:
    """Both, the same place once; a second plugin with an id is shadowed, as the kernel has it."""
    places = {one.plugin_id: one.metadata.file_path for one in first.found}
    shadowed = {**first.shadowed, **second.shadowed}
    for one in second.found:
        here = one.metadata.file_path
        if places.get(one.plugin_id, here) != here:
            shadowed[one.plugin_id] = (*shadowed.get(one.plugin_id, ()), here)
    new = tuple(one for one in second.found if one.plugin_id not in places)
    return Discovery((*first.found, *new), (*first.refused, *second.refused), shadowed)


def _shadowed(plugin_id: str, places: Iterable[str]) -> Finding:
    text = f"another plugin has the id '{plugin_id}', and the first one hides it"
    return Finding("warning", "shadowed", text, ", ".join(places), "give one of them another plugin_id")


def _around() -> tuple[tuple[Discovered, ...], tuple[Discovered, ...]]:
    """What a kernel would find as well: what the settings name; what comes with Plugbus or is installed."""
    try:
        folders = [Source.folder(path) for path in load_settings().plugin_paths]
    except SettingsError:
        folders = []  # `plugbus config check` tells what is wrong with them
    given = [Source.folder(BUILT_IN_FOLDER, BUILT_IN), Source.entry_points()]
    finder = PluginDiscovery()
    return finder.discover_all(folders).found, finder.discover_all(given).found


def _resolve(reports: Mapping[str, Report], refused: Iterable[Refusal], around: Iterable[Discovered]) -> None:
    """Dependencies, among what is checked and what is around it."""
    others = {one.plugin_id: one.metadata for one in around}
    checked = {id: report.found.metadata for id, report in reports.items() if report.found}
    resolution = DependencyResolver().resolve(
        {**others, **checked}.values(),
        plugbus_version=plugbus_version(),
        bus_features=Features(persistent=True, shared=True),  # which bus it will be is not known here
        refused=[one.plugin_id for one in refused if one.plugin_id not in checked],
        unmet=unmet_requirements(report.found for report in reports.values() if report.found),
    )
    for plugin_id, problems in resolution.problems.items():
        for problem in problems if plugin_id in reports else ():
            reports[plugin_id].add(problem)


# --- one plugin -----------------------------------------------------------------------------------


def _check_security(report: Report, seen: Look) -> None:
    """What the code does and its manifest does not ask for, by the kernel's own judgement."""
    assert report.found  # noqa: S101 - only what was found was looked at
    metadata, policy = report.found.metadata, PluginSettings()
    manager = SecurityManager(_unheard)
    try:
        manager.effective_level(metadata, policy, "")
    except PluginLoadError as error:
        report.add(error, "warning")
    context = manager.create_security_context(metadata, seen.declaration, policy, consent="check")
    asked = PermissionManager(context, _unheard)
    for pattern in seen.declaration.patterns:
        _ask(report, lambda name=pattern: asked.check_subscribe(name), metadata.file_path)
    for capability in seen.declaration.capabilities:
        _ask(report, lambda name=capability: asked.check_provide(name), metadata.file_path)
    for use in seen.uses:
        if use.kind == "publish":
            _ask(report, lambda name=use.name: asked.check_publish(name), use.where)
        elif use.kind == "request":
            _ask(report, lambda name=use.name: asked.check_request(name), use.where)
        elif not context.validate_permission(Permission.READ_DATA):
            _ask(report, lambda: asked.check_permission(Permission.WRITE_DATA, why="data_dir"), use.where)


def _unheard(_record: AuditRecorded) -> None:
    """Nothing happened that an audit log should know of."""


def _ask(report: Report, question: Any, where: str) -> None:
    try:
        question()
    except PermissionDeniedError as error:
        error.where = where
        report.add(error)


def _check_handlers(report: Report, seen: Look, looks: Mapping[str, Look]) -> None:
    """Handlers that the manifest names and the class does not have; events that nobody will publish."""
    assert report.found  # noqa: S101 - only what was found was looked at
    metadata, declared = report.found.metadata, seen.declaration
    names = [handler.name for handler in declared.handlers]
    if isinstance(metadata.subscribes, dict):
        for name in metadata.subscribes.keys() - set(names):
            meant = suggestion(name, names) or next(iter(names), "")
            text = f"'subscribes' names the handler '{name}', which the class does not have"
            fix = f"did you mean '{meant}'?" if meant else f"write 'async def {name}'"
            report.add(ManifestError(text, where=metadata.file_path, fix=fix))
    others = {
        entry.type for id, other in looks.items() if id != report.plugin_id for entry in _declared(other)
    }
    own = {use.name for use in seen.uses if use.kind == "publish"}
    for handler in declared.handlers:
        for pattern in handler.patterns:
            if finding := _unknown(pattern, handler.name, others | own, metadata.file_path):
                report.findings.append(finding)


def _unknown(pattern: str, handler: str, known: set[str], where: str) -> Finding | None:
    """Only where it is a slip of the pen, or one of our own types: others may come from anywhere."""
    is_ours = topic_of(pattern) in RESERVED_TOPICS
    types = _TOLD_BY_US if is_ours else known
    if any(matches(pattern, kind) for kind in types):
        return None
    near = difflib.get_close_matches(pattern, sorted(types), n=1, cutoff=0.6 if is_ours else _ALIKE)
    if not is_ours and (not near or "*" in pattern):
        return None
    text = f"nobody publishes '{pattern}', which the handler '{handler}' is for"
    fix = f"did you mean '{near[0]}'?" if near else "contracts/README.md lists what kernel and bus say"
    return Finding("warning", "unknown-event", text, where, fix)


# --- all together ---------------------------------------------------------------------------------


def _declared(seen: Look) -> Iterator[CatalogEntry]:
    yield from seen.declaration.event_types


def _check_events(reports: Mapping[str, Report], looks: Mapping[str, Look]) -> None:
    """One type and version that two classes declare, so that what the one sends does not fit the other."""
    entries = [(id, entry) for id, seen in looks.items() for entry in _declared(seen)]
    for (first_id, first), (second_id, second) in combinations(entries, 2):
        if (first.type, first.version) != (second.type, second.version):
            continue
        if differs := _difference(first.json_schema, second.json_schema):
            whose = "twice" if first_id == second_id else f"by '{first_id}' and by '{second_id}'"
            text = f"'{first.type}' version {first.version} is declared {whose}, and differently: {differs}"
            fix = "import one class from where it is published, or raise version= on the changed one"
            where = reports[second_id].path
            error = EventDefinitionError(text, where=where, fix=fix)
            for plugin_id in {first_id, second_id}:
                reports[plugin_id].add(error)


def _difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Why neither reads what the other writes; empty where a narrower model is all that there is."""
    one, other = first.get("properties", {}), second.get("properties", {})
    for name in one.keys() & other.keys():
        here, there = _meaning(one[name], first), _meaning(other[name], second)
        if here != there:
            return f"{name} is {_kind(one[name])} here and {_kind(other[name])} there"
    missing = [
        sorted(set(wants.get("required", ())) - gives.keys())
        for wants, gives in ((first, other), (second, one))
    ]
    if all(missing):
        return f"one wants {missing[0][0]}, the other {missing[1][0]}"
    return ""


def _meaning(schema: Any, whole: Mapping[str, Any], depth: int = 0) -> Any:
    """A schema without what is only for readers, its references followed as far as a person would."""
    if isinstance(schema, list):
        return [_meaning(item, whole, depth) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    if "$ref" in schema and depth < 8:
        target = whole.get("$defs", {}).get(str(schema["$ref"]).rpartition("/")[2], {})
        return _meaning(target, whole, depth + 1)
    return {key: _meaning(value, whole, depth) for key, value in schema.items() if key not in _SILENT}


def _kind(schema: Mapping[str, Any]) -> str:
    return str(schema.get("type") or schema.get("format") or "another thing")
