"""What the processes of every system share: their words, and the end that the conductor gives them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import NamedTuple

from .plan import Plan


class Words(NamedTuple):
    """Arguments of a process: what it is, its name or number, the server, where to write, the plan."""

    role: str
    name: str
    url: str
    folder: Path
    plan: Plan

    @classmethod
    def read(cls) -> Words:
        role, name, url, folder, plan = sys.argv[1:]
        return cls(role, name, url, Path(folder), Plan.read(plan))

    def line(self) -> list[str]:
        return [self.role, self.name, self.url, str(self.folder), self.plan.as_json()]

    @property
    def journal(self) -> Path:
        name = f"publisher{self.name}" if self.role == "publisher" else self.name
        return self.folder / f"{name}.journal"


async def told_to_stop() -> None:
    """Returns when standard input ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        await reader.read()
    finally:
        transport.close()
