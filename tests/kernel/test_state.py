"""The state folder: one kernel at a time, one token, readable by the command line."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from contracts.errors import SettingsError, StateFolderLocked
from kernel.state import Endpoint, StateFolder

_HOLD = """
import sys
from pathlib import Path
from kernel.state import StateFolder
folder = StateFolder(Path(sys.argv[1]))
folder.open()
print("held", flush=True)
sys.stdin.read()
"""

# Windows knows no modes: there a file is guarded by the access list that it inherits from its folder.
OWNERS_FOLDER, OWNERS_FILE, OPEN_FOLDER = (
    (0o700, 0o600, 0o755) if os.name == "posix" else (0o777, 0o666, 0o777)
)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    """Readable by nobody else, with a `.gitignore` so that nothing of it is ever committed."""
    folder = StateFolder(tmp_path / "a" / "state")
    folder.open()
    assert _mode(folder.path) == OWNERS_FOLDER
    assert (folder.path / ".gitignore").read_text() == "*\n"
    folder.close()


def test_a_second_kernel_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    """The error names the folder, the process that holds it, and what to do."""
    first, second = StateFolder(tmp_path / "state"), StateFolder(tmp_path / "state")
    first.open()
    with pytest.raises(StateFolderLocked) as caught:
        second.open()
    assert str(os.getpid()) in caught.value.message
    assert caught.value.where == str(tmp_path / "state")
    assert "--state-dir" in caught.value.fix
    first.close()
    second.open()
    second.close()


def test_the_lock_vanishes_with_a_killed_process(tmp_path: Path) -> None:
    """`kill -9` leaves nothing to clean up: the next kernel opens the folder, and forgets the old address."""
    folder = StateFolder(tmp_path)
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert folder.holder() == other.pid
        (tmp_path / "endpoint.json").write_text('{"url": "http://127.0.0.1:1", "pid": 1}')
        other.kill()
        other.wait()
    assert folder.holder() is None
    folder.open()
    assert folder.endpoint() is None
    folder.close()


def test_looking_who_holds_a_folder_takes_nothing(tmp_path: Path) -> None:
    """`holder` is None before, between and after; it neither creates nor locks."""
    watcher, kernel = StateFolder(tmp_path / "state"), StateFolder(tmp_path / "state")
    assert watcher.holder() is None
    assert not watcher.path.exists()
    kernel.open()
    assert watcher.holder() == os.getpid()
    kernel.close()
    kernel.close()
    assert watcher.holder() is None


def test_the_token_is_made_once_and_kept(tmp_path: Path) -> None:
    """The first start makes it; every later start and the command line read the same one."""
    folder = StateFolder(tmp_path / "state")
    folder.open()
    token = folder.token(None)
    assert len(token) >= 40
    assert folder.token(None) == token
    folder.close()
    assert StateFolder(tmp_path / "state").stored_token() == token
    assert sorted(path.name for path in folder.path.iterdir()) == [".gitignore", "lock", "token"]


def test_the_token_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    """In a folder that others may enter too."""
    tmp_path.chmod(0o755)
    folder = StateFolder(tmp_path)
    folder.open()
    folder.token(None)
    assert _mode(tmp_path / "token") == OWNERS_FILE
    assert _mode(tmp_path) == OPEN_FOLDER
    folder.close()


def test_a_configured_token_wins_and_is_not_stored(tmp_path: Path) -> None:
    """What the operator configured stays in his configuration."""
    folder = StateFolder(tmp_path)
    folder.open()
    assert folder.token(SecretStr("configured")) == "configured"
    assert folder.stored_token() is None
    folder.close()


def test_only_the_holder_makes_a_token(tmp_path: Path) -> None:
    """A client that reads a fresh folder must not leave a token there."""
    with pytest.raises(RuntimeError):
        StateFolder(tmp_path).token(None)


def test_an_empty_token_file_is_replaced(tmp_path: Path) -> None:
    """A full disk once left nothing in it; an empty token would let everybody in."""
    (tmp_path / "token").write_text("\n")
    folder = StateFolder(tmp_path)
    folder.open()
    assert folder.token(None)
    folder.close()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 1}', '{"url": "u", "pid": "x"}'])
def test_an_endpoint_that_is_not_whole_is_none(tmp_path: Path, text: str) -> None:
    """It is being written, or was cut off."""
    (tmp_path / "endpoint.json").write_text(text)
    assert StateFolder(tmp_path).endpoint() is None


def test_the_endpoint_is_what_the_gateway_wrote(tmp_path: Path) -> None:
    """URL and process id."""
    assert StateFolder(tmp_path).endpoint() is None
    StateFolder(tmp_path).endpoint_file.write_text(json.dumps({"url": "http://127.0.0.1:8000", "pid": 7}))
    assert StateFolder(tmp_path).endpoint() == Endpoint("http://127.0.0.1:8000", 7)


def test_each_plugin_has_a_data_folder(tmp_path: Path) -> None:
    """Made when first asked for."""
    folder = StateFolder(tmp_path).data_dir("audit")
    assert folder == tmp_path / "data" / "audit"
    assert folder.is_dir()


def test_a_folder_that_cannot_be_made_is_refused_with_its_name(tmp_path: Path) -> None:
    """A file in the way is a wrong setting, not a crash."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError) as caught:
        StateFolder(tmp_path / "file" / "state").open()
    assert caught.value.where == str(tmp_path / "file" / "state")


def test_where_the_folder_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As set, else beside the settings file, else the user's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    file = tmp_path / "plugbus.toml"
    assert StateFolder.locate(tmp_path / "mine", file).path == tmp_path / "mine"
    assert StateFolder.locate(None, file).path == tmp_path / ".plugbus"
    assert "plugbus" in StateFolder.locate(None, None).path.parts
    assert not (tmp_path / ".plugbus").exists()
