"""Providers: from a method marked `@provides` to what answers each call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from pydantic import ValidationError

from contracts.base import PROVIDES, ProvidesMark, check_rank
from contracts.bus import Call, CallReply
from contracts.errors import CallRefused
from contracts.event import invalid, load_model
from contracts.query import Query, answer_adapter

from ..contain import contained
from . import ProviderDeclaration
from .reading import handler_error, hints_of, name_of, parameters_of, place

ProviderFunction = Callable[[Call], Coroutine[Any, Any, CallReply]]


def compile_provider(function: Any, rank: int | None = None) -> tuple[ProviderDeclaration, ProviderFunction]:
    """A method marked `@provides` → its declaration and what runs it."""
    mark = getattr(function, PROVIDES, ProvidesMark())
    parameters = parameters_of(function, "provider")
    model = parameters[0] if len(parameters) == 1 else None
    if not (isinstance(model, type) and issubclass(model, Query) and model.__capability__):
        raise handler_error(
            function,
            "does not take one query",
            'query: Quote, with class Quote(Query[Price], capability="…")',
        )
    said = hints_of(function).get("return", model.__answer__)
    answer = name_of(model.__answer__)
    if said != model.__answer__:
        raise handler_error(
            function,
            f"says that it answers {name_of(said)}, and {model.__name__} is answered with {answer}",
            f"-> {answer}",
            kind="provider",
        )
    adapter = answer_adapter(model)
    declared = ProviderDeclaration(
        name=function.__name__,
        capability=model.__capability__,
        rank=mark.rank if rank is None else check_rank(rank, place(function)),
        description=inspect.getdoc(function) or inspect.getdoc(model) or "",
        query_schema=model.model_json_schema(),
        answer_schema=adapter.json_schema(mode="serialization"),
    )

    async def invoke(call: Call) -> CallReply:
        query = load_model(model, call.data, what=f"the query of {call.capability}")
        answer = await contained(function(query), str(function.__name__))
        try:
            checked = adapter.validate_python(answer)
        except ValidationError as error:
            raise CallRefused(
                f"the answer of {call.capability}: {invalid('it', error).message}",
                capability=call.capability,
                where=place(function),
            ) from None
        return CallReply(data=adapter.dump_json(checked).decode())

    return declared, invoke
