"""`plugbus check`: everything that can be known of a plugin without running it.

Manifests are read, and resolved together; the code is imported, in a process of its own with a deadline.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import CommandError, ExitCode
from ..output import AsJson, clean, say, say_items

if TYPE_CHECKING:
    from .finding import Report

_SHOWN = 10
"""Findings that are spelled out for people, so that they fit on a screen; the others are counted."""


def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Plugins, folders of plugins, or projects with a pyproject.toml; "
            "without any, the project in this folder, or what the settings name.",
            show_default=False,
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    write: Annotated[
        bool,
        typer.Option("--write", help="Add what the code declares to manifests that do not say it."),
    ] = False,
    deadline: Annotated[
        float, typer.Option("--deadline", min=0.1, metavar="SECONDS", help="For the import of each plugin.")
    ] = 30,
    as_json: AsJson = False,
) -> None:
    """Check plugins without starting them. Exit code 1 if one of them is not in order."""
    from .judge import examine

    for path in paths or ():
        if not path.exists():
            raise CommandError("not-found", f"'{path}' is not there", exit_code=ExitCode.NOT_FOUND)
    paths = paths or _by_default()
    reports = examine(paths, deadline)
    if write:
        reports = _write(reports, paths, deadline)
    if as_json:
        say_items("check", [report.as_json() for report in reports])
    else:
        _say(reports)
    wrong = {"error", "warning"} if strict else {"error"}
    if any(report.status in wrong for report in reports):
        raise typer.Exit(ExitCode.FAILED)


def _write(reports: "list[Report]", paths: list[Path], deadline: float) -> "list[Report]":
    """The reports on what was written; it is read and judged again."""
    from .judge import examine
    from .write import write_all

    written = write_all(reports)
    if not written:
        return reports
    refused = {report.plugin_id: report for report in reports if report.status == "error"}
    again = examine(paths, deadline)
    for report in again:
        report.written = written.get(report.plugin_id, ())
    return [refused.get(report.plugin_id, report) for report in again]


def _by_default() -> list[Path]:
    from ...project import announced_by
    from ...settings import load_settings

    if announced_by(Path()):
        return [Path()]
    if there := [path for path in load_settings().plugin_paths if path.exists()]:
        return there
    raise CommandError(
        "nothing-to-check",
        "there is no plugin project in this folder, and no folder of plugins in the settings",
        fix="plugbus check PATH",
    )


def _say(reports: "list[Report]") -> None:
    shown = 0
    for report in reports:
        version = f" {report.found.metadata.version}" if report.found else ""
        say(clean(f"{report.status:<8}{report.plugin_id}{version}  {report.path}"))
        if report.written:
            say(f"  written: {', '.join(report.written)}")
        for finding in report.findings[: max(0, _SHOWN - shown)]:
            for line in finding.lines():
                say(line)
        shown += len(report.findings)
    if shown > _SHOWN:
        say(f"… and {shown - _SHOWN} more: plugbus check --json")
