"""What happened, and whether it may: a history of publishes and handler starts, and the judgement on it.

Pure: no bus, no event loop, no clock. Records are plain data and one JSON line each, so that histories
which several processes wrote can be merged and judged together.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal[
    "invoked", "confirmed", "refused", "unknown", "started", "ended", "given_up", "gone", "back", "again"
]
"""`invoked`: a publish began; it ended `confirmed`, `refused` (certainly not taken) or `unknown`.

`started`, `ended`: an attempt of a handler, under a run number of its own; `how` tells the end.
`given_up`: dead, discarded, expired or dropped for a group. `gone`, `back`: a replica crashed or was
suspended, and woke: what ran on it is no longer its own, and it may start nothing meanwhile. `again`:
an operator has asked for the event once more (redrive, replay), so it may start again, out of order.
"""
How = Literal["", "returned", "failed", "cancelled"]
Name = tuple[str, str]
"""(source, id): what an event is known by."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a history. Fields that a kind does not need are left empty."""

    kind: Kind
    at: float
    """Seconds; any clock that all writers share."""
    source: str = ""
    id: str = ""
    type: str = ""
    key: str | None = None
    digest: str = ""
    """Of what must arrive as it was published; see `digest_of`."""
    group: str = ""
    replica: str = ""
    run: str = ""
    attempt: int = 0
    how: How = ""
    note: str = ""

    @property
    def name(self) -> Name:
        return self.source, self.id

    def line(self) -> str:
        """As JSON, without what is empty."""
        return json.dumps({name: value for name, value in asdict(self).items() if value not in ("", None)})

    @classmethod
    def read(cls, line: str) -> Record:
        return cls(**json.loads(line))

    def __str__(self) -> str:
        words = [f"{self.at:12.4f} {self.kind:<9}", self.id, self.type]
        words += [f"key={self.key}" if self.key is not None else "", self.group]
        words += [f"@{self.replica}" if self.replica else "", f"run={self.run}" if self.run else ""]
        words += [f"attempt={self.attempt}" if self.attempt else "", self.how, self.note]
        return " ".join(word for word in words if word)


def digest_of(data: str | bytes, **attributes: Any) -> str:
    """Short fingerprint of an event's data (JSON, whatever its layout; else as it is) and attributes."""
    text = data.decode(errors="replace") if isinstance(data, bytes) else data
    with contextlib.suppress(ValueError):  # what is no JSON is compared as it is
        text = json.dumps(json.loads(text), sort_keys=True)
    whole = json.dumps([text, attributes], sort_keys=True, default=str)
    return hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()


class History:
    """Records in the order in which they happened."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.records = list(records)
        self._runs = itertools.count(1)

    def add(self, kind: Kind, at: float, **fields: Any) -> Record:
        record = Record(kind, at, **fields)
        self.records.append(record)
        return record

    def next_run(self, replica: str) -> str:
        return f"{replica}/{next(self._runs)}"

    def lines(self) -> Iterator[str]:
        return (record.line() for record in self.records)

    def save(self, path: Path) -> None:
        path.write_text("".join(f"{line}\n" for line in self.lines()), encoding="utf-8")

    @classmethod
    def load(cls, *paths: Path) -> History:
        """Merge what several processes wrote. A torn last line (a process that was killed) is left out."""
        records = [record for path in paths for record in _read(path)]
        return cls(sorted(records, key=lambda record: record.at))


def _read(path: Path) -> Iterator[Record]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return (Record.read(line) for line in lines[:-1] if line)
