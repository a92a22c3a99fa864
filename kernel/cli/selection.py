"""Which dead letters: the filters that `plugbus dlq list`, `redrive`, `discard` and `export` share."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .durations import seconds_of
from .errors import usage

FILTERS: dict[str, Any] = {
    "group": Annotated[str | None, typer.Option("--group", help="Only those of this group.")],
    "plugin_id": Annotated[str | None, typer.Option("--plugin", help="Only those of this plugin.")],
    "generation": Annotated[
        int | None, typer.Option("--generation", min=0, help="Only those that this generation gave up.")
    ],
    "type": Annotated[
        str | None, typer.Option("--type", metavar="PATTERN", help="Only events that it selects.")
    ],
    "reason": Annotated[
        str | None, typer.Option("--reason", help="attempts, asked, schema, decode, version_ahead, storm")
    ],
    "error": Annotated[
        str | None,
        typer.Option("--error", metavar="CLASS", help="Only those that ended with it or a subclass."),
    ],
    "older_than": Annotated[
        str | None, typer.Option("--older-than", metavar="SPAN", help="Given up that long ago, e.g. 2h.")
    ],
    "newer_than": Annotated[
        str | None, typer.Option("--newer-than", metavar="SPAN", help="Given up since then, e.g. 10m.")
    ],
}
_AGES = {"older_than": "min_age", "newer_than": "max_age"}


def with_filters(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the options, and hand it what was said as `filters`: the fields of a selection."""
    own = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(*args: Any, **given: Any) -> None:
        said = {name: given.pop(name) for name in FILTERS}
        command(*args, filters=_selection(said), **given)

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in FILTERS.items()
    ]
    kept = [parameter for parameter in own.parameters.values() if parameter.name != "filters"]
    run.__signature__ = own.replace(parameters=[*kept, *options])  # type: ignore[attr-defined]
    return run


def _selection(said: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in said.items() if value is not None}
    return {
        _AGES.get(name, name): seconds_of(value) if name in _AGES else value for name, value in given.items()
    }


def choose(ids: list[str] | None, filters: dict[str, Any], all: bool) -> dict[str, Any]:
    """The one way in which dead letters were chosen; a usage error for none, or for several."""
    if sum(map(bool, (ids, filters, all))) != 1:
        raise usage("which dead letters?", "give their ids, or filters such as --group GROUP, or --all")
    return {"ids": ids} if ids else filters
