"""Writes down what one process does, before it does it. The same in every system's environment."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from bus.conformance import history

HISTORY = Path(__file__).resolve().parents[3] / "bus" / "conformance" / "history.py"


def _load() -> Any:
    """`bus.conformance.history` by its file: its package needs what another environment does not have."""
    spec = importlib.util.spec_from_file_location("long_run_history", HISTORY)
    if spec is None or spec.loader is None:
        raise ImportError(f"{HISTORY} is not there")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_history = _load()


def now() -> float:
    """Microseconds of the clock that all processes of this machine share."""
    return round(time.monotonic(), 6)


class Witness:
    """The journal of one process."""

    def __init__(self, path: Path, replica: str = "") -> None:
        self.journal = cast("history.Journal", _history.Journal(path))
        self.replica = replica

    def invoked(self, source: str, id: str, type: str, key: str, data: str | bytes) -> None:
        digest = _history.digest_of(data, key=key)
        self.journal.add("invoked", now(), source=source, id=id, type=type, key=key, digest=digest)

    def published(self, kind: history.Kind, source: str, id: str, note: str = "") -> None:
        """How a publish ended: `confirmed`, `refused`, `unknown`."""
        self.journal.add(kind, now(), source=source, id=id, note=note)

    @contextlib.contextmanager
    def attempt(
        self, group: str, source: str, id: str, type: str, key: str, data: str | bytes, number: int = 0
    ) -> Iterator[None]:
        """A handler at work: on file before it does anything, and again when it has done it."""
        run = self.journal.next_run(self.replica)
        self.journal.add(
            "started", now(), run=run, source=source, id=id, group=group, replica=self.replica, type=type,
            key=key, digest=_history.digest_of(data, key=key), attempt=number,
        )  # fmt: skip
        how: history.How = "cancelled"
        try:
            yield
            how = "returned"
        except Exception:
            how = "failed"
            raise
        finally:
            self.journal.add("ended", now(), run=run, how=how)

    def gone(self, replica: str) -> float:
        """It is dead; when that was noticed."""
        return self.journal.add("gone", now(), replica=replica).at

    def back(self, replica: str) -> float:
        return self.journal.add("back", now(), replica=replica).at

    def given_up(self, group: str, source: str, id: str, reason: str) -> None:
        self.journal.add("given_up", now(), source=source, id=id, group=group, note=reason)
