"""Scopes: undo in order, whatever the undos do, and whatever happens to the one who closes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from contracts.errors import PluginStateError
from kernel import contain
from kernel import scope as scopes
from kernel.contain import Escaped, run_apart
from kernel.scope import Scope

LOG = logging.getLogger("test")


@pytest.fixture
def scope() -> Scope:
    return Scope("the scope", LOG)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "UNDO_TIMEOUT", 0.02)
    monkeypatch.setattr(contain, "CANCEL_GRACE", 0.02)


async def test_one_failing_undo_does_not_keep_the_others_from_running(scope: Scope) -> None:
    """Whatever an undo raises, even SystemExit or a CancelledError of its own, the others run."""
    done: list[str] = []

    def leave() -> None:
        raise SystemExit(3)

    async def awaits_something_cancelled() -> None:
        raise asyncio.CancelledError

    scope.push("first", lambda: done.append("first"))
    scope.push("exit", leave)
    scope.push("cancelled", awaits_something_cancelled)
    scope.push("last", lambda: done.append("last"))
    errors = await scope.close()
    assert done == ["last", "first"]
    assert [type(error) for error in errors] == [Escaped, Escaped]
    assert scope.names == ()
    assert await scope.close() == []


async def test_a_cancelled_close_still_undoes_everything(scope: Scope) -> None:
    """The cancellation is raised when nothing is left, not instead of it."""
    done: list[str] = []
    entered = asyncio.Event()

    async def slow() -> None:
        entered.set()
        await asyncio.Event().wait()

    scope.push("first", lambda: done.append("first"))
    scope.push("slow", slow)
    closing = asyncio.create_task(scope.close())
    await entered.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert done == ["first"]
    assert scope.names == ()


@pytest.mark.usefixtures("_impatient")
async def test_an_undo_that_ignores_its_cancellation_is_left_behind(scope: Scope) -> None:
    """It is given up after its deadline; the rest is undone all the same."""
    done: list[str] = []
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                done.append("ignored")

    scope.push("first", lambda: done.append("first"))
    scope.push("stubborn", stubborn)
    [error] = await scope.close()
    assert isinstance(error, TimeoutError)
    assert done == ["ignored", "first"]
    release.set()
    await asyncio.wait([task for task in asyncio.all_tasks() if "stubborn" in task.get_name()])


async def test_a_closed_scope_takes_nothing_more(scope: Scope) -> None:
    """What it cannot undo it does not begin: no task, no context manager is left entered."""
    log: list[str] = []
    inside = asyncio.Event()
    go_on = asyncio.Event()

    @asynccontextmanager
    async def connection() -> AsyncIterator[None]:
        inside.set()
        await go_on.wait()
        yield
        log.append("left")

    entering = asyncio.create_task(scope.enter(connection()))
    await inside.wait()
    await scope.close()
    go_on.set()
    with pytest.raises(PluginStateError, match="closed"):
        await entering
    assert log == ["left"]
    with pytest.raises(PluginStateError, match="task late cannot be acquired"):
        scope.spawn(asyncio.Event().wait(), name="late")
    with pytest.raises(PluginStateError):
        await scope.enter(connection())


async def test_an_undo_may_close_the_scope_and_may_not_add_to_it(scope: Scope) -> None:
    """Re-entering is safe: each undo runs once."""
    done: list[str] = []

    async def again() -> None:
        done.append("again")
        await scope.close()

    scope.push("first", lambda: done.append("first"))
    scope.push("adds", lambda: scope.push("more", lambda: None) and None)
    scope.push("again", again)
    assert await scope.close() == []
    assert done == ["again", "first"]


async def test_tasks_that_start_tasks_all_end_with_their_scope(scope: Scope) -> None:
    """Also those that were started while it was closing already: they are refused."""
    seen: list[str] = []

    async def child() -> None:
        await asyncio.Event().wait()

    async def parent() -> None:
        scope.spawn(child(), name="child")
        try:
            await asyncio.Event().wait()
        finally:
            with pytest.raises(PluginStateError):
                scope.spawn(child(), name="orphan")
            seen.append("refused")

    scope.spawn(parent(), name="parent")
    never_began = scope.spawn(child(), name="never began")
    assert await scope.close() == []
    assert never_began.cancelled()
    task = asyncio.current_task()
    assert asyncio.all_tasks() == {task}


async def test_a_spawned_task_cannot_end_the_loop(scope: Scope, caplog: pytest.LogCaptureFixture) -> None:
    """SystemExit, and a CancelledError that nobody asked for, are failures of the task, and are logged."""

    async def leave() -> None:
        raise SystemExit(1)

    async def cancelled_by_itself() -> None:
        raise asyncio.CancelledError

    await asyncio.wait([scope.spawn(leave(), name="leaver"), scope.spawn(cancelled_by_itself(), name="odd")])
    assert "task leaver raised SystemExit" in caplog.text
    assert "task odd was cancelled from within" in caplog.text
    assert await scope.close() == []


async def test_an_error_without_words_is_told_by_its_kind() -> None:
    """An exception whose `__str__` raises, or that cannot be encoded, is still an error that can be told."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    async def fail(error: Exception) -> None:
        raise error

    with pytest.raises(Escaped, match="raised a Mute without words") as caught:
        await run_apart(fail(Mute()), "the step")
    assert "test_scope.py:" in caught.value.where
    with pytest.raises(Escaped, match="raised a ValueError"):
        await run_apart(fail(ValueError("\ud800")), "the step")
