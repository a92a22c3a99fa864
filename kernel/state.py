"""The state folder: what a kernel keeps between two starts, and how the command line finds it.

```
lock            held by the kernel that runs on this folder; vanishes with its process
token           the bearer token made at first start, readable by its owner only
endpoint.json   where the gateway listens: {"url": …, "pid": …}
manifests.json  what manifests said, so that only changed ones are read (`manifest_index.py`)
config/         what is set live, a file for each plugin (`configuration/live.py`)
enabled.json    which plugins were enabled and disabled (`enabling.py`)
quarantine.json failed starts, and who is not started any more (`quarantine.py`)
starting        which plugins are being started; left behind by a process that died of it (`start_notes.py`)
lazy.json       what handlers and providers of lazy plugins ask for (`handler_options.py`)
data/<id>/      what plugin <id> keeps
```
"""

import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import IO, NamedTuple, Self

from pydantic import SecretStr

from contracts.errors import SettingsError, StateFolderLocked

from .whole_file import write_whole

FOLDER_NAME = ".plugbus"
_LOCK_TRIES = 10
_LOCK_PAUSE = 0.02
"""Seconds. A client that looks whether a kernel runs holds the lock for a moment; that is no kernel."""


class Endpoint(NamedTuple):
    """Where a running kernel answers."""

    url: str
    pid: int


class StateFolder:
    """One folder of state. Made without touching the disk; only `open` creates and locks it.

    `token`, `endpoint` and `holder` can be read by anybody who may read the folder, opened or not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: IO[str] | None = None

    @classmethod
    def locate(cls, state_dir: Path | None, settings_file: Path | None) -> Self:
        """`state_dir` if it is set, else `.plugbus/` beside the settings file, else the user's own."""
        if state_dir is not None:
            return cls(state_dir)
        if settings_file is not None:
            return cls(settings_file.absolute().parent / FOLDER_NAME)
        from platformdirs import user_state_path

        return cls(user_state_path("plugbus", appauthor=False))

    @property
    def endpoint_file(self) -> Path:
        """What the gateway writes once it listens."""
        return self.path / "endpoint.json"

    def open(self) -> None:
        """Create the folder if need be, and take its lock until `close` or the end of the process.

        Raises `StateFolderLocked` if another kernel holds it, `SettingsError` if it cannot be made.
        """
        try:
            self._create()
            self._lock = self._acquire()
        except OSError as error:
            raise SettingsError(
                f"the state folder cannot be used: {error.strerror or error}",
                where=str(self.path),
                fix="name a folder that you may write: --state-dir FOLDER, or PLUGBUS_STATE_DIR",
            ) from None
        self.endpoint_file.unlink(missing_ok=True)  # of a kernel that was killed

    def close(self) -> None:
        """Give the lock back. Safe twice."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def holder(self) -> int | None:
        """The process id of the kernel that holds the folder (0 if it cannot be told), or None."""
        try:
            file = (self.path / "lock").open("r+", encoding="ascii", errors="replace")
        except FileNotFoundError:
            return None
        with file:
            return None if _try_lock(file) else _pid(file)

    def token(self, configured: SecretStr | None) -> str:
        """The configured token, or the one that was made at first start and is kept since.

        Only the folder's holder makes one.
        """
        if configured is not None:
            return configured.get_secret_value()
        return self.stored_token() or self._make_token()

    def stored_token(self) -> str | None:
        """The token that was made at first start, if there is one."""
        try:
            return (self.path / "token").read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None

    def endpoint(self) -> Endpoint | None:
        """Where the kernel on this folder answers, as far as its gateway has said so."""
        try:
            found = json.loads(self.endpoint_file.read_text(encoding="utf-8"))
            return Endpoint(str(found["url"]), int(found["pid"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # not there yet, or just being written

    def data_dir(self, plugin_id: str) -> Path:
        """The folder of one plugin's own data; made if need be."""
        folder = self.path / "data" / plugin_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _create(self) -> None:
        if self.path.is_dir():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700)
        (self.path / ".gitignore").write_text("*\n", encoding="ascii")  # a token is never committed

    def _acquire(self) -> IO[str]:
        (self.path / "lock").touch(mode=0o600)
        file = (self.path / "lock").open("r+", encoding="ascii", errors="replace")
        for _ in range(_LOCK_TRIES):
            if _try_lock(file):
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                return file
            time.sleep(_LOCK_PAUSE)
        with file:
            pid = _pid(file)
        raise StateFolderLocked(
            f"another kernel{f' (pid {pid})' if pid else ''} runs on this state folder",
            where=str(self.path),
            fix="stop it, or give this one a folder of its own: --state-dir FOLDER",
            pid=pid,
        )

    def _make_token(self) -> str:
        if self._lock is None:
            raise RuntimeError("only a kernel that has opened the state folder makes its token")
        token = secrets.token_urlsafe(32)
        write_whole(self.path / "token", f"{token}\n".encode())  # readable by its owner only
        return token


def _pid(file: IO[str]) -> int:
    file.seek(0)
    text = file.read(20)
    return int(text) if text.isdecimal() else 0


if sys.platform == "win32":
    import msvcrt

    _BYTE = 1 << 20
    """Windows locks bytes, and nobody could read a locked pid; so the byte lies far behind it."""

    def _try_lock(file: IO[str]) -> bool:
        try:
            os.lseek(file.fileno(), _BYTE, os.SEEK_SET)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(file.fileno(), 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _try_lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
