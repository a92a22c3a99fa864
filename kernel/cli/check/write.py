"""`plugbus check --write`: what the code declares goes into the manifest that does not say it.

Only keys that are absent are written; what stands there stays as it is, comments included. A file is replaced
wholly, and only where reading it again gives what was there, and what is new.
"""

import ast
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli

from contracts.errors import ManifestError
from contracts.metadata import PluginMetadata

from ...whole_file import write_whole
from .finding import Report
from .look import Look

Keys = dict[str, Any]


def missing_keys(metadata: PluginMetadata, seen: Look) -> Keys:
    """What the manifest does not say and the code does, as the kernel would take it."""
    declared = seen.declaration
    published = {use.name for use in seen.uses if use.kind == "publish"}
    handled = set(declared.patterns)
    said = {
        "publishes": sorted(published | (set(declared.publishes) - handled)),
        "subscribes": {handler.name: list(handler.patterns) for handler in declared.handlers},
        "provides": sorted(declared.capabilities),
        "requests": sorted({use.name for use in seen.uses if use.kind == "request"} | {*declared.requests}),
    }
    there = {name for name in said if getattr(metadata, name) is not None}
    if metadata.provided is not None:
        there.add("provides")
    return {name: value for name, value in said.items() if name not in there}


def write_all(reports: Iterable[Report]) -> dict[str, tuple[str, ...]]:
    """Plugin → the keys that were written. What is in error is left alone; what cannot be written is told."""
    written = {}
    for report in reports:
        if report.found is None or report.seen is None or report.status == "error":
            continue
        keys = missing_keys(report.found.metadata, report.seen)
        try:
            if keys:
                write_keys(Path(report.found.metadata.file_path), report.found.class_name, keys)
                written[report.plugin_id] = tuple(keys)
        except ManifestError as error:
            report.add(error)
    return written


def write_keys(file: Path, class_name: str, keys: Keys) -> None:
    """Add `keys` to a manifest file, or to the class line of a plugin that is one file.

    Raises `ManifestError` where that cannot be done without harm; nothing has changed then.
    """
    try:
        before, as_it_was = _plain(file.read_bytes().decode())
        if file.suffix == ".py":
            after = _in_class_line(before, class_name, keys)
        else:
            after = _in_file(before, *_STYLES[file.suffix], keys)
        if after is None:
            raise _by_hand(file, keys)
        _replace(file, as_it_was(after))
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise ManifestError(
            f"the manifest cannot be written: {why}", where=str(file),
            fix="make the file and its folder writable",
        ) from None  # fmt: skip


def _plain(text: str) -> tuple[str, Callable[[str], str]]:
    """The text without a byte order mark and with plain line ends, and what gives both back to it."""
    mark = text[: text.startswith("\ufeff")]
    line_end = "\r\n" if 0 < text.count("\n") == text.count("\r\n") else "\n"  # mixed ones stay as they are
    plain = text.removeprefix(mark).replace(line_end, "\n")
    return plain, lambda after: mark + after.replace("\n", line_end)


def _in_file(
    before: str, read: Callable[[str], Any], add: Callable[[str, Keys], str], keys: Keys
) -> str | None:
    """The text with the keys; None where it would not say the same otherwise."""
    try:
        after = add(before, keys)
        return after if read(after) == {**read(before), **keys} else None
    except ValueError:
        return None


def _by_hand(file: Path, keys: Keys) -> ManifestError:
    between = ": " if file.suffix in (".yaml", ".yml") else " = "
    text = ", ".join(f"{name}{between}{json.dumps(value)}" for name, value in keys.items())
    return ManifestError(
        "this manifest is written in a way that cannot be added to",
        where=str(file),
        fix=f"add by hand: {text}",
    )


def _replace(file: Path, text: str) -> None:
    """Wholly or not at all, with the permissions that it has."""
    file = file.resolve()  # a link stays one
    write_whole(file, text.encode(), mode=file.stat().st_mode & 0o7777, is_durable=False)


# --- one format after the other --------------------------------------------------------------------------


def _add_toml(text: str, keys: Keys) -> str:
    """Before the first table; comments stay where they are."""
    import tomlkit

    document = tomlkit.parse(text)
    for name, value in keys.items():
        document.add(name, _toml_value(value))
    return tomlkit.dumps(document)


def _toml_value(value: Any) -> Any:
    import tomlkit

    if not isinstance(value, Mapping):
        return tomlkit.item(value)
    table = tomlkit.inline_table()
    table.update(value)
    return table


def _add_json(text: str, keys: Keys) -> str:
    first = next((line for line in text.splitlines()[1:] if line.strip()), "")
    indent = first[: len(first) - len(first.lstrip())] or "  "
    return json.dumps({**json.loads(text), **keys}, indent=indent, ensure_ascii=False) + "\n"


def _add_yaml(text: str, keys: Keys) -> str:
    """Lines at the end: JSON is YAML, and no comment is touched."""
    end = "" if text.endswith("\n") else "\n"
    return text + end + "".join(f"{name}: {json.dumps(value)}\n" for name, value in keys.items())


def _read_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


_STYLES: dict[str, tuple[Callable[[str], Any], Callable[[str, Keys], str]]] = {
    ".toml": (tomli.loads, _add_toml),
    ".json": (json.loads, _add_json),
    ".yaml": (_read_yaml, _add_yaml),
    ".yml": (_read_yaml, _add_yaml),
}


def _in_class_line(before: str, class_name: str, keys: Keys) -> str | None:
    """The keywords behind the last one that is there, each on a line of its own."""
    found = _class(before, class_name)
    if found is None:
        return None
    last = max((*found.bases, *(one.value for one in found.keywords)), key=_end)
    lines = before.splitlines(keepends=True)
    row, column = _end(last)
    at = sum(len(line) for line in lines[: row - 1]) + len(lines[row - 1].encode()[:column].decode())
    indent = " " * (found.col_offset + 4)
    added = "".join(f",\n{indent}{name}={value!r}" for name, value in keys.items()).replace("'", '"')
    after = before[:at] + added + before[at:]
    return after if _says(after, class_name, found, keys) else None


def _says(after: str, class_name: str, former: ast.ClassDef, keys: Keys) -> bool:
    """Whether the new source is the old one but for the keywords."""
    found = _class(after, class_name)
    if found is None:
        return False
    new = {one.arg: one.value for one in found.keywords if one.arg in keys}
    found.keywords = [one for one in found.keywords if one.arg not in keys]
    try:
        values = {name: ast.literal_eval(value) for name, value in new.items()}
    except ValueError:
        return False
    return values == keys and ast.dump(found) == ast.dump(former)


def _class(source: str, name: str) -> ast.ClassDef | None:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    return next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)


def _end(node: ast.expr) -> tuple[int, int]:
    return node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
