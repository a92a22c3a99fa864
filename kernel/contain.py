"""Running a plugin's code so that nothing gets out of it but its result or an ordinary error."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from contracts.errors import ErrorInfo, PlugbusError

T = TypeVar("T")

CANCEL_GRACE = 1.0
"""Seconds in which code that was cancelled must end; then it is left behind, and said so."""

log = logging.getLogger("plugbus.kernel")


class Escaped(PlugbusError):
    """A plugin's code raised something that would have ended more than itself, or cannot be told.

    Cause: it called `sys.exit`, awaited what was cancelled, or raised an error whose text raises.
    Example: a handler that calls sys.exit(1)
    Fix: raise an ordinary error; to stop a plugin, ask for `kernel.plugin.stop`.
    """

    code = "escaped"


def outward(error: BaseException, what: str) -> BaseException:
    """What may leave a plugin's code for `error`: itself where that harms nobody, else an `Escaped`.

    `SystemExit` would end the event loop. `CancelledError` would be taken for the cancellation of
    whoever waits; it stays only where the current task really was cancelled.
    """
    if isinstance(error, Exception):
        return (
            error if _can_be_told(error) else _escaped(f"{what} raised a {_kind(error)} without words", error)
        )
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is None or task.cancelling():
            return error
        return _escaped(f"{what} was cancelled from within: it awaited something that was cancelled", error)
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        return error
    return _escaped(f"{what} raised {_kind(error)}", error)


async def contained(awaitable: Awaitable[T], what: str) -> T:
    """The result of `awaitable`, or an `Exception`; `CancelledError` only where the task was cancelled."""
    try:
        return await awaitable
    except BaseException as error:
        if (told := outward(error, what)) is error:
            raise
        raise told from error


async def run_apart(coro: Coroutine[Any, Any, T], what: str) -> T:
    """`contained`, in a task of its own: code that ignores its cancellation does not hold up who waits."""
    task = asyncio.create_task(contained(coro, what), name=what)
    task.add_done_callback(lambda _: coro.close())  # cancelled before its first step, it never ran
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_GRACE)
        if not task.done():
            log.error("%s does not end although it was cancelled; it is left behind", what)  # noqa: TRY400 - not an error raised
        elif not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s failed while it was cancelled: %s", what, error, exc_info=error)
        raise
    if task.cancelled():
        raise _escaped(f"{what} cancelled itself", None)
    return task.result()


def _can_be_told(error: Exception) -> bool:
    try:
        ErrorInfo.of(error).model_dump_json()
        str(error).encode()  # as the log has it, not spelled out
    except Exception:  # noqa: BLE001 - a `__str__` may raise anything
        return False
    return True


def _escaped(text: str, error: BaseException | None) -> Escaped:
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return Escaped(text, where=where, fix="a plugin's code ends with a result or an ordinary error")


def _kind(error: BaseException) -> str:
    return type(error).__name__
