"""The index of manifests: saves reading, never tells what is not so any more."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernel import PluginManager, manifest_index
from kernel.candidates import look_at
from kernel.discovery import Discovery, PluginDiscovery
from kernel.manifest_index import ManifestIndex
from kernel.settings import load_settings

MANIFEST = 'plugin_id = "{0}"\nversion = "{1}"\nentry_point = "{0}:Plugin"\npublishes = ["{0}.raised"]\n'
LOG = logging.getLogger("test.index")

Look = Callable[..., Discovery]


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A folder with a plugin in a folder and one in a file."""
    folder = tmp_path / "plugins"
    (folder / "alerts").mkdir(parents=True)
    (folder / "alerts/plugin.toml").write_text(MANIFEST.format("alerts", "1"))
    (folder / "alerts/alerts.py").write_text("x = 1")
    (folder / "one.py").write_text('class One(BasePlugin, plugin_id="one", version="1"): ...')
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "manifests.json"


@pytest.fixture
def look(plugins: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Look around as a start does: a fresh index each time. Files are old enough from the first moment."""
    monkeypatch.setattr(manifest_index, "TICK", -(10**12))

    def look(version: str = "1", source: str = "") -> Discovery:
        index = ManifestIndex(file, version, LOG)
        found = PluginDiscovery(index).discover_from_directory(plugins, source)
        index.save()
        return found

    return look


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was looked at and not taken from the index."""
    names: list[str] = []

    def noted(path: Path, source: str, *, is_marked: bool = False) -> object:
        names.append(path.name)
        return look_at(path, source, is_marked=is_marked)

    monkeypatch.setattr("kernel.discovery.look_at", noted)
    return names


def next_tick(probe: Path, after: int) -> None:
    """Return once the clock of the file system tells another time than `after`."""
    while True:
        probe.write_text("")
        if probe.stat().st_ctime_ns > after:
            return


def versions(found: Discovery) -> dict[str, str]:
    return {one.plugin_id: one.metadata.version for one in found.found}


def test_what_has_not_changed_is_not_read_again(look: Look, read: list[str]) -> None:
    """The second look tells exactly what the first one told, from the index alone."""
    first = look()
    assert read == ["alerts", "one.py"]
    second = look()
    assert read == ["alerts", "one.py"]
    assert second == first
    assert [one.metadata.model_fields_set for one in second.found] == [
        one.metadata.model_fields_set for one in first.found
    ]
    assert [one.code for one in second.found] == [one.code for one in first.found]


def another(manifest: Path) -> Path:
    """A file of the same size and time, with another inode."""
    fresh, status = manifest.with_name("fresh"), manifest.stat()
    fresh.write_text(MANIFEST.format("alerts", "2"))
    os.utime(fresh, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fresh.stat().st_size == status.st_size
    return fresh


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda folder: (folder / "plugin.toml").write_text(MANIFEST.format("alerts", "22")),
    "same size": lambda folder: (folder / "plugin.toml").write_text(MANIFEST.format("alerts", "2")),
    "a new file": lambda folder: (folder / "more.py").write_text(""),
    "a new folder": lambda folder: shutil.copytree(folder, folder / "sub"),
    "a file gone": lambda folder: (folder / "alerts.py").unlink(),
    "renamed over": lambda folder: (folder / "new").rename(folder / "alerts.py"),
    "another manifest": lambda folder: another(folder / "plugin.toml").replace(folder / "plugin.toml"),
    "rights": lambda folder: (folder / "alerts.py").chmod(0o600),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(look: Look, read: list[str], plugins: Path, change: str) -> None:
    """Content, names and rights; times that are set back to what they were help nobody."""
    folder = plugins / "alerts"
    (folder / "new").write_text("x = 2")
    look()
    before = {file: file.stat() for file in (folder, *folder.iterdir())}
    next_tick(plugins.parent / "clock", max(status.st_ctime_ns for status in before.values()))
    CHANGES[change](folder)
    for file, status in before.items():
        if file.exists():
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    read.clear()
    found = look()
    assert read[0] == "alerts"
    anew = PluginDiscovery().discover_from_directory(plugins)
    assert found.found == anew.found
    assert [str(one.error) for one in found.refused] == [str(one.error) for one in anew.refused]


def test_what_was_saved_just_now_is_read_again(
    look: Look, read: list[str], plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It might be saved again within one tick of the clock, at the same size, and nobody could tell."""
    monkeypatch.setattr(manifest_index, "TICK", 2_000_000_000)
    manifest = plugins / "alerts/plugin.toml"
    look()
    for version in ("2", "3", "4"):
        manifest.write_text(MANIFEST.format("alerts", version))
        assert versions(look())["alerts"] == version
    now = time.time_ns()
    monkeypatch.setattr(manifest_index, "now", lambda: now + 2_100_000_000)
    monkeypatch.setattr("kernel.discovery.now", lambda: now + 2_100_000_000)
    look()
    read.clear()
    look()
    assert read == []


def test_another_version_or_source_reads_anew(look: Look, read: list[str]) -> None:
    """What another Plugbus has read, or what was found by another way, is no answer."""
    look()
    look(version="2")
    look(version="2", source="elsewhere")
    assert read == ["alerts", "one.py"] * 3


def test_links_are_always_followed_anew(look: Look, read: list[str], plugins: Path, tmp_path: Path) -> None:
    """What a link leads to can change without any trace in the plugin's folder."""
    (tmp_path / "elsewhere.py").write_text("")
    (plugins / "alerts/linked.py").symlink_to(tmp_path / "elsewhere.py")
    look()
    look()
    assert read == ["alerts", "one.py", "alerts"]


def test_names_that_are_no_text_are_read_each_time(look: Look, read: list[str], plugins: Path) -> None:
    """Names of files may be any bytes; JSON cannot hold them, and a start goes on without."""
    (plugins / "alerts" / os.fsdecode(b"caf\xe9.txt")).write_text("")
    assert versions(look()) == {"alerts": "1", "one": "1"}
    assert versions(look()) == {"alerts": "1", "one": "1"}
    assert read == ["alerts", "one.py", "alerts"]


def test_what_is_gone_is_forgotten(look: Look, plugins: Path, file: Path) -> None:
    """The index does not grow with plugins that were."""
    look()
    (plugins / "one.py").unlink()
    look()
    assert len(json.loads(file.read_bytes())[1]) == 1


FORGED = {
    "no id": (b'"plugin_id":"one"', b'"plugin_id":"../x"'),
    "no pattern": (b'"publishes":["alerts.raised"]', b'"publishes":["*"]'),
    "no class": (b'"alerts:Plugin"', b'"../../x:Evil"'),
}


@pytest.mark.parametrize(
    "change", ["nothing", "half", "other", "no id", "no pattern", "no class", "writable", "link", "folder"]
)
def test_an_unfit_index_is_thrown_away(
    look: Look, read: list[str], plugins: Path, file: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    """What is torn, invalid, or can be anybody's is not believed; the log says so, and it is made anew."""
    caplog.set_level(logging.INFO)
    first = look()
    content = file.read_bytes()
    if change == "nothing":
        file.write_bytes(b"")
    elif change == "half":
        file.write_bytes(content[: len(content) // 2])
    elif change == "other":
        file.write_bytes(b'[1, {"x": null}]')
    elif change in FORGED:
        file.write_bytes(content.replace(*FORGED[change]))
        assert file.read_bytes() != content
    elif change == "writable":
        file.chmod(0o666)
    elif change == "link":
        file.rename(file.with_name("other"))
        file.symlink_to(file.with_name("other"))
    else:
        file.unlink()
        file.mkdir()
    read.clear()
    assert look() == first
    assert read == ["alerts", "one.py"]
    assert "index of manifests is read anew" in caplog.text
    if change != "folder":
        assert look() == first
        assert read == ["alerts", "one.py"]
    assert not list(file.parent.glob(f"{file.name}.*"))


def test_an_index_that_cannot_be_written_costs_nothing_but_time(
    look: Look, file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk does not keep a kernel from starting."""
    caplog.set_level(logging.INFO)

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kernel.whole_file.tempfile.mkstemp", full)
    assert versions(look()) == {"alerts": "1", "one": "1"}
    assert "cannot be written: [Errno 28] No space left on device" in caplog.text
    assert not file.exists()


def test_two_that_write_at_once_leave_a_whole_index(look: Look, read: list[str], file: Path) -> None:
    """Each is written beside and put in place in one step."""
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: look(version=str(number % 2)), range(32)))
    assert all(one == found[0] for one in found)
    version = json.loads(file.read_bytes())[0].split()[-1]
    read.clear()
    look(version=version)
    assert read == []


async def test_a_kernel_keeps_the_index_in_its_state_folder(
    plugins: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second start on a state folder reads only what has changed."""
    monkeypatch.setattr(manifest_index, "TICK", -(10**12))
    environ = {
        "PLUGBUS_STATE_DIR": str(tmp_path / "state"),
        "PLUGBUS_PLUGIN_PATHS": json.dumps([str(plugins)]),
    }
    for _ in range(2):
        read.clear()
        async with PluginManager(load_settings(environ=environ), profile="embedded") as manager:
            assert {"alerts", "one"} <= {info.plugin_id for info in manager.plugins()}
    assert not {"alerts", "one.py", "gateway"} & set(read)
    assert (tmp_path / "state/manifests.json").stat().st_mode & 0o777 == 0o600
