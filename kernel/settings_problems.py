"""What is known of settings, what is wrong with one, and what of a value may be shown.

The model of the settings is an argument: nothing here names a single setting but where a mistake is
common enough to deserve its own hint.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, JsonValue

from contracts.errors import SettingsError

from .settings_sources import ENV_PREFIX, FILE_SUFFIX, Entry, KeyPath

MASK = "••••"
_SHOWN = 6
"""Problems that are told at once; more would not fit a screen."""
SECRET_WORD = re.compile(r"secret|token|password|passwd|credential|private|api_?key", re.IGNORECASE)

Model = type[BaseModel]


class Problem(NamedTuple):
    """What is wrong, where a person can mend it, and how."""

    text: str
    where: str
    fix: str


def is_plugin_config(path: KeyPath) -> bool:
    """Whether the plugin, and not Plugbus, knows what `path` means."""
    return len(path) > 3 and path[0] == "plugins" and path[2] == "config"


def annotation(model: Model, path: KeyPath) -> Any:
    """The type of the setting or table at `path`; None where there is none."""
    kind: Any = model
    for word in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[word].annotation if word in kind.model_fields else None
        elif (table := table_of(kind)) is not None:
            kind = get_args(table)[1]
        elif kind is not JsonValue:
            return None
    return kind


def table_of(kind: Any) -> Any:
    """The table with names of the operator's own that a setting is, or may be beside a value; or None."""
    if get_origin(kind) in (Union, UnionType):
        return next((one for one in get_args(kind) if get_origin(one) is dict), None)
    return kind if get_origin(kind) is dict else None


def leaves(model: Model, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Model, str]]:
    """Every setting that can be set, with `ID` and `KEY` for names that the operator chooses.

    Beside each path the model and the name of the field there.
    """
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        here = (*path, name)
        if get_origin(kind) is dict:
            kind, here = get_args(kind)[1], (*here, "ID" if name == "plugins" else "KEY")
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, here)
        else:
            yield here, model, name


def spelled(path: KeyPath, source: str) -> str:
    """The name of a setting as its source spells it: a variable, or a dotted key."""
    return ENV_PREFIX + "__".join(path).upper() if source.startswith(ENV_PREFIX) else ".".join(path)


def unknown(model: Model, entry: Entry) -> Problem | None:
    """What is wrong with the name of `entry`, if anything."""
    kind = annotation(model, entry.path)
    name = entry.source if entry.source.startswith(ENV_PREFIX) else ".".join(entry.path)
    if _is_table(kind):
        example = spelled((*entry.path, _first_word(kind)), entry.source)
        return Problem(f"{name!r} is a table, not a value", entry.source, f"set what is in it: {example}")
    if kind is not None:
        return None
    near = _nearest(model, entry.path)
    if near:
        fix = f"did you mean {spelled(near, entry.source)!r}?"
    else:
        fix = f"remove it; the settings are {', '.join(model.model_fields)}"
    return Problem(f"{name!r} is not a setting", entry.source, fix)


def _is_table(kind: Any) -> bool:
    return get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, BaseModel))


def _first_word(table: Any) -> str:
    return "NAME" if get_origin(table) is dict else next(iter(table.model_fields))


def _nearest(model: Model, path: KeyPath) -> KeyPath | None:
    if len(path) == 1 and path[0] in ("host", "port"):
        return ("plugins", "gateway", "config", path[0])
    if path[0] == "plugins" and len(path) > 2:
        close = get_close_matches(path[2], annotation(model, path[:2]).model_fields, 1)
        return (*path[:2], close[0], *path[3:]) if close else (*path[:2], "config", *path[2:])
    known = {"_".join(leaf): leaf for leaf, _, _ in leaves(model)}
    match = get_close_matches("_".join(path), known, 1)
    return known[match[0]] if match else None


def misfit(entries: Mapping[KeyPath, Entry], location: Sequence[int | str], message: str) -> Problem:
    """What is wrong with a value, from what the model says of it."""
    words = tuple(str(part) for part in location if part != "[key]")
    path = next((words[:n] for n in range(len(words), 0, -1) if words[:n] in entries), words)
    entry = entries.get(path) or next((e for p, e in entries.items() if p[: len(path)] == path), None)
    text = message.removeprefix("Value error, ").replace("Input should", "should")
    where = entry.source if entry else ""
    is_shown = entry is not None and entry.path == path and not where.endswith(FILE_SUFFIX.upper())
    value = f" = {_short(masked(path, entry.value))}" if entry and is_shown else ""
    return Problem(f"{'.'.join(path)!r}{value}: {text}", where, "give such a value, or remove it")


def settings_error(problems: Sequence[Problem]) -> SettingsError:
    """All problems as one error that fits a screen."""
    if len(problems) == 1:
        only = problems[0]
        return SettingsError(only.text, where=only.where, fix=only.fix, problems=tuple(problems))
    lines = [f"{len(problems)} settings are wrong"]
    for problem in problems[:_SHOWN]:
        lines += [f"  {problem.text}", f"    at:  {problem.where}", f"    fix: {problem.fix}"]
    if len(problems) > _SHOWN:
        lines.append(f"  and {len(problems) - _SHOWN} more")
    return SettingsError("\n".join(lines), problems=tuple(problems))


def _short(value: Any) -> str:
    text = repr(value if isinstance(value, str | int | float | bool | list) else str(value))
    return text if len(text) <= 60 else text[:57] + "..."


def masked(path: KeyPath, value: Any) -> Any:
    """`value`, or what of it may be shown: secrets are known by their name, passwords by their place."""
    if value is not None and SECRET_WORD.search(path[-1]):
        return MASK
    return without_password(value) if path == ("bus", "url") and isinstance(value, str) else value


def without_password(url: str) -> str:
    """`url` as it may be shown: a password is masked before the host as well as among the options."""
    password = urlsplit(url).password
    shown = url.replace(f":{password}@", f":{MASK}@") if password else url
    return re.sub(r"([?&]password=)[^&#]*", rf"\1{MASK}", shown)
