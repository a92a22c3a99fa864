"""Capabilities that a plugin requests and nobody provides, the kernel and the plugins around it included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from contracts import messages
from contracts.errors import PluginLoadError
from contracts.patterns import overlaps

from ...discovered import Discovered
from ...manifest_problems import suggestion
from ...traffic import ANYTHING
from .finding import Finding, Report
from .looking import look_at_all

_OF_KERNEL = frozenset(
    name for kind in messages.__all__ if (name := getattr(getattr(messages, kind), "__capability__", ""))
)


def check_capabilities(
    reports: Mapping[str, Report], named: Sequence[Discovered], others: Iterable[Discovered], deadline: float
) -> None:
    """A warning for each: whoever provides it may yet be installed, or run on another replica.

    `named`: the plugins of the settings; where it matters, the code is looked at of those whose manifest does
    not say what they provide. Of `others` the manifest is all that is looked at.
    """
    wanted = [(report, name, where) for report in reports.values() for name, where in _requested(report)]
    around = [one for one in (*named, *others) if one.plugin_id not in reports]
    provided = {*_OF_KERNEL, *(name for one in around for name in one.metadata.provided or ())}
    for report in reports.values():
        provided.update(_provided(report))
    if _unmet(wanted, provided):
        silent = [one for one in named if one.plugin_id not in reports and one.metadata.provided is None]
        for seen in look_at_all(silent, deadline):
            provided.update(() if isinstance(seen, PluginLoadError) else seen.declaration.capabilities)
    for report, name, where in _unmet(wanted, provided):
        report.findings.append(_finding(name, where, provided))


_Wanted = list[tuple[Report, str, str]]


def _unmet(wanted: _Wanted, provided: Iterable[str]) -> _Wanted:
    return [one for one in wanted if not any(overlaps(one[1], name) for name in provided)]


def _requested(report: Report) -> Iterator[tuple[str, str]]:
    """Capabilities, or patterns, each with the place where it is said first; the code before the manifest."""
    metadata, seen = report.found and report.found.metadata, report.seen
    said: dict[str, str] = {}
    for use in seen.uses if seen else ():
        if use.kind == "request":
            said.setdefault(use.name, use.where)
    for name in (metadata.requests or ()) if metadata else ():
        said.setdefault(name, report.path)
    said.pop(ANYTHING, None)  # asks for nothing in particular
    yield from said.items()


def _provided(report: Report) -> Iterator[str]:
    if report.found:
        yield from report.found.metadata.provided or ()
    if report.seen:
        yield from report.seen.declaration.capabilities


def _finding(name: str, where: str, provided: Iterable[str]) -> Finding:
    near = suggestion(name, sorted(provided))
    fix = f"did you mean '{near}'?" if near else "check it together with the plugin that provides it"
    return Finding(
        "warning", "missing-capability", f"nobody provides '{name}', which is requested", where, fix
    )
