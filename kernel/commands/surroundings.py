"""What the kernel and its bus know of all plugins together, looked up once for one answer."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.bus import ProviderInfo
from contracts.errors import BusError

from ..traffic import Handling, Speech, handlings_here, handlings_of, speech_of, speeches_elsewhere
from .desk import CommandDesk


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Who says and hears what, now."""

    speeches: tuple[Speech, ...]
    """Of plugins that are loaded, here or on other replicas."""
    idle: tuple[Speech, ...]
    """Of plugins that are not: what their manifests say they would do."""
    handlings: tuple[Handling, ...]
    providers: tuple[ProviderInfo, ...]


async def look_around(desk: CommandDesk) -> Surroundings:
    """With a bus that does not answer, as much as this kernel knows by itself."""
    records = list(desk.kernel.registry)
    try:
        handlings = handlings_of(await desk.bus.groups())
    except BusError:
        handlings = handlings_here(records)
    here = [speech_of(record) for record in records]
    elsewhere = speeches_elsewhere(desk.bus.types(), here, handlings)
    loaded = [speech for speech in here if speech.known_from == "code"]
    return Surroundings(
        speeches=(*loaded, *elsewhere),
        idle=tuple(speech for speech in here if speech.known_from == "manifest"),
        handlings=tuple(handlings),
        providers=tuple(desk.bus.providers()),
    )
