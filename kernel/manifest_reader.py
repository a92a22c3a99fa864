"""Reading manifest files: TOML, JSON and YAML, bounded, with the line of what cannot be read."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli

from .bounded import MAX_BYTES, ReadFile, read_bounded
from .manifest_problems import MAX_DEPTH, NOUNS, Manifest, Problem, manifest_error, too_deep

if TYPE_CHECKING:
    import yaml

_PART = r"(?:[\w-]+|\"[^\"\n]*\"|'[^'\n]*')[ \t]*"
_DEEP_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*{_PART}(?:\.[ \t]*{_PART}){{{MAX_DEPTH}}}", re.MULTILINE)
"""A dotted key that nests deeper than anything may. What the parser keeps of one grows with the square of
its parts: a manifest of allowed size could take all memory."""

_LONG_NUMBER = re.compile(r"[-+\w.:]{1000,}")
"""To YAML `1:1:1` is a number to the base of 60, and making one of a long text takes minutes."""

_STYLES = {".toml": "toml", ".json": "json", ".yaml": "yaml", ".yml": "yaml"}


class Unreadable(ValueError):
    """The text is not in the format that the file's name says; `line` where the format tells it."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def read_manifest(path: Path, read: ReadFile = read_bounded) -> Manifest:
    """Read one manifest file; its values are not checked yet.

    Raises `ManifestError` for what cannot be read, with the line where the format tells it.
    """
    text = _text(path, read)
    style = _STYLES.get(path.suffix)
    if style is None:
        raise manifest_error(path, [Problem("a manifest ends in .toml, .json, .yaml or .yml", "rename it")])
    if not text.strip():
        raise manifest_error(path, [Problem("the manifest is empty", "say at least plugin_id and version")])
    try:
        data = _PARSERS[style](text)
    except RecursionError:
        raise manifest_error(path, [too_deep()]) from None
    except Unreadable as error:
        problem = Problem(f"this is not {style.upper()}: {error}", "mend the syntax there", error.line)
        raise manifest_error(path, [problem]) from None
    if not isinstance(data, dict):
        noun = NOUNS.get(type(data), type(data).__name__)
        raise manifest_error(
            path, [Problem(f"a manifest is a table of keys, this is {noun}", "name the keys")]
        )
    return Manifest(path, data, style, text)


def has_deep_key(text: str) -> re.Match[str] | None:
    """Where a TOML text has a dotted key that the parser must not see."""
    return _DEEP_KEY.search(text) if text.count(".") > MAX_DEPTH else None


def cannot_be_read(path: Path, error: OSError) -> Problem:
    """`error` in words."""
    if isinstance(error, FileNotFoundError):
        return Problem(f"'{path.name}' does not exist", "check the path")
    return Problem(
        f"'{path.name}' cannot be read: {error.strerror or error}", "make it readable, or remove it"
    )


def _text(path: Path, read: ReadFile) -> str:
    try:
        content = read(path)
    except OSError as error:
        raise manifest_error(path, [cannot_be_read(path, error)]) from None
    if len(content) > MAX_BYTES:
        text = f"the manifest is larger than {MAX_BYTES >> 20} MiB"
        raise manifest_error(path, [Problem(text, "keep data in files of their own")])
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        text = f"byte 0x{content[error.start]:02x} is not valid UTF-8"
        raise manifest_error(path, [Problem(text, "save the file as UTF-8", line)]) from None


def _toml(text: str) -> Any:
    if found := has_deep_key(text):
        raise Unreadable("the key has too many parts", text.count("\n", 0, found.end()) + 1)
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise Unreadable(error.msg, error.lineno) from None
    except ValueError as error:  # a number of more digits than Python converts
        raise Unreadable(str(error)) from None


def _json(text: str) -> Any:
    try:
        return _JSON.decode(text)
    except json.JSONDecodeError as error:
        raise Unreadable(error.msg, error.lineno) from None
    except Unreadable:
        raise
    except ValueError as error:  # a number of more digits than Python converts
        raise Unreadable(str(error)) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        twice, times = Counter(key for key, _ in pairs).most_common(1)[0]
        raise Unreadable(f"the key '{twice}' is given {'twice' if times == 2 else f'{times} times'}")
    return table


def _no_constant(word: str) -> Any:
    raise Unreadable(f"{word} is not a JSON value")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _yaml(text: str) -> Any:
    import yaml  # only who has a YAML manifest pays for it

    try:
        _check_events(text)
        loader = yaml.CSafeLoader(text)
        try:
            node = loader.get_single_node()
            _check_unique(node)
            return loader.construct_document(node) if node else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        text = error.problem or error.context or "it cannot be parsed"
        if "nesting depth" in text:  # newer versions of libyaml have a limit of their own
            raise RecursionError from None
        raise Unreadable(text, _line(error.problem_mark)) from None
    except yaml.reader.ReaderError as error:
        raise Unreadable(error.reason) from None
    except Unreadable:
        raise
    except (ValueError, OverflowError) as error:  # a date that is none, a number too long
        raise Unreadable(str(error)) from None


def _check_events(text: str) -> None:
    """Refuse, before anything is built, what a small text could blow up with: depth and references."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            text = f"the reference *{event.anchor} is not allowed in a manifest"
            raise Unreadable(text, _line(event.start_mark))
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and _LONG_NUMBER.fullmatch(event.value):
            raise Unreadable("a number has too many digits", _line(event.start_mark))
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RecursionError


def _check_unique(node: yaml.Node | None) -> None:
    import yaml

    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_unique(item)
    elif isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key, value in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise Unreadable(f"the key '{key.value}' is given twice", _line(key.start_mark))
            seen.add(key.value if isinstance(key.value, str) else None)
            _check_unique(value)


def _line(mark: Any) -> int | None:
    return None if mark is None else mark.line + 1


_PARSERS: Mapping[str, Callable[[str], Any]] = {"toml": _toml, "json": _json, "yaml": _yaml}
