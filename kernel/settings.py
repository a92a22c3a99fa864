"""Settings: flags over environment over `plugbus.toml` over defaults.

`Settings()` holds defaults and what it is given, and reads nothing from outside: an embedding
application says what it wants. `load_settings` reads all four sources, refuses what it does not know,
and remembers where each value came from.

One name, three spellings: `bus.url` as a flag's key, `[bus] url = …` in the file, `PLUGBUS_BUS__URL` in
the environment (two underscores stand for the dot; an empty variable counts as not set). Below
`plugins.ID.config` everything is the plugin's: names from the environment are lower-cased there, and
values are read as JSON where they are JSON, else as text.

A variable with `_FILE` behind its name names a file that holds the value, such as a mounted secret. A
setting that is itself called so is what it is: `token_file`, and in a plugin's configuration each key of
its `default_configuration`.
"""

import ast
import functools
import inspect
import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from contracts.bus import BusLimits
from contracts.errors import SettingsError
from contracts.metadata import Pattern, PluginId
from contracts.patterns import RESERVED_TOPICS, TypeName, is_type_name, topic_of
from contracts.security import Permission, SecurityLevel

from .settings_problems import (
    Problem,
    annotation,
    is_plugin_config,
    leaves,
    masked,
    misfit,
    settings_error,
    spelled,
    table_of,
    unknown,
    without_password,
)
from .settings_sources import (
    ENV_PREFIX,
    FILE_NAME,
    FILE_SUFFIX,
    Entry,
    KeyPath,
    beside_file,
    content,
    find_settings_file,
    flatten,
    from_environment,
    from_file,
    from_flags,
    json_or_text,
    nested,
    overlaid,
)

__all__ = [
    "FILE_NAME",
    "BusSettings",
    "Deadlines",
    "HealthSettings",
    "PluginSettings",
    "Settings",
    "find_settings_file",
    "load_settings",
    "settings_table",
]

DEFAULT = "default"
_ANCHORED = (("plugin_paths",), ("state_dir",), ("token_file",))


def _bus_url(value: str) -> str:
    if not re.match(r"[a-z][a-z0-9+.-]*://", value):
        raise ValueError("should be a URL with a scheme, for example 'memory://' or 'redis://127.0.0.1:6379'")
    return value


def _namespace(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", value):
        raise ValueError("should be a-z, 0-9, '_' and '-', and start with a letter")
    return value


def _replica(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", value):
        raise ValueError(
            "should be letters, digits, '.', '_' and '-', at most 63, the first a letter or digit"
        )
    return value


def _function(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
        raise ValueError("should name a function as 'module:function'")
    return value


def _no_truth(value: Any) -> Any:
    """`true` is no 1."""
    if isinstance(value, bool):
        raise ValueError("should be a whole number, for example 10")  # noqa: TRY004 - pydantic's way
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _partitions(value: Any) -> Any:
    counts = value.items() if isinstance(value, Mapping) else [("", value)]
    for topic, count in counts:
        if topic and (topic in RESERVED_TOPICS or not is_type_name(topic) or topic_of(topic) != topic):
            raise ValueError(
                f"{topic!r} should be a topic that is not reserved: the first word of a type name"
            )
        if isinstance(count, bool) or not re.fullmatch(r"0*[1-9]\d{0,8}", str(count)):
            raise ValueError("should be a whole number from 1, or a table of such numbers by topic")
    return value


class LimitSettings(BusLimits):
    """What the bus keeps. A model of its own so that a wrong `partitions` is told in one sentence."""

    partitions: Annotated[int | dict[str, int], BeforeValidator(_partitions)] = 1
    """Of each topic, or by name as `{orders = 8}`; the default is the backend's. Reserved topics have 1."""

    def as_set(self) -> BusLimits | None:
        """What somebody has set, and nothing else; None if that is nothing."""
        return BusLimits(**self.model_dump(exclude_unset=True)) if self.model_fields_set else None


class BusSettings(_Frozen):
    """Which bus carries the messages."""

    url: Annotated[str, AfterValidator(_bus_url)] = Field("memory://", repr=False)
    """Which bus, by the scheme: `memory://` for one process."""
    namespace: Annotated[str, AfterValidator(_namespace)] = "plugbus"
    """Keeps kernels apart that share a backend."""
    limits: LimitSettings = LimitSettings()
    """What it keeps, and for how long. Only what is set is handed to the bus, which knows its defaults."""

    @property
    def display_url(self) -> str:
        """`url` without a password, for people."""
        return without_password(self.url)


class Deadlines(_Frozen):
    """Seconds that each step of one plugin may take."""

    load: float = Field(30, gt=0)
    """Seconds to import a plugin."""
    initialize: float = Field(30, gt=0)
    """Seconds for `initialize`."""
    start: float = Field(30, gt=0)
    """Seconds for `start`."""
    stop: float = Field(10, gt=0)
    """Seconds for `stop`."""
    shutdown: float = Field(10, gt=0)
    """Seconds for `shutdown`."""
    drain: float = Field(10, gt=0)
    """Seconds in which handlers that run may finish before a stop cancels them."""
    configure: float = Field(10, gt=0)
    """Seconds for `configure` of a running plugin."""
    health: float = Field(5, gt=0)
    """Seconds for one health check."""
    request: float = Field(1, gt=0)
    """Seconds for `handle_request` of one plugin, before the request is passed on."""


class QuarantineSettings(_Frozen):
    """When a plugin whose starts fail is not started any more."""

    start_limit_burst: int = Field(5, ge=1)
    """Failed starts within `start_limit_interval` that put a plugin into quarantine."""
    start_limit_interval: float = Field(600, gt=0)
    """Seconds in which they are counted."""


class HealthSettings(_Frozen):
    """How the kernel sees to the health of plugins."""

    interval: float = Field(10, gt=0)
    """Seconds between two questions to each plugin that has `health_check` or `get_metrics`."""
    failures: int = Field(3, ge=1)
    """Answers in a row that are worse than before until they count; better ones count at once."""
    stall_after: float | None = Field(None, ge=0)
    """Seconds after which who blocks the event loop is named; 0: never. Unset: 1, or 0 in an application."""


class PluginSettings(_Frozen):
    """What the operator says about one plugin."""

    enabled: bool | None = None
    """Whether it is started; unset: the plugin's own default."""
    idle_timeout: float | None = Field(None, ge=0)
    """Seconds without use until it is unloaded, if it is lazy; 0: never; unset: as its manifest says."""
    config: dict[str, JsonValue] = Field(default_factory=dict, repr=False)
    """Its configuration, laid over the manifest's `default_configuration`."""
    add_permissions: tuple[Permission, ...] = ()
    """Permissions beyond what its level allows; audited and shown."""
    remove_permissions: tuple[Permission, ...] = ()
    """Permissions that it does not get although it asks for them."""
    deny: tuple[Pattern, ...] = ()
    """Patterns that it may not publish, subscribe to, provide or request; deny wins."""
    allow_level: SecurityLevel | None = None
    """Let it run at this level where the one that it asks for is not to be had."""
    ranks: dict[TypeName, Annotated[int, BeforeValidator(_no_truth)]] = Field(default_factory=dict)
    """Capability → rank, instead of what its code says: of several providers the highest is asked."""


class Settings(_Frozen):
    """All settings. Frozen; secrets are never part of its text."""

    model_config = ConfigDict(validate_default=True)

    bus: BusSettings = BusSettings()
    replica: Annotated[str, AfterValidator(_replica)] | None = None
    """This kernel's name among all on one bus; unset: the host's name with a random end."""
    state_dir: Path | None = None
    """Holds token, plugin data and lock; unset: `.plugbus/` beside `plugbus.toml`, else the user's folder."""
    token: SecretStr | None = None
    """Bearer token of the web edge; unset: one is made at first start and kept in the state folder."""
    token_file: Path | None = None
    """A file that holds this token instead, such as a mounted secret; read at each start."""
    plugin_paths: tuple[Path, ...] = (Path("my_plugins"),)
    """Folders of plugins, or single plugins; relative to `plugbus.toml`, else to the current folder."""
    plugins: dict[PluginId, PluginSettings] = Field(default_factory=dict)
    edge_plugins: tuple[PluginId, ...] = ("gateway",)
    """Plugins that may hand in whole envelopes from outside and see the table of routes."""
    web_adapter: Annotated[str, AfterValidator(_function)] = "plugins.gateway.adapter:build"
    """Turns a plugin's router into what the web edge serves."""
    deadlines: Deadlines = Deadlines()
    quarantine: QuarantineSettings = QuarantineSettings()
    health: HealthSettings = HealthSettings()
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)
    ] = "info"
    """The least severe log records that are written."""

    @field_validator("token_file")
    @classmethod
    def _one_token(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("token") is not None:
            raise ValueError("should not be set beside `token`: which of the two is meant")
        return value

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    _file: Path | None = PrivateAttr(default=None)
    _value_files: dict[KeyPath, Entry] = PrivateAttr(default_factory=dict)
    _plugin_entries: tuple[Entry, ...] = PrivateAttr(default=())
    _texts: dict[KeyPath, str] = PrivateAttr(default_factory=dict)

    @property
    def file(self) -> Path | None:
        """The `plugbus.toml` that was read, if there was one."""
        return self._file

    def configured_token(self) -> SecretStr | None:
        """`token`, or what `token_file` holds now. Raises `SettingsError`, which shows nothing of it."""
        if self.token_file is None:
            return self.token
        try:
            words = self.token_file.read_text(encoding="utf-8").split()
            problem = "" if len(words) == 1 else "should hold one token and nothing else"
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        except UnicodeDecodeError:
            problem = "is no text"
        if problem:
            raise SettingsError(
                f"the file of the token, {self.token_file}, {problem}",
                where=self.source_of("token_file"),
                fix="openssl rand -hex 32 > FILE, readable by the user who runs the kernel",
            )
        return SecretStr(words[0])

    def configuration(self, plugin_id: str, defaults: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """A plugin's `default_configuration`, and over it what the operator says; files are read here.

        Only now is it known whether a key ends in `_file` by itself: `defaults` has it then. Raises
        `SettingsError` if a file cannot be read, or if a value is given beside its file.
        """
        policy = self.plugins.get(plugin_id) or PluginSettings()
        config: dict[str, JsonValue] = {**defaults, **policy.config}
        for value, entry in self.value_files(plugin_id, defaults).items():
            if _has(policy.config, value):
                raise settings_error([_twice(entry, self.source_of(".".join((*entry.path[:3], *value))))])
            config = _replaced(config, entry.path[3:], value[-1], content(str(entry.value), entry.source))
        return config

    def value_files(self, plugin_id: str, defaults: Mapping[str, JsonValue]) -> dict[KeyPath, Entry]:
        """The keys of a plugin's configuration whose value is in a file, and what names that file."""
        return {
            (*path[3:-1], path[-1].removesuffix(FILE_SUFFIX)): entry
            for path, entry in self._value_files.items()
            if path[1] == plugin_id and not _has(defaults, path[3:])
        }

    def plugin_entries(self, plugin_id: str) -> list[Entry]:
        """What each source says about a plugin's configuration, paths below `config`, the strongest first."""
        return [e._replace(path=e.path[3:]) for e in self._plugin_entries if e.path[1] == plugin_id]

    def variable_texts(self, plugin_id: str) -> dict[KeyPath, str]:
        """Paths below `config` → what the variable says that counts there, as it was written."""
        return {path[3:]: text for path, text in self._texts.items() if path[1] == plugin_id}

    def source_of(self, key: str) -> str:
        """Where the value of a dotted key came from: `plugbus.toml:4`, a variable's name, `default` …"""
        words = key.split(".")
        prefixes = (".".join(words[:length]) for length in range(len(words), 0, -1))
        return next((self._sources[prefix] for prefix in prefixes if prefix in self._sources), DEFAULT)

    def describe(self) -> list[tuple[str, JsonValue, str]]:
        """Every setting as (dotted key, value, source); secrets are masked."""
        values = flatten(self.model_dump(mode="json"))
        return [
            (".".join(path), masked(path, value), self.source_of(".".join(path))) for path, value in values
        ]


# --- reading ------------------------------------------------------------------------------------------


def load_settings(
    *,
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read all sources. `overrides` (the flags) may be dotted or nested.

    `file`: the `plugbus.toml` to read; None: that of the current folder or of the nearest parent, if any.
    Raises `SettingsError` with every problem at once, each with its place and one fix.
    """
    here = Path.cwd()
    found = file if file is not None else find_settings_file()
    home = found.absolute().parent if found else here
    read = from_environment(os.environ if environ is None else environ)
    variables = [_typed(entry) for entry in _with_contents(read)]
    layers = [
        _anchored(from_flags(overrides or {}), here),
        _anchored(variables, here),
        _anchored(from_file(found) if found else [], home),
        _anchored([Entry(("plugin_paths",), ["my_plugins"], DEFAULT)], home),
    ]
    problems = [problem for layer in layers for entry in layer if (problem := unknown(Settings, entry))]
    if problems:
        raise settings_error(problems)
    settings = _validated(layers)
    settings._file = found
    settings._sources = {".".join(e.path): e.source for layer in reversed(layers) for e in layer}
    settings._plugin_entries = tuple(e for layer in layers for e in layer if is_plugin_config(e.path))
    of_plugins = (e for e in read if is_plugin_config(e.path) and beside_file(e.path))
    settings._value_files = {
        e.path: e for e in of_plugins if settings.source_of(".".join(e.path)) == e.source
    }
    settings._texts = {
        e.path: e.value
        for e in read
        if is_plugin_config(e.path) and settings.source_of(".".join(e.path)) == e.source
    }
    return settings


def _with_contents(variables: Sequence[Entry]) -> list[Entry]:
    """`variables`, those that name the file of one of our settings replaced by what the file holds."""
    set_by = {entry.path: entry.source for entry in variables}
    entries, problems = [], []
    for entry in variables:
        value = None if annotation(Settings, entry.path) else beside_file(entry.path)
        if value is None or not annotation(Settings, value):
            entries.append(entry)
        elif value in set_by:
            problems.append(_twice(entry, set_by[value]))
        else:
            entries.append(entry._replace(path=value, value=content(entry.value, entry.source)))
    if problems:
        raise settings_error(problems)
    return entries


def _twice(entry: Entry, other: str) -> Problem:
    text = f"{entry.source} and {other} are both set: which of the two is meant"
    return Problem(text, entry.source, f"unset {entry.source}, or the value at {other}")


def _has(table: Any, path: KeyPath) -> bool:
    for word in path:
        if not isinstance(table, Mapping) or word not in table:
            return False
        table = table[word]
    return True


def _replaced(table: Any, path: KeyPath, name: str, value: str) -> Any:
    """`table` with `name` and its `value` in place of the key at `path`; the original is left alone."""
    first, *rest = path
    if rest:
        return {**table, first: _replaced(table[first], tuple(rest), name, value)}
    return {**{key: kept for key, kept in table.items() if key != first}, name: value}


def _validated(layers: Sequence[Sequence[Entry]]) -> Settings:
    try:
        return Settings.model_validate(functools.reduce(overlaid, map(nested, reversed(layers))))
    except ValidationError as error:
        entries = {entry.path: entry for layer in reversed(layers) for entry in layer}
        problems = [misfit(entries, details["loc"], details["msg"]) for details in error.errors()]
        raise settings_error(problems) from None


def _typed(entry: Entry) -> Entry:
    """A variable's text as what its setting wants: JSON for plugins and tables, lists also as `a,b`."""
    kind = annotation(Settings, entry.path)
    if is_plugin_config(entry.path) or table_of(kind) is not None:
        return entry._replace(value=json_or_text(entry.value))
    if get_origin(kind) is not tuple:
        return entry
    found = json_or_text(entry.value)
    words = [word.strip() for word in entry.value.split(",")]
    return entry._replace(value=found if isinstance(found, list) else words)


def _anchored(entries: Iterable[Entry], folder: Path) -> list[Entry]:
    """Relative paths count from `folder`, the place where they were written."""
    return [e._replace(value=_absolute(e.value, folder)) if e.path in _ANCHORED else e for e in entries]


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, list | tuple):
        return [_absolute(item, folder) for item in value]
    return folder / Path(value).expanduser() if isinstance(value, str | Path) else value


# --- documentation -------------------------------------------------------------------------------------


def settings_table() -> str:
    """Every setting with its variable, default and meaning, as a Markdown table made from the model."""
    rows = ["| setting | variable | default | meaning |", "|---|---|---|---|"]
    settings = list(leaves(Settings))
    meanings = _meanings({sys.modules[cls.__module__] for _, model, _ in settings for cls in _ours(model)})
    for path, model, name in settings:
        default = model.model_fields[name].get_default(call_default_factory=True)
        shown = json.dumps(default, default=_jsonable)
        variable = spelled(path, ENV_PREFIX)
        meaning = next(text for cls in _ours(model) if (text := meanings.get((cls.__name__, name))))
        rows.append(f"| `{'.'.join(path)}` | `{variable}` | `{shown}` | {meaning} |")
    return "\n".join(rows)


def _ours(model: type[BaseModel]) -> list[type]:
    """`model` and the models that it derives from: where its fields are explained."""
    return [cls for cls in model.__mro__ if issubclass(cls, BaseModel) and cls is not BaseModel]


def _meanings(modules: Iterable[ModuleType]) -> dict[tuple[str, str], str]:
    """(class, field) → the text below the field. Read here alone: pydantic would do it at each import."""
    return {
        (cls.name, field.target.id): str(text.value.value)
        for module in modules
        for cls in ast.parse(inspect.getsource(module)).body
        if isinstance(cls, ast.ClassDef)
        for field, text in itertools.pairwise(cls.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _jsonable(value: Any) -> JsonValue:
    return str(value)
