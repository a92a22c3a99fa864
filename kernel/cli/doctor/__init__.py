"""`plugbus doctor`: is everything there that a kernel needs? One line for each thing that was looked at.

Nothing is changed, and no kernel has to run. What is wrong is a line, never an error of the command.
"""

import dataclasses
from pathlib import Path
from typing import Any

import typer

from ..errors import ExitCode
from ..output import AsJson, clean, say, say_items
from ..run import Bus, Config, Host, Plugins, Port, StateDir, overrides_of
from .check import Check


def doctor(
    bus: Bus = None,
    host: Host = None,
    port: Port = None,
    plugins: Plugins = None,
    state_dir: StateDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Check environment, settings, state folder, bus and port. Exit code 1 if one of them is not in order."""
    overrides = overrides_of(bus, host, port, plugins, state_dir, None)
    checks = _examine(config, overrides)
    if as_json:
        say_items("doctor", [dataclasses.asdict(check) for check in checks])
    else:
        for check in checks:
            say(clean(check.line()))
    if any(check.status == "failed" for check in checks):
        raise typer.Exit(ExitCode.FAILED)


def _examine(config: Path | None, overrides: dict[str, Any]) -> list[Check]:
    """In the order in which one depends on the other; without settings there is nothing more to look at."""
    from .bus import check_bus
    from .edge import check_kernel, check_port
    from .place import check_environment, check_settings, check_state

    checks = [check_environment()]
    settings, told = check_settings(config, overrides)
    checks += told
    if settings is not None:
        checks += check_state(settings)
        checks += check_bus(settings)
        checks += [check_kernel(settings), check_port(settings)]
    return checks
