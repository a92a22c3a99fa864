"""The bus, looked at through a handle of the doctor's own."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from contracts.bus import BusInfo, EventBus
from contracts.errors import PlugbusError

from ...buses import open_bus, replica_name
from ...settings import Settings
from ..bus import DURABILITY, fact
from .check import Check, failed, ok, warning

DEADLINE = 10.0
"""Seconds in which a bus must open and tell what it is; it gives up by itself before that."""


def check_bus(settings: Settings) -> list[Check]:
    """What is at the URL of the settings, as a replica that comes and goes sees it."""
    address = settings.bus.display_url
    try:
        bus = open_bus(settings, replica=f"doctor-{replica_name()}"[:63])
        with _no_log():
            info, seconds = asyncio.run(_look(bus))
    except PlugbusError as error:
        where = "" if address in error.message else f"{address}: "
        return [failed("bus", f"{where}{error.message}", error.fix or "check --bus and PLUGBUS_BUS__URL")]
    except TimeoutError:
        text = f"{address} does not answer within {DEADLINE:g} s"
        return [failed("bus", text, "check that it runs, and --bus and PLUGBUS_BUS__URL")]
    return list(_told(info, seconds, bus.replica))


async def _look(bus: EventBus) -> tuple[BusInfo, float]:
    """What it is, and the seconds that a second question took."""
    try:
        async with asyncio.timeout(DEADLINE):
            await bus.open()
            await bus.info()
            began = time.perf_counter()
            return await bus.info(), time.perf_counter() - began
    finally:
        await bus.close(0)


@contextmanager
def _no_log() -> Iterator[None]:
    """What the bus would log is told as a check."""
    handler, logger = logging.NullHandler(), logging.getLogger("plugbus")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _told(info: BusInfo, seconds: float, me: str) -> Iterator[Check]:
    server = f"{info.server} at " if info.server else ""
    others = [name for name in info.replicas if name != me]
    facts = info.model_dump(mode="json") | {"replicas": others, "answered_in_ms": round(seconds * 1e3, 3)}
    text = f"{server}{info.address}, namespace {info.namespace!r}, answered in {seconds * 1e3:.1f} ms"
    here = f"; replicas: {', '.join(others)}" if others else ""
    if not info.connected:
        yield failed("bus", f"{server}{info.address} was lost again", "run plugbus doctor once more", **facts)
        return
    yield ok("bus", text + here, **facts)
    said = [sentence for sentence in info.warnings if sentence.startswith("durability")]
    if not said:
        yield _durability(info)
    for sentence in info.warnings:
        yield warning("durability" if sentence in said else "bus", sentence)
    if info.details:
        yield ok("bus facts", "; ".join(f"{name}: {fact(value)}" for name, value in info.details.items()))


def _durability(info: BusInfo) -> Check:
    say = warning if info.durability == "weak" else ok
    return say("durability", DURABILITY[info.durability], durability=info.durability)
