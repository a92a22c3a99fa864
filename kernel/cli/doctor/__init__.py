"""`plugbus doctor`: is everything there that a kernel needs? One line for each thing that was looked at.

Nothing is changed, and no kernel has to run. What is wrong is a line, never an error of the command.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ExitCode
from ..output import AsJson, clean, say, say_items
from ..run import Bus, Config, Host, Plugins, Port, StateDir, overrides_of
from .check import Check, ok

if TYPE_CHECKING:
    from ...registry import PluginRegistry
    from ...settings import Settings

Bundle = Annotated[
    Path | None,
    typer.Option(
        "--bundle", metavar="FILE.zip", help="Also write what others need to help, without secrets."
    ),
]


def doctor(
    bus: Bus = None,
    host: Host = None,
    port: Port = None,
    plugins: Plugins = None,
    state_dir: StateDir = None,
    config: Config = None,
    bundle: Bundle = None,
    as_json: AsJson = False,
) -> None:
    """Check environment, settings, state folder, bus, port, plugins. Exit code 1 if one is not in order."""
    from .redaction import redactor_for

    overrides = overrides_of(bus, host, port, plugins, state_dir, None)
    settings, registry, checks = _examine(config, overrides)
    redactor = redactor_for(settings, registry)
    checks = [redactor.check(check) for check in checks]  # its output is pasted too
    if bundle is not None:
        from ..client import Where
        from .bundle import write_bundle

        where = Where(state_dir=state_dir, config=config)
        names = write_bundle(bundle, settings, registry, checks, where, redactor)
        checks.append(ok("bundle", f"{bundle} has {len(names)} files; no secrets", file=str(bundle)))
    if as_json:
        say_items("doctor", [dataclasses.asdict(check) for check in checks])
    else:
        for check in checks:
            say(clean(check.line()))
    if any(check.status == "failed" for check in checks):
        raise typer.Exit(ExitCode.FAILED)


def _examine(
    config: Path | None, overrides: dict[str, Any]
) -> "tuple[Settings | None, PluginRegistry | None, list[Check]]":
    """In the order in which one depends on the other; without settings there is nothing more to look at."""
    from .bus import check_bus
    from .edge import check_kernel, check_port
    from .place import check_environment, check_settings, check_state
    from .plugins import check_plugins, find_plugins

    checks = [check_environment()]
    settings, told = check_settings(config, overrides)
    checks += told
    if settings is None:
        return None, None, checks
    checks += check_state(settings)
    checks += check_bus(settings)
    checks += [check_kernel(settings), check_port(settings)]
    registry = find_plugins(settings)
    checks += check_plugins(settings, registry)
    return settings, registry, checks
