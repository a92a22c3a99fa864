"""Where settings come from: flags, environment and file, each read into a flat list of entries.

Nothing here knows which settings there are; `kernel.settings` does.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tomli

from contracts.errors import SettingsError

FILE_NAME = "plugbus.toml"
ENV_PREFIX = "PLUGBUS_"
COMMAND_LINE = "command line"
FILE_SUFFIX = "_file"
"""Of a variable's name, behind that of a setting: the value is what the named file holds."""

# Not ours to judge: the client's address, the tests' switches, and what Kubernetes and Docker put into
# every container beside a service that is called plugbus.
_NOT_SETTINGS = re.compile(
    r"PLUGBUS_(URL|TEST_\w+|([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?))"
)
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")

KeyPath = tuple[str, ...]


class Entry(NamedTuple):
    """One value, and the place that a person would open to change it."""

    path: KeyPath
    value: Any
    source: str


def find_settings_file(start: Path | None = None) -> Path | None:
    """The `plugbus.toml` of `start` (default: the current folder) or of its nearest parent that has one."""
    folder = (start or Path.cwd()).absolute()
    return next((f / FILE_NAME for f in (folder, *folder.parents) if (f / FILE_NAME).is_file()), None)


def from_flags(overrides: Mapping[str, Any]) -> list[Entry]:
    """`overrides`: dotted keys, nested tables, or both."""
    entries = []
    for key, value in overrides.items():
        entries += [Entry(path, leaf, COMMAND_LINE) for path, leaf in flatten(value, tuple(key.split(".")))]
    return entries


def from_environment(environ: Mapping[str, str]) -> list[Entry]:
    """The variables that start with `PLUGBUS_`, as text. An empty one counts as not set."""
    entries = []
    for name in sorted(name for name in environ if name.startswith(ENV_PREFIX)):
        value = environ[name]
        if value and not _NOT_SETTINGS.fullmatch(name) and not _SERVICE_LINK.match(value):
            path = tuple(name.removeprefix(ENV_PREFIX).lower().split("__"))
            entries.append(Entry(path, value, name))
    return entries


def beside_file(path: KeyPath) -> KeyPath | None:
    """The setting whose value a `…_file` holds: `bus.url` for `bus.url_file`; None for any other name."""
    name = path[-1].removesuffix(FILE_SUFFIX)
    return (*path[:-1], name) if name and name != path[-1] else None


def content(file: str, variable: str) -> str:
    """What a file holds that `variable` names, without the line end behind it; it stays a secret.

    Raises `SettingsError`, which shows nothing of it.
    """
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
        problem = "" if text else "is empty"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValueError:  # no UTF-8, or a name that cannot be one of a file
        problem = "is no text"
    if problem:
        raise SettingsError(
            f"{variable} names the file {file}, which {problem}",
            where=variable,
            fix=f"put the value into {file}, readable by the user who runs the kernel, or unset {variable}",
        )
    return text


def from_file(file: Path) -> list[Entry]:
    """Every value of a TOML file, with its line. Raises `SettingsError` if it cannot be read."""
    place = _place(file)
    try:
        text = file.read_text(encoding="utf-8")
        table = tomli.loads(text)
    except FileNotFoundError:
        raise SettingsError(
            "the settings file does not exist", where=place, fix="create it, or leave --config out"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the settings file cannot be read: {error}", where=place, fix="make it a readable UTF-8 file"
        ) from None
    except tomli.TOMLDecodeError as error:
        raise SettingsError(
            f"not TOML: {error}", where=place, fix="mend that line; see https://toml.io"
        ) from None
    return [Entry(path, value, f"{place}:{line_of(text, path)}") for path, value in flatten(table)]


def _place(file: Path) -> str:
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def line_of(text: str, path: KeyPath) -> int:
    """The line that sets `path`, or else that of the innermost table around it."""
    table: KeyPath = ()
    best, depth = 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            table = here = _words(header[1])
        elif key := re.match(r"""\s*([\w."' -]+?)\s*=""", line):
            here = table + _words(key[1])
        else:
            continue
        if len(here) > depth and path[: len(here)] == here:
            best, depth = number, len(here)
    return best


def _words(dotted: str) -> KeyPath:
    return tuple(word.strip().strip("\"'") for word in dotted.split("."))


def flatten(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """The leaves of nested tables, each with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flatten(inner, (*path, str(key)))
    else:
        yield path, value


def nested(entries: Iterable[Entry]) -> dict[str, Any]:
    """The inverse of `flatten`. Where a value and a table share a path, the later one stays."""
    tree: dict[str, Any] = {}
    for entry in entries:
        branch = tree
        for word in entry.path[:-1]:
            if not isinstance(branch.get(word), dict):
                branch[word] = {}
            branch = branch[word]
        branch[entry.path[-1]] = entry.value
    return tree


def overlaid(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables as one: where both say something, `upper` counts; tables in them are joined likewise."""
    joined = {**lower, **upper}
    for name in lower.keys() & upper.keys():
        if isinstance(lower[name], dict) and isinstance(upper[name], dict):
            joined[name] = overlaid(lower[name], upper[name])
    return joined


def json_or_text(value: str) -> Any:
    """`value` as JSON if it is JSON, else as it is."""
    try:
        return json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
