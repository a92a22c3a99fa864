"""Where the code of the bus stood when a crash hit it, and where it can stand."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import bus

ROOM = Path(bus.__file__).resolve().parent
Point = tuple[str, str]
"""File and function of the bus, where it waits."""


def points_of(tasks: Iterable[Any]) -> Iterator[Point]:
    """Where these tasks wait, as far as it is in code of the bus."""
    for task in tasks:
        coroutine = task.get_coro()
        while coroutine is not None:
            frame = getattr(coroutine, "cr_frame", None)
            if frame is not None and Path(frame.f_code.co_filename).parent == ROOM:
                yield Path(frame.f_code.co_filename).name, f"{frame.f_code.co_name}:{frame.f_lineno}"
            coroutine = getattr(coroutine, "cr_await", None)


def awaits_in(file: str) -> set[Point]:
    """Every await in a file of the bus."""
    found: set[Point] = set()
    for function in ast.walk(ast.parse((ROOM / file).read_text())):
        if isinstance(function, ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Await):
                    found.add((file, f"{function.name}:{node.lineno}"))
    return found


_NOT_RUN = {"calls.py", "caller.py", "tail.py", "watch.py"}
"""What no bus of a world does that is killed."""
AIMS: tuple[Point, ...] = tuple(
    sorted(point for file in ROOM.glob("*.py") if file.name not in _NOT_RUN for point in awaits_in(file.name))
)
"""Where crashes are aimed at."""
