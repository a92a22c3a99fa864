"""The processes of a run: started, killed, stopped, and never left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FAULTS = Path(__file__).resolve().parents[1]
"""Where the processes run, so that they find this package."""
GRACE = 30.0
"""Seconds in which a process ends that was asked to."""
SHOWN = 3_000
"""Characters of what a process said that are shown when it failed."""


class RunFailed(Exception):
    """The run could not be carried out: a process ended by itself, or would not end."""


class Child:
    """A process that ends when its standard input does: with ours, then, whatever becomes of us."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.journal = folder / f"{name}.journal"
        self._said = folder / f"{name}.said"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(  # noqa: S603 - the interpreter, with our own module
                command, stdin=subprocess.PIPE, stdout=said, stderr=said, cwd=FAULTS
            )

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone. Safe when it has ended."""
        self._process.kill()
        self._wait()

    def stop(self) -> None:
        """Ask it to end, and wait for that. Raises `RunFailed` if it does not, or not well."""
        self._end_input()
        self._wait()
        self.check()

    def check(self) -> bool:
        """Whether it has ended as it should; False: it runs. Raises `RunFailed` with what it said."""
        code = self._process.poll()
        if code:
            said = self._said.read_text(errors="replace")[-SHOWN:]
            raise RunFailed(f"{self.name} ended with {code}:\n{said}")
        return code == 0

    def _wait(self) -> None:
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise RunFailed(f"{self.name} did not end in {GRACE:.0f} s") from None
        finally:
            self._end_input()

    def _end_input(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


def module(name: str, *words: str, python: Path | str = sys.executable) -> list[str]:
    """The command that runs a module of this package."""
    return [str(python), "-m", f"long_run.{name}", *words]
