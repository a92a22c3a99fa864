"""Samples of this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from contracts.errors import SettingsError
from contracts.event import dump_event
from plugins.host_monitor import Disk, HostMonitor, HostSampled
from plugins.host_monitor.host_monitor import read_disks

GIB = 1 << 30


@pytest.fixture
async def monitor(set_up: Callable[..., Any]) -> Any:
    plugin = set_up(HostMonitor, interval=2.5)
    await plugin.start()
    return plugin


async def test_a_sample_is_published_at_each_turn(monitor: Any) -> None:
    """The plugin has a turn at each interval; each publishes one sample with the host as key."""
    [(interval, turn)] = monitor.context.timers
    assert interval == 2.5
    await turn()
    await turn()
    published = list(monitor.context.published.values())
    assert [key for _, key in published] == [socket.gethostname()] * 2
    assert all(isinstance(event, HostSampled) for event, _ in published)


async def test_a_sample_tells_of_this_machine(monitor: Any) -> None:
    """The figures lie where those of a real machine lie, and survive the way over JSON."""
    await monitor.sample()
    [sample] = monitor.context.events
    assert sample.cpus == psutil.cpu_count()
    assert min(sample.load_1, sample.load_5, sample.load_15) >= 0
    assert 0 <= sample.cpu_percent <= 100
    assert 0 < sample.memory_percent <= 100
    assert 0 < sample.memory_available_bytes <= psutil.virtual_memory().total
    assert sample.disks[0].mount == Path.cwd().anchor
    assert HostSampled.model_validate_json(dump_event(sample)) == sample


def test_a_sample_can_be_shared_by_all_handlers() -> None:
    """It is immutable to the bottom, so the bus hands over the object itself."""
    assert HostSampled.__event_immutable__


def test_the_configuration_from_the_manifest_is_valid(set_up: Callable[..., Any]) -> None:
    """Without any setting a sample comes every five seconds."""
    assert set_up(HostMonitor).context.config == {"interval": 5.0}


@pytest.mark.parametrize("interval", [0, -1, "often", None])
async def test_an_interval_that_is_none_is_refused(set_up: Callable[..., Any], interval: Any) -> None:
    """The error names the key."""
    with pytest.raises(SettingsError, match="interval"):
        await set_up(HostMonitor, interval=interval).start()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Gives this machine other disks: mount name → device, options and how full it is (None: unreadable)."""

    def pretend(**disks: tuple[str, str, float | None]) -> dict[str, str]:
        places = {name: str(tmp_path / name) for name in disks}
        full = {places[name]: percent for name, (_, _, percent) in disks.items()}

        def usage(path: str) -> SimpleNamespace:
            percent = full.get(path, 10.0)
            if percent is None:
                raise OSError(5, "Input/output error", path)
            return SimpleNamespace(percent=percent, free=GIB)

        for place in places.values():
            Path(place).mkdir()
        partitions = [
            SimpleNamespace(device=device, mountpoint=places[name], opts=options)
            for name, (device, options, _) in disks.items()
        ]
        monkeypatch.setattr(psutil, "disk_partitions", lambda: partitions)
        monkeypatch.setattr(psutil, "disk_usage", usage)
        return places

    return pretend


def test_each_writable_disk_is_told_once(machine: Callable[..., dict[str, str]]) -> None:
    """What is read-only is always full, and one device may be mounted at many places."""
    places = machine(
        data=("/dev/b", "rw,relatime", 42.0),
        again=("/dev/b", "rw,bind", 42.0),
        image=("/dev/loop1", "ro,nodev", 100.0),
    )
    root = Disk(mount=Path.cwd().anchor, percent=10.0, free_bytes=GIB)
    assert read_disks() == (root, Disk(mount=places["data"], percent=42.0, free_bytes=GIB))


def test_a_disk_that_cannot_be_read_is_left_out(machine: Callable[..., dict[str, str]]) -> None:
    """A broken disk does not hide the others."""
    places = machine(broken=("/dev/c", "rw", None), data=("/dev/b", "rw", 1.0))
    assert [disk.mount for disk in read_disks()] == [Path.cwd().anchor, places["data"]]


def test_a_file_that_is_mounted_is_no_disk(machine: Callable[..., dict[str, str]]) -> None:
    """Containers mount single files, which would each count as a disk."""
    places = machine(hosts=("/dev/b", "rw", 5.0))
    Path(places["hosts"]).rmdir()
    Path(places["hosts"]).touch()
    assert [disk.mount for disk in read_disks()] == [Path.cwd().anchor]
