"""Which bus the settings mean, and opening it: at once, or as soon as its backend can be reached."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any
from urllib.parse import urlsplit

from contracts.bus import EventBus
from contracts.errors import BusError, SettingsError

from .settings import BusSettings, Settings

ENTRY_POINTS = "plugbus.buses"
REDIS_FIX = "pip install 'plugbus[redis]'"
RETRY_FIRST = 0.25
RETRY_LONGEST = 5.0
"""Seconds between tries of a backend that cannot be reached; doubled each time."""
_LONGEST_HOST = 40
"""Characters of the host's name that a replica's name keeps."""

Told = Callable[[BusError | None], None]
"""Is told, once each, that the bus cannot be reached (the error), and that it is there now (None)."""


def open_bus(settings: Settings, *, replica: str | None = None) -> EventBus:
    """The bus that the URL's scheme names, from the entry-point group `plugbus.buses`; not opened yet.

    `replica`: its name, where it is not the one of the settings. Raises `SettingsError` for a scheme that
    nobody provides, or whose libraries are not installed, and for limits that the bus does not take.
    """
    make = _load(_entry_point(settings.bus), settings)
    bus: EventBus = make(
        settings.bus.url,
        namespace=settings.bus.namespace,
        replica=replica or settings.replica or replica_name(),
        limits=settings.bus.limits.as_set(),
    )
    return bus


def _entry_point(bus: BusSettings) -> EntryPoint | None:
    scheme = urlsplit(bus.url).scheme
    return next((entry for entry in entry_points(group=ENTRY_POINTS) if entry.name == scheme), None)


def _load(entry: EntryPoint | None, settings: Settings) -> Callable[..., Any]:
    source = settings.source_of("bus.url")
    if entry is None:
        known = sorted({f"{each.name}://" for each in entry_points(group=ENTRY_POINTS)})
        raise SettingsError(
            f"no bus for {urlsplit(settings.bus.url).scheme}:// is installed",
            where=f"bus.url ({source})",
            fix=f"one of {', '.join(known)}; redis:// comes with {REDIS_FIX}",
        )
    try:
        made: Callable[..., Any] = entry.load()
    except ImportError as error:
        owner = entry.dist.name if entry.dist else "plugbus"
        raise SettingsError(
            f"the bus for {entry.name}:// cannot be used: {error}",
            where=f"bus.url ({source})",
            fix=REDIS_FIX if owner == "plugbus" else f"install {owner} again, with what it needs",
        ) from error
    return made


def replica_name() -> str:
    """A name for this kernel among all on the backend: the host's, and a part that no other process has."""
    host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")[:_LONGEST_HOST]
    return f"{host or 'replica'}-{secrets.token_hex(3)}"


async def open_patiently(bus: EventBus, told: Told | None, stopping: asyncio.Event) -> None:
    """Open `bus`; where somebody wants to be `told`, try again until its backend can be reached.

    Raises the `BusError` where nobody does, where it is final, and once `stopping` is set.
    """
    delay, was_told = RETRY_FIRST, False
    while True:
        try:
            await bus.open()
        except BusError as error:
            if told is None or error.is_final or stopping.is_set():
                raise
            if not was_told:
                told(error)
            was_told = True
        else:
            break
        await _pause(delay, stopping)
        delay = min(delay * 2, RETRY_LONGEST)
    if told is not None and was_told:
        told(None)


async def _pause(seconds: float, stopping: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return
