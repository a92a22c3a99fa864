"""`plugbus doctor --bundle FILE`: what others need to help, without any secret or event's data.

Everything is read; nothing is changed. What cannot be had says why in its place. Every file goes through the
`Redactor`, also what the kernel has masked already.
"""

import dataclasses
import io
import json
import os
import platform
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TypeVar

from contracts.errors import PlugbusError

from ...registry import PluginRecord, PluginRegistry
from ...settings import Settings
from ...version import plugbus_version
from ..client import Client, Where, word
from ..errors import CommandError, ExitCode
from .check import Check
from .happened import groups_without_words, last_spans, log_text
from .redaction import Redactor

A = TypeVar("A")

PAGES, PAGE = 10, 1_000
"""Dead letters that are counted, at most."""
_README = """\
Diagnostics of Plugbus {version}, made at {at} by `plugbus doctor --bundle`.

doctor.json         what `plugbus doctor` found
settings.json       every setting, its value and where it came from
environment.json    Python, platform, versions of what is installed; names of variables, without values
plugins.json        every plugin: status, reason, manifest, handlers, grants
configuration.json  the configuration of each plugin, and where each value came from
{running}
Secrets are masked as {mask}: by their name, as passwords in URLs, and wherever a known one stands. Data of
events is nowhere in it. Look through it all the same before you hand it on.
"""
_RUNNING = """\
bus.json            the bus as the kernel sees it, topics and their holders
groups.json         what waits, runs, is parked and dead
dead-letters.json   how many dead letters of which group, reason and error there are
capabilities.json   who provides what
traffic.json        plugins, events and capabilities as a graph, with warnings
readiness.json      whether the kernel is ready
metrics.txt         all figures
log.txt             what was logged last: by Plugbus, errors by their type; by plugins only where and when
traces.json         the last spans, if flows are traced
"""
_STOPPED = "No kernel ran, so there is nothing of groups, dead letters and figures.\n"


def write_bundle(
    file: Path,
    settings: Settings | None,
    registry: PluginRegistry | None,
    checks: list[Check],
    where: Where,
    redactor: Redactor,
) -> list[str]:
    """Write the bundle, wholly or not at all, readable by its owner only; the names of what is in it."""
    content = {name: _text(redactor, made) for name, made in _files(settings, registry, checks, where)}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in content.items():
            bundle.writestr(name, text)
    _put(file, packed.getvalue())
    return sorted(content)


def _text(redactor: Redactor, made: Any) -> str:
    if isinstance(made, str):
        return redactor.text(made)
    return json.dumps(redactor.value(made), indent=2, ensure_ascii=False, default=str) + "\n"


def _put(file: Path, content: bytes) -> None:
    """Raises `CommandError`; a file that is there already stays as it is."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            with os.fdopen(descriptor, "wb") as made:
                made.write(content)
        except BaseException:
            file.unlink()
            raise
    except OSError as error:
        raise CommandError(
            "not-written", f"the bundle cannot be written: {error.strerror or error}", where=str(file),
            fix="another --bundle FILE, in a folder that you may write to", exit_code=ExitCode.FAILED,
        ) from None  # fmt: skip


# --- what is in it ---------------------------------------------------------------------------------------


def _files(
    settings: Settings | None, registry: PluginRegistry | None, checks: list[Check], where: Where
) -> Iterator[tuple[str, Any]]:
    is_running = any(check.details.get("url") for check in checks if check.name == "kernel")
    yield "README.txt", _readme(is_running)
    yield "doctor.json", [dataclasses.asdict(check) for check in checks]
    yield "environment.json", _environment()
    if settings is None or registry is None:
        return
    yield (
        "settings.json",
        [{"key": key, "value": value, "source": source} for key, value, source in settings.describe()],
    )
    if is_running:
        yield from _told_by_kernel(where)
    else:
        yield "plugins.json", [_record(record) for record in registry]
        yield "configuration.json", _configuration(settings, registry)


def _readme(is_running: bool) -> str:
    from ...settings_problems import MASK

    at, running = datetime.now(UTC).isoformat(timespec="seconds"), _RUNNING if is_running else _STOPPED
    return _README.format(version=plugbus_version(), at=at, running=running, mask=MASK)


def _environment() -> dict[str, Any]:
    return {
        "plugbus": plugbus_version(),
        "python": sys.version,
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "installed": dict(sorted((found.name, found.version) for found in distributions() if found.name)),
        "variables": sorted(name for name in os.environ if name.startswith(("PLUGBUS_", "OTEL_"))),
    }


def _record(record: PluginRecord) -> dict[str, Any]:
    return {
        "plugin_id": record.plugin_id,
        "enabled": record.enabled,
        "status": record.status.value,
        "reason": record.reason.model_dump(mode="json") if record.reason else None,
        "shadowed": record.shadowed,
        "metadata": record.metadata.model_dump(mode="json", warnings=False),
    }


def _configuration(settings: Settings, registry: PluginRegistry) -> Any:
    import asyncio

    from ...configuration.layers import ConfigurationLayers
    from ...configuration.live import LiveStore
    from ...configuration.showing import ConfigurationView
    from ...state import StateFolder

    folder = StateFolder.locate(settings.state_dir, settings.file)
    layers = ConfigurationLayers(settings, LiveStore(folder.path))
    try:
        shown = asyncio.run(ConfigurationView(layers, registry).show(None))
    except PlugbusError as error:
        return {"error": error.message}
    return [one.model_dump(mode="json") for one in shown]


def _told_by_kernel(where: Where) -> Iterator[tuple[str, Any]]:
    with Client(where) as client:
        yield "plugins.json", _or_why(_plugins, client)
        for name, path in (
            ("configuration.json", "/admin/config"),
            ("bus.json", "/admin/bus"),
            ("capabilities.json", "/admin/capabilities"),
            ("traffic.json", "/admin/graph"),
            ("readiness.json", "/readyz"),
        ):
            yield name, _or_why(client.get, path)
        yield "groups.json", _or_why(groups_without_words, client)
        yield "log.txt", _or_why(log_text, client)
        yield "traces.json", _or_why(last_spans, client)
        yield "dead-letters.json", _or_why(_dead_letters, client)
        yield "metrics.txt", _or_why(client.text, "/metrics")


def _or_why(ask: Callable[[A], Any], what: A) -> Any:
    try:
        return ask(what)
    except CommandError as error:
        return {"not available": str(error)}


def _plugins(client: Client) -> list[Any]:
    listed = client.get("/admin/plugins")
    return [_or_why(client.get, f"/admin/plugins/{word(item['plugin_id'])}") for item in listed]


def _dead_letters(client: Client) -> dict[str, Any]:
    """Numbers only: neither data nor messages of errors, which quote it."""
    counted: Counter[tuple[str, str, str]] = Counter()
    after, pages = None, 0
    while pages < PAGES:
        letters = client.get("/admin/dead-letters", limit=PAGE, after=after)
        counted.update(map(_kind, letters))
        pages += 1
        if len(letters) < PAGE:
            break
        after = letters[-1]["id"]
    rows = [
        {"group": group, "reason": reason, "error": error, "count": count}
        for (group, reason, error), count in sorted(counted.items())
    ]
    return {"counted": counted.total(), "are_more": pages == PAGES, "letters": rows}


def _kind(letter: Mapping[str, Any]) -> tuple[str, str, str]:
    return letter["group"], letter["reason"], (letter.get("error") or {}).get("type", "")
