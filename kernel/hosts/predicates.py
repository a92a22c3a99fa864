"""Predicates (`where=`): whether a handler wants an event, asked where the plugin's code runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from contracts.bus import Predicate
from contracts.message import PluginEvent

from ..contain import outward
from .reading import handler_error


def compile_predicate(where: Any, function: Any, value_of: Callable[[PluginEvent], Any]) -> Predicate:
    """What the bus asks before it starts `function`; `value_of` makes what the handler is given first.

    Raises `HandlerDefinitionError` for what is no plain function of one value. What the predicate raises,
    and an answer that is neither True nor False, is a failed attempt.
    """
    _check(where, function)
    what = f"the predicate of {function.__name__}"

    def wants(event: PluginEvent) -> bool:
        value = value_of(event)
        try:
            answer = where(value)
        except BaseException as error:
            if (told := outward(error, what)) is error:
                raise
            raise told from error
        if answer is True or answer is False:
            return answer
        if inspect.iscoroutine(answer):
            answer.close()
        raise handler_error(
            function, f"has a predicate that returned {type(answer).__name__}", "return True or False"
        )

    return wants


def _check(where: Any, function: Any) -> None:
    example = "where=lambda event: event.total > 100"
    if not callable(where):
        raise handler_error(function, f"has a predicate that cannot be called: {where!r}", example)
    plain = where.func if isinstance(where, functools.partial) else where
    plain = plain if inspect.isroutine(plain) or inspect.isclass(plain) else type(plain).__call__
    if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
        raise handler_error(
            function,
            "has a predicate that is async",
            f"{example}: a plain function; what must be awaited belongs into the handler",
        )
    try:
        inspect.signature(where).bind(None)
    except TypeError:
        raise handler_error(function, "has a predicate that does not take one value", example) from None
    except ValueError:  # built in, without a signature
        return
