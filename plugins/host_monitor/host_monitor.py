"""Samples of this machine: a plugin that publishes on its own, at intervals.

One `host.sampled` at once and then one each `interval` seconds, with the host's name as key.
"""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
from pydantic import BaseModel, Field

from plugbus import BasePlugin, Event


class Disk(BaseModel, frozen=True):
    """One disk that can be written to."""

    mount: str
    percent: float
    """Used, of what may be used."""
    free_bytes: int


class HostSampled(Event, type="host.sampled"):
    """How busy and how full a machine was at one moment."""

    host: str
    cpus: int
    """Logical processors."""
    load_1: float
    """Average over one minute of how many processes ran or waited to run."""
    load_5: float
    load_15: float
    cpu_percent: float
    """Of all processors together, since the sample before."""
    memory_percent: float
    memory_available_bytes: int
    disks: tuple[Disk, ...]


class Settings(BaseModel, extra="forbid"):
    """The plugin's configuration."""

    interval: float = Field(gt=0)


class HostMonitor(BasePlugin):
    """Samples this machine's load, memory and disks."""

    async def start(self) -> None:
        settings = self.read_config(Settings)
        self.context.every(settings.interval, self.sample)

    async def sample(self) -> None:
        disks = await asyncio.to_thread(read_disks)  # a disk may take its time; the rest does not block
        sample = measure(disks)
        await self.context.publish(sample, key=sample.host)


def measure(disks: tuple[Disk, ...]) -> HostSampled:
    """How this machine is now."""
    load_1, load_5, load_15 = psutil.getloadavg()
    memory = psutil.virtual_memory()
    return HostSampled(
        host=socket.gethostname(),
        cpus=psutil.cpu_count() or 1,
        load_1=load_1,
        load_5=load_5,
        load_15=load_15,
        cpu_percent=psutil.cpu_percent(),
        memory_percent=memory.percent,
        memory_available_bytes=memory.available,
        disks=disks,
    )


def read_disks() -> tuple[Disk, ...]:
    """The root and every disk that is mounted for writing, each device once. Blocks."""
    return tuple(disk for mount in _mounts() if (disk := _read(mount)) is not None)


def _mounts() -> Iterator[str]:
    yield (root := Path.cwd().anchor)
    seen = set[str]()
    for partition in psutil.disk_partitions():  # physical ones: a network share that is gone never answers
        known = partition.device in seen or partition.mountpoint == root
        seen.add(partition.device)
        if not known and "rw" in partition.opts.split(",") and Path(partition.mountpoint).is_dir():
            yield partition.mountpoint


def _read(mount: str) -> Disk | None:
    try:
        usage = psutil.disk_usage(mount)
    except OSError:  # taken out, or not for us to look at
        return None
    return Disk(mount=mount, percent=usage.percent, free_bytes=usage.free)
