"""A run in Markdown: for people, and for the page that the figures are kept on."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from .verdict import Result


def report(name: str, settings: str, versions: Mapping[str, str], result: Result) -> str:
    """One section: the table, then what was found."""
    plan, course = result.plan, result.course
    rows = [
        ("events, keys", f"{plan.events:,} in {plan.keys:,} keys"),
        ("replicas, publishers", f"{plan.replicas}, {plan.publishers}"),
        ("seconds", f"{course.seconds:,.0f} ({plan.events / course.seconds:,.0f} events/s)"),
        ("`kill -9` of replicas, of Redis", f"{len(result.replica_kills)}, {len(result.server_kills)}"),
        ("confirmed", f"{result.confirmed:,}"),
        ("handler starts", f"{result.starts:,}"),
        ("lost", f"{len(result.found.lost):,}"),
        ("unexpected", f"{len(result.found.unexpected):,}"),
        ("out of order within a key", _order(result)),
        ("two at once within a key", f"{len(result.found.overlapping):,}"),
        ("extra starts after kills of replicas", _extra(result)),
        ("extra starts of what a living replica had", _taken_over(result)),
        ("extra starts by the same replica", f"{len(result.own):,}"),
        ("effects in their stream", f"{result.effects:,} of {plan.events:,} events"),
        ("dead letters", f"{course.rest.dead:,}"),
        ("left at the end", str(course.rest)),
        ("kept in the streams", _kept(result)),
        ("judged in", f"{result.judging:.0f} s"),
    ]
    lines = [f"### {name}, seed {plan.seed}", "", _on(versions), "", f"Settings: {settings}.", ""]
    lines += ["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)]
    problems = result.problems()
    lines += ["", "Nothing is otherwise than promised." if not problems else "Found:", ""]
    lines += ["```text", *problems, "```", ""] if problems else []
    return "\n".join(lines)


def _on(versions: Mapping[str, str]) -> str:
    known = {**versions, "Python": platform.python_version()}
    return ", ".join(f"{what} {version}" for what, version in known.items()) + "."


def _order(result: Result) -> str:
    late = result.found.disordered
    keys = {(finding.records[-1].group, finding.records[-1].key) for finding in late}
    return f"{len(late):,} starts in {len(keys):,} sequences" if late else "0"


def _extra(result: Result) -> str:
    of_kills = sum(len(kill.extra) for kill in result.replica_kills)
    return f"{of_kills:,} (fetched by the killed and not settled: {result.fetched:,})"


def _taken_over(result: Result) -> str:
    return f"{len(result.taken_over):,} (in flight when Redis was killed: {result.in_flight:,})"


def _kept(result: Result) -> str:
    return ", ".join(f"{topic}: {events:,}" for topic, events in result.course.rest.kept.items())
