"""Files that are written wholly or not at all, and facts that are kept in them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from contracts.errors import PluginStateError
from kernel.testing import Harness
from kernel.whole_file import write_whole
from plugbus import BasePlugin


class Shop(BasePlugin, plugin_id="shop", version="1.0.0", security_level="trusted"):
    """Has nothing to say."""


def test_the_new_takes_the_place_of_the_former(tmp_path: Path) -> None:
    """Readable by its owner only, unless something else is said; nothing else is left in the folder."""
    file = tmp_path / "a.json"
    for content, mode in ((b"1", 0o600), (b"22", 0o644)):
        write_whole(file, content, mode=mode)
        assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (content, mode)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("is_durable", [True, False])
def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, is_durable: bool) -> None:
    (tmp_path / "a.json" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "a.json", b"1", is_durable=is_durable)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def blocked(harness: Harness, name: str) -> Path:
    """A file of the state folder that cannot be written: a folder is in its place."""
    assert harness.manager.state_dir is not None
    place = harness.manager.state_dir / name
    (place / "in the way").mkdir(parents=True)
    return place


async def test_a_decision_that_cannot_be_kept_is_none(harness: Harness) -> None:
    """The plugin is as it was said to be before, and the message says what to do."""
    await harness.load(Shop)
    blocked(harness, "enabled.json")
    with pytest.raises(PluginStateError, match="the decision about 'shop' cannot be kept") as told:
        await harness.manager.kernel.control.disable("shop", "ada")
    assert "make room in the state folder" in told.value.fix
    assert harness.manager.registry.record("shop").enabled


async def test_a_release_that_cannot_be_kept_is_none(harness: Harness) -> None:
    """It is in quarantine still, and not started."""
    await harness.load(Shop)
    control = harness.manager.kernel.control
    await control.quarantine("shop", "it sends too much", "ada")
    assert harness.manager.state_dir is not None
    (harness.manager.state_dir / "quarantine.json").unlink()
    blocked(harness, "quarantine.json")
    with pytest.raises(PluginStateError, match="the release of 'shop' cannot be kept"):
        await control.release("shop", "ada")
    with pytest.raises(PluginStateError, match="in quarantine"):
        await control.start("shop", "test")


async def test_a_quarantine_that_cannot_be_kept_holds_all_the_same(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """For as long as the kernel runs; the log says that it is not kept, and why."""
    await harness.load(Shop)
    blocked(harness, "quarantine.json")
    control = harness.manager.kernel.control
    await control.quarantine("shop", "it sends too much", "ada")
    with pytest.raises(PluginStateError, match="it sends too much"):
        await control.start("shop", "test")
    [line] = [record for record in caplog.records if "is not kept" in record.getMessage()]
    assert line.getMessage().startswith("the quarantine of shop is not kept: ")
    assert line.exc_info is None
