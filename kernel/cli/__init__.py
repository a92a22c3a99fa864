"""The command `plugbus`: one file for each noun, and here how they are put together.

Commands are plain functions. What is heavy (settings, the HTTP client, the kernel itself) is imported
where a command needs it, so that help and completion answer at once.
"""

import io
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer
from typer.main import get_command

from . import (
    bus,
    capabilities,
    check,
    config,
    dlq,
    doctor,
    error_codes,
    events,
    graph,
    groups,
    new,
    plugins,
    run,
    testing,
    traces,
    version,
)
from .errors import ExitCode, outcome
from .output import note

__all__ = ["execute", "main"]

app = typer.Typer(
    name="plugbus",
    help="Plugbus: plugins that talk over a typed async event bus.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
app.command("run")(run.run)
app.command("demo")(run.demo)
app.command("dev")(run.dev)
app.add_typer(new.app, name="new")
app.command("check")(check.check)
app.command("test")(testing.run_tests)
app.add_typer(plugins.app, name="plugin")
app.add_typer(events.app, name="event")
app.add_typer(groups.app, name="group")
app.add_typer(dlq.app, name="dlq")
app.add_typer(capabilities.app, name="capability")
app.add_typer(bus.app, name="bus")
app.add_typer(config.app, name="config")
app.add_typer(traces.app, name="trace")
app.command("graph")(graph.graph)
app.command("explain")(error_codes.explain)
app.command("doctor")(doctor.doctor)
app.command("version")(version.version)


def main() -> NoReturn:
    """Run the command line of this process and end it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks ✔ is no reason to fail
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Mistakes are told on stderr."""
    command = get_command(app)
    try:
        # Patterns such as `orders.*` are not file names, on Windows neither.
        result = command.main(
            list(arguments) or ["--help"],
            prog_name="plugbus",
            standalone_mode=False,
            windows_expand_args=False,
        )
    except Exception as error:
        told = outcome(error)
        if told is None:
            raise
        text, code = told
        if text:
            note(text)
        return code
    return result if isinstance(result, int) else ExitCode.OK
