"""What happened, and whether it may: a history of publishes and handler starts, and the judgement on it.

Pure: no bus, no event loop, no clock. Records are plain data and one JSON line each, so that histories
which several processes wrote can be merged and judged together. The standard library is all it needs: a
process of another installation may load this one file and write along.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

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


class Record(NamedTuple):
    """One line of a history. Fields that a kind does not need are left empty.

    The fields that most kinds need come first: a line ends after the last one that is not empty.
    """

    kind: Kind
    at: float
    """Seconds; any clock that all writers share."""
    run: str = ""
    how: How = ""
    source: str = ""
    id: str = ""
    group: str = ""
    replica: str = ""
    type: str = ""
    key: str | None = None
    digest: str = ""
    """Of what must arrive as it was published; see `digest_of`."""
    attempt: int = 0
    note: str = ""

    @property
    def name(self) -> Name:
        return self.source, self.id

    def line(self) -> str:
        """As a JSON array, without what is empty at its end."""
        fields = list(self)
        while fields[-1] in ("", None, 0):
            fields.pop()
        return _encode(fields)

    @classmethod
    def read(cls, line: str) -> Record:
        return cls(*_decode(line)[0])

    def __str__(self) -> str:
        words = [f"{self.at:12.4f} {self.kind:<9}", self.id, self.type]
        words += [f"key={self.key}" if self.key is not None else "", self.group]
        words += [f"@{self.replica}" if self.replica else "", f"run={self.run}" if self.run else ""]
        words += [f"attempt={self.attempt}" if self.attempt else "", self.how, self.note]
        return " ".join(word for word in words if word)


_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().raw_decode  # a third faster than `loads`: a line begins with its value


def digest_of(data: str | bytes, **attributes: Any) -> str:
    """Short fingerprint of an event's data (JSON, whatever its layout; else as it is) and attributes."""
    text = data.decode(errors="replace") if isinstance(data, bytes) else data
    with contextlib.suppress(ValueError):  # what is no JSON is compared as it is
        text = json.dumps(json.loads(text), sort_keys=True)
    whole = json.dumps([text, attributes], sort_keys=True, default=str)
    return hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()


class Writer:
    """Takes down what happens."""

    def __init__(self) -> None:
        self._runs = itertools.count(1)

    def add(self, kind: Kind, at: float, **fields: Any) -> Record:
        record = Record(kind, at, **fields)
        self.write(record)
        return record

    def write(self, record: Record) -> None:
        raise NotImplementedError

    def next_run(self, replica: str) -> str:
        return f"{replica}/{next(self._runs)}"


class History(Writer):
    """Records in the order in which they happened."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        super().__init__()
        self.records = list(records)

    def write(self, record: Record) -> None:
        self.records.append(record)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def lines(self) -> Iterator[str]:
        return (record.line() for record in self.records)

    def save(self, path: Path) -> None:
        path.write_text("".join(f"{line}\n" for line in self.lines()), encoding="utf-8")

    @classmethod
    def load(cls, *paths: Path) -> History:
        """Merge what several processes wrote. A torn last line (a process that was killed) is left out."""
        return cls(Journals(paths))


class Journal(Writer):
    """The history of one process, in a file: what was added is not lost by `kill -9` of its writer.

    Nothing is buffered in the process. A record is with the operating system before `add` returns, so
    whoever adds first and acts then has done nothing that is not on file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, record: Record) -> None:
        rest = memoryview(f"{record.line()}\n".encode())
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def close(self) -> None:
        os.close(self._file)


class Journals:
    """What several processes wrote, merged by time as it is read: as often as wanted, never all at once.

    Each file must be in the order of its own time, as a process with one clock and one thread writes it.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)

    def __iter__(self) -> Iterator[Record]:
        return heapq.merge(*(_read(path) for path in self._paths), key=_at)


def _at(record: Record) -> float:
    return record.at


def _read(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line[-1] == "\n" and line != "\n":
                yield Record.read(line)
