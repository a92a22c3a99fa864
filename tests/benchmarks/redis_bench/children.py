"""Further processes of a case: each does as it is told, one line of JSON for an order, one for the answer."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from .load import PATIENCE

SCRIPT = Path(sys.argv[0]).resolve()


class Child:
    """This script once more, in another role. It ends when its input does, so also when we are killed."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._orders, self._answers = process, process.stdin, process.stdout

    @classmethod
    async def start(cls, role: str, job: str, url: str) -> Child:
        """Returns when it is ready for orders."""
        arguments = (str(SCRIPT), f"--{role}", job, "--url", url)
        child = cls(await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=PIPE, stdout=PIPE))
        await child._answer()
        return child

    async def ask(self, order: Any) -> Any:
        self._orders.write(f"{json.dumps(order)}\n".encode())
        return await self._answer()

    async def end(self) -> None:
        self._orders.close()
        if code := await asyncio.wait_for(self._process.wait(), PATIENCE):
            raise RuntimeError(f"a process of the case ended with {code}")

    async def _answer(self) -> Any:
        line = await self._answers.readline()
        if not line:
            raise RuntimeError("a process of the case ended before its time")
        return json.loads(line)


async def serve(carry_out: Callable[[Any], Awaitable[Any]]) -> None:
    """The other end: carry out each order and answer with what that gives."""
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    print("null", flush=True)
    while line := await orders.readline():
        print(json.dumps(await carry_out(json.loads(line))), flush=True)
