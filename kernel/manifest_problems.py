"""What is wrong with a manifest, in words: what, on which line, what was expected, one fix."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from contracts.errors import ManifestError
from contracts.metadata import PluginDependency, PluginMetadata
from contracts.security import ResourceLimits

MAX_DEPTH = 100
MAX_LINES = 12
"""Problems that one error spells out; the others are counted."""
MAX_EXAMINED = 4 * MAX_LINES
"""Wrong values that are put into words; a large manifest of nothing else must not take minutes to refuse."""
FILLED_IN = ("source", "file_path", "size_bytes", "checksum")
NOUNS: Mapping[type, str] = {
    bool: "a truth value", int: "a number", float: "a number", str: "a string", list: "a list",
    tuple: "a list", dict: "a table", type(None): "nothing",
}  # fmt: skip

_WRITTEN = {"toml": "{0} = {1}", "json": '"{0}": {1}', "yaml": "{0}: {1}", "python": "{0}={1}"}
_EXAMPLES = {"plugin_id": "alerts", "version": "1.0.0", "max_memory_mb": 512}
_EXPECTED = {
    "string": "a string", "tuple": "a list", "list": "a list", "dict": "a table", "model": "a table",
    "int": "a whole number", "float": "a number", "bool": "true or false",
}  # fmt: skip
_KEYS: Mapping[str, tuple[str, ...]] = {
    "": tuple(key for key in PluginMetadata.model_fields if key not in FILLED_IN),
    "resource_limits": tuple(ResourceLimits.model_fields),
    "dependencies": tuple(PluginDependency.model_fields),
    "optional_dependencies": tuple(PluginDependency.model_fields),
}

Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a manifest."""

    text: str
    fix: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it was written, before anything of it is believed."""

    path: Path
    data: Mapping[str, Any]
    style: str = "toml"
    """How keys are written there: `toml`, `json`, `yaml` or `python` (class keywords)."""
    text: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Line of each key where reading told it; otherwise it is looked for in `text`."""

    def line_of(self, path: Location) -> int | None:
        """The line on which the value at `path` stands, as well as the text tells."""
        if path and path[0] in self.lines:
            return self.lines[str(path[0])]
        return _line_in(self.text, path, self.data)

    def example(self, key: str, value: object) -> str:
        """How `key` is written in this manifest."""
        return _WRITTEN[self.style].format(key, json.dumps(value, ensure_ascii=False, default=str))


def manifest_error(path: Path, problems: Sequence[Problem], *, plugin_id: str = "") -> ManifestError:
    """One error for all `problems` of one file, at most a screen long.

    `plugin_id` is what the manifest gives, as far as it could be read.
    """
    first = problems[0]
    details: dict[str, Any] = {"problems": tuple(problems), "plugin_id": plugin_id}
    if len(problems) == 1:
        where = f"{path}:{first.line}" if first.line else str(path)
        return ManifestError(first.text, where=where, fix=first.fix, **details)
    shown = [_one_line(problem) for problem in problems[:MAX_LINES]]
    if more := len(problems) - len(shown):
        shown.append(f"  … and {more} more")
    message = "\n".join([f"{len(problems)} problems", *shown])
    return ManifestError(message, where=str(path), fix=first.fix, **details)


def suggestion(word: str, known: Iterable[str]) -> str:
    """The known word that `word` was probably meant to be, or an empty string."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), "")


def too_deep(line: int | None = None) -> Problem:
    return Problem("the values are nested too deeply", f"nest at most {MAX_DEPTH} levels", line)


def problems_of(error: ValidationError, manifest: Manifest) -> list[Problem]:
    """What a manifest's model refused, in the words of the manifest and in the order of its lines.

    Of more than `MAX_EXAMINED` the others are only counted.
    """
    details = [detail for detail in error.errors(include_url=False) if _is_meant(detail, manifest)]
    problems = dict.fromkeys(_problem(detail, manifest) for detail in details[:MAX_EXAMINED])
    told = sorted(problems, key=lambda problem: problem.line or 0)
    if more := len(details[MAX_EXAMINED:]):
        told.append(Problem(f"{more} further values are wrong", "mend those before first"))
    return told


def _one_line(problem: Problem) -> str:
    line = f"line {problem.line}: " if problem.line else ""
    return f"  {line}{problem.text}" + (f" → {problem.fix}" if problem.fix else "")


def _is_meant(detail: ErrorDetails, manifest: Manifest) -> bool:
    """Not of a key that is there but could not be read; of `subscribes` what fits the form it has."""
    loc = detail["loc"]
    if detail["type"] == "missing":
        return loc[0] not in manifest.lines
    if len(loc) < 2 or loc[0] != "subscribes":
        return True
    return str(loc[1]).startswith("dict") == isinstance(manifest.data["subscribes"], dict)


def _problem(detail: ErrorDetails, manifest: Manifest) -> Problem:
    path = tuple(_followed(detail, manifest.data))
    if detail["type"] == "recursion_depth_exceeded":
        return too_deep(manifest.line_of(path[:1]))
    text, fix = _words(detail, path, manifest)
    return Problem(text, fix, manifest.line_of(path))


def _followed(detail: ErrorDetails, data: Any) -> Iterator[str | int]:
    """The part of pydantic's location that stands in the manifest, without its own tags."""
    for part in detail["loc"]:
        if _has(data, part):
            data = data[part]
            yield part
        elif detail["type"] == "missing":
            yield part


def _has(data: Any, part: str | int) -> bool:
    if isinstance(data, Mapping):
        return part in data
    return isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)


def _words(detail: ErrorDetails, path: Location, manifest: Manifest) -> tuple[str, str]:
    kind, name, value = detail["type"], _dotted(path), detail["input"]
    if kind == "missing":
        key = str(path[-1])
        return f"'{name}' is missing", manifest.example(key, _EXAMPLES.get(key, "…"))
    if kind in ("extra_forbidden", "invalid_key", "unexpected_keyword_argument"):
        last = detail["loc"][-1]
        # A key that is no text, as YAML has them, is not found by the text that pydantic makes of it.
        return _unknown_key(path if path[-1:] == (last,) else (*path, last))
    if kind == "value_error":
        return _own_words(str(detail["ctx"]["error"]), path, value, manifest)
    if kind in ("enum", "literal_error"):
        return _not_one_of(str(detail["ctx"]["expected"]), name, value)
    if expected := _EXPECTED.get(kind.split("_")[0]):
        found = f"{NOUNS.get(type(value), type(value).__name__)} ({_short(value)})"
        return f"'{name}' must be {expected}, not {found}", _converted(kind, path, value, manifest)
    return f"'{name}': {detail['msg'].lower()}", f"change '{name}'"


def _unknown_key(path: Location) -> tuple[str, str]:
    key, parent = str(path[-1]), str(path[0]) if len(path) > 1 else ""
    known = _KEYS.get(parent, ())
    if meant := suggestion(key, known):
        return f"unknown key '{_dotted(path)}', did you mean '{meant}'?", f"write '{meant}'"
    where = "default_configuration" if not parent else f"the keys {', '.join(known)}"
    fix = f"remove '{key}'; a plugin's own settings stand in {where}" if not parent else f"there are {where}"
    return f"unknown key '{_dotted(path)}'", fix


def _own_words(text: str, path: Location, value: object, manifest: Manifest) -> tuple[str, str]:
    """An error of our own model carries its fix behind the last colon, or an example."""
    if "is not a plugin id" in text:
        meant = as_plugin_id(str(value))
        fix = manifest.example("plugin_id", meant) if path == ("plugin_id",) else f"write '{meant}'"
        return f"'{_dotted(path)}': {text.partition(':')[0]}", fix
    what, example, fix = text.partition(", for example ")
    if example:
        fix = f"for example {fix}"
    else:
        what, _, fix = text.partition(": ")
    return (f"'{_dotted(path)}': {what}" if path else what), fix


def _not_one_of(expected: str, name: str, value: object) -> tuple[str, str]:
    meant = suggestion(str(value).lower(), re.findall(r"'([^']+)'", expected))
    hint = f", did you mean '{meant}'?" if meant else ""
    return f"'{name}' cannot be {_short(value)}{hint}", f"one of {expected}"


def _converted(kind: str, path: Location, value: object, manifest: Manifest) -> str:
    """What the author probably meant to write."""
    key = next((str(part) for part in reversed(path) if isinstance(part, str)), "")
    if kind.startswith("string") and isinstance(value, int | float) and not isinstance(path[-1], int):
        return manifest.example(key, str(value))
    if kind.startswith(("tuple", "list")) and isinstance(value, str):
        return manifest.example(key, [value])
    return f"change '{_dotted(path)}'"


def as_plugin_id(name: str) -> str:
    """The plugin id that is nearest to `name`."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    return re.sub(r"^[0-9_]+", "", "_".join(words)) or "plugin"


def _dotted(path: Location) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _line_in(text: str, path: Location, data: Any) -> int | None:
    position = None
    for part in path:
        data = _child(data, part)
        found = (
            _find_key(text, part, position) if isinstance(part, str) else _find_value(text, data, position)
        )
        if found is None:
            break
        position = found
    return None if position is None else text.count("\n", 0, position) + 1


def _child(data: Any, part: str | int) -> Any:
    try:
        return data[part]
    except (KeyError, IndexError, TypeError):
        return None


def _find_key(text: str, key: str, after: int | None) -> int | None:
    word = rf"[\"']?{re.escape(key)}[\"']?[ \t]*[=:]"
    patterns = [
        rf"(?:^[ \t]*(?:-[ \t]+)?|[{{,][ \t]*)(?=(){word})",
        rf"^\[+[^\]\n]*?(?=(){re.escape(key)}\b)",
    ]
    if after is None:
        patterns.insert(0, rf"^(?=(){word})")  # a key of the top level stands at the margin
    matches = (re.compile(pattern, re.MULTILINE).search(text, after or 0) for pattern in patterns)
    return next((match.start(1) for match in matches if match), None)


def _find_value(text: str, value: object, after: int | None) -> int | None:
    found = text.find(str(value), after or 0)
    return None if found < 0 else found
