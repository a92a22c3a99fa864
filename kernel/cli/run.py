"""`plugbus run`, `demo` and `dev`: a kernel in the foreground, until SIGINT or SIGTERM."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import typer

from ..version import plugbus_version
from .errors import CommandError, ExitCode
from .output import clean, note, say, say_event
from .plugins import plugin_line, say_reason

if TYPE_CHECKING:
    from contracts.errors import BusError

    from ..manager import PluginManager
    from ..settings import Settings

_FIRST_FAILURE = 7
"""Lines of an error at most; with what is done about it they are eight."""

Bus = Annotated[
    str | None,
    typer.Option("--bus", metavar="URL", help="Which bus: memory:// or redis://HOST:6379, for example."),
]
Host = Annotated[str | None, typer.Option("--host", help="Address that the gateway listens on.")]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Its port; 0 for a free one.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugins", metavar="PATH", help="Folder of plugins, or one plugin; repeatable."),
]
StateDir = Annotated[Path | None, typer.Option("--state-dir", help="Folder for token, data and lock.")]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings file (plugbus.toml).")
]
LogLevel = Annotated[str | None, typer.Option("--log-level", help="debug, info, warning, error or critical.")]


def run(
    bus: Bus = None,
    host: Host = None,
    port: Port = None,
    plugins: Plugins = None,
    state_dir: StateDir = None,
    config: Config = None,
    log_level: LogLevel = None,
    safe_mode: Annotated[bool, typer.Option("--safe-mode", help="Load only built-in plugins.")] = False,
) -> None:
    """Run a kernel with its plugins. Ctrl-C stops it gracefully, twice at once."""
    overrides = overrides_of(bus, host, port, plugins, state_dir, log_level)
    _serve("run", config, overrides, _idle, safe_mode=safe_mode)


def demo(
    bus: Bus = None,
    host: Host = None,
    port: Port = None,
    plugins: Plugins = None,
    state_dir: StateDir = None,
    config: Config = None,
    log_level: LogLevel = None,
) -> None:
    """Run a kernel with the example plugins, and show what flows through it."""
    overrides = overrides_of(bus, host, port, plugins, state_dir, log_level)
    if port is None:
        overrides["plugins.gateway.config.port_fallback"] = True
    _serve("demo", config, overrides, _show_flow)


def dev(
    file: Annotated[Path, typer.Argument(help="One plugin: its file or its folder.")],
    bus: Bus = "memory://",
    host: Host = None,
    port: Port = None,
    state_dir: StateDir = None,
    config: Config = None,
    log_level: LogLevel = None,
) -> None:
    """Run a kernel with the one plugin that you are writing, and show what flows through it."""
    if not file.exists():
        raise CommandError("not-found", f"'{file}' is not there", exit_code=ExitCode.NOT_FOUND)
    overrides = overrides_of(bus, host, port, [file], state_dir, log_level)
    if port is None:
        overrides["plugins.gateway.config.port_fallback"] = True
    _serve("dev", config, overrides, _show_flow)


def overrides_of(
    bus: str | None,
    host: str | None,
    port: int | None,
    plugins: list[Path] | None,
    state_dir: Path | None,
    log_level: str | None,
) -> dict[str, Any]:
    """The settings that the flags of `run` are."""
    given = {
        "bus.url": bus,
        "plugins.gateway.config.host": host,
        "plugins.gateway.config.port": port,
        "plugin_paths": plugins or None,
        "state_dir": state_dir,
        "log_level": log_level,
    }
    return {key: value for key, value in given.items() if value is not None}


def _serve(
    profile: Literal["run", "demo", "dev"],
    config: Path | None,
    overrides: dict[str, Any],
    work: "Callable[[PluginManager], Coroutine[Any, Any, None]]",
    *,
    safe_mode: bool = False,
) -> None:
    from ..manager import PluginManager
    from ..otel_variables import leave_out_unusable
    from ..settings import load_settings
    from .logs import configure_logging

    settings = load_settings(file=config, overrides=overrides)
    configure_logging(settings.log_level)
    leave_out_unusable(os.environ, logging.getLogger("plugbus.kernel"))
    named = settings.plugin_paths if "plugin_paths" in overrides else ()  # naming a path is consent to run it
    waiting = BusWait(settings.bus.display_url)
    manager = PluginManager(
        settings, profile=profile, consent=named, bus_told=waiting.tell, safe_mode=safe_mode
    )
    asyncio.run(_until_asked(manager, settings, profile, work))


class BusWait:
    """Tells the operator, once, that the bus cannot be reached, and once that it is there."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._host = urlsplit(address).netloc.rpartition("@")[2] or address

    def tell(self, error: "BusError | None") -> None:
        if error is None:
            note(f"connected to {self._address}")
            return
        lines = [clean(line) for line in error.explain().splitlines() if line.strip()]
        if not any(self._host in line for line in lines):
            lines.insert(1, f"  bus: {self._address}")
        note("\n".join(lines[:_FIRST_FAILURE]))
        note("  now: trying again until it answers; Ctrl-C ends")


async def _until_asked(
    manager: "PluginManager",
    settings: "Settings",
    profile: str,
    work: "Callable[[PluginManager], Coroutine[Any, Any, None]]",
) -> None:
    with _stop_signals() as asked:
        try:
            if await _unless(asked, manager.start()):
                _say_opening(manager, settings, profile)
                await _unless(asked, work(manager))
        finally:
            await manager.stop("the operator asked" if asked.is_set() else "the start failed")


async def _unless(asked: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Run `work` to its end, or until it is `asked` to stop; whether it came to its end."""
    task, waiting = asyncio.create_task(work), asyncio.create_task(asked.wait())
    try:
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
            return True
        return False
    finally:
        await _cancel(task, waiting)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second ends the process at once."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    received: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) > 1:
            sys.stdout.flush()
            os._exit(128 + number)
        loop.call_soon_threadsafe(_ask, asked)

    former = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _ask(asked: asyncio.Event) -> None:
    note("stopping (again: at once)")
    asked.set()


def _say_opening(manager: "PluginManager", settings: "Settings", profile: str) -> None:
    for plugin in manager.plugins():
        item = plugin.model_dump(mode="json")
        if item["status"] == "error":
            say_reason(item)
        else:
            say(plugin_line(item))
    address = f"{manager.url.rstrip('/')}/docs" if manager.url else "no web edge"
    say(f"plugbus {plugbus_version()} · {settings.bus.display_url} · {address}")
    if profile == "demo":
        say(f"try in a second terminal: {_hint(settings)}")


def _hint(settings: "Settings") -> str:
    """An event that another plugin of the demo reacts to, so that two lines appear."""
    told = settings.source_of("state_dir") == "command line"
    where = f" --state-dir {settings.state_dir}" if told else ""
    return f"plugbus event publish demo.hello name=Ada{where}"


async def _idle(manager: "PluginManager") -> None:
    await asyncio.Event().wait()


async def _show_flow(manager: "PluginManager") -> None:
    tail = manager.bus.tail("**", "plugin.**", "kernel.**")
    try:
        async for item in tail:
            if item.missed:
                note(f"{item.missed} events were skipped")
            say_event(item.envelope.attributes(), item.data)
    finally:
        tail.close()
