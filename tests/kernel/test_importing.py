"""Importing beside the event loop, few at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from kernel.hosts.importing import Importers


class Import:
    """Stands for a module: it begins, and ends when it may."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.may_end = threading.Event()
        self.thread = threading.current_thread()

    def __call__(self) -> type:
        self.thread = threading.current_thread()
        self.has_begun.set()
        assert self.may_end.wait(10)
        return Import


@pytest.fixture
def make() -> Iterator[Callable[[], Import]]:
    """Makes imports; in the end all of them may end, and leave no thread behind."""
    with ExitStack() as stack:

        def make() -> Import:
            one = Import()
            stack.callback(lambda: one.thread is threading.current_thread() or one.thread.join(10))
            stack.callback(one.may_end.set)
            return one

        yield make


async def begun(one: Import) -> None:
    assert await asyncio.to_thread(one.has_begun.wait, 10)


async def test_no_more_than_a_few_run_at_once(make: Callable[[], Import]) -> None:
    """The others wait for their turn, and each gets it."""
    importers = Importers(most=2, patience=60)
    imports = [make() for _ in range(10)]
    waiting = [asyncio.create_task(importers.run(one)) for one in imports]
    for one in imports[:2]:
        await begun(one)
    imports[0].may_end.set()
    await begun(imports[2])
    assert [one.has_begun.is_set() for one in imports] == [True] * 3 + [False] * 7
    for one in imports:
        one.may_end.set()
    assert await asyncio.gather(*waiting) == [Import] * 10
    assert len({one.thread for one in imports}) == 2


async def test_one_that_hangs_does_not_hold_up_the_others(make: Callable[[], Import]) -> None:
    """After a while it counts no longer, and its thread ends with it."""
    importers = Importers(most=1, patience=0.01)
    hanging, others = make(), [make() for _ in range(3)]
    waiting = asyncio.create_task(importers.run(hanging))
    await begun(hanging)
    for one in others:
        one.may_end.set()
    assert await asyncio.gather(*map(importers.run, others)) == [Import] * 3
    assert not waiting.done()
    hanging.may_end.set()
    assert await waiting is Import
    await asyncio.to_thread(hanging.thread.join, 10)
    assert not hanging.thread.is_alive()


async def test_one_that_is_given_up_before_its_turn_is_never_run(make: Callable[[], Import]) -> None:
    """A deadline that passes meanwhile; the one that runs goes on unheard."""
    importers = Importers(most=1, patience=60)
    first, second, third = make(), make(), make()
    waiting = [asyncio.create_task(importers.run(one)) for one in (first, second, third)]
    await begun(first)
    for task in waiting[:2]:
        task.cancel()
    await asyncio.wait(waiting[:2])
    first.may_end.set()
    third.may_end.set()
    assert await waiting[2] is Import
    assert not second.has_begun.is_set()
    assert all(task.cancelled() for task in waiting[:2])


async def test_what_it_raises_is_raised() -> None:
    """Whatever it is; the next one is run all the same."""
    importers = Importers(most=1)

    def leave() -> type:
        raise SystemExit("no")

    with pytest.raises(SystemExit):
        await importers.run(leave)
    assert await importers.run(lambda: Import) is Import
