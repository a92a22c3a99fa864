"""Which plugins are being started, noted where the next kernel finds it if the process dies of one.

`starting` in the state folder is there only while something is being started: a line when a start begins, one
when it has ended. Nothing waits for the disk: the notes must outlive the process, not the machine.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BEGUN, ENDED = "+", "-"


class StartNotes:
    """Kept by one kernel; read by the next one if there are any left."""

    def __init__(self, state: Path, log: logging.Logger) -> None:
        self._file = state / "starting"
        self._log = log
        self._under_way: set[str] = set()
        self._open: int | None = None
        """The file, while something is being started: a wave of a hundred plugins opens it once."""
        self._is_kept = True
        """Whether they could be written; where not, that is told once."""

    def left(self) -> tuple[str, ...]:
        """Plugins whose start an earlier process did not survive, or did not end; told once."""
        try:
            lines = self._file.read_text("utf-8", "replace").splitlines()
            self._file.unlink()
        except FileNotFoundError:
            return ()
        except OSError as error:
            self._tell(error)
            return ()
        begun: dict[str, None] = {}
        for line in lines:
            if line.startswith(BEGUN):
                begun[line[1:]] = None
            elif line.startswith(ENDED):
                begun.pop(line[1:], None)
        return tuple(begun)

    @contextmanager
    def noted(self, plugin_id: str) -> Iterator[None]:
        """That it is being started, as long as the body runs."""
        self._under_way.add(plugin_id)
        self._write(BEGUN, plugin_id)
        try:
            yield
        finally:
            self._under_way.discard(plugin_id)
            self._write(ENDED, plugin_id)
            if not self._under_way:
                self._remove()

    def _write(self, what: str, plugin_id: str) -> None:
        try:
            if self._open is None:
                self._open = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(self._open, f"{what}{plugin_id}\n".encode())
        except OSError as error:
            self._tell(error)

    def _remove(self) -> None:
        """Nothing is being started any more."""
        opened, self._open = self._open, None
        if opened is not None:
            os.close(opened)
            with suppress(OSError):  # what it says has ended all the same
                self._file.unlink()

    def _tell(self, error: OSError) -> None:
        if self._is_kept:
            self._is_kept = False
            self._log.error("it is not noted which plugins are being started: %s", error)
