"""The manifest: what is known of a plugin before any of its code runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from .errors import InvalidPattern
from .patterns import PATTERN_FORM, check_pattern, is_type_name
from .security import Permission, ResourceLimits, SecurityLevel

MAX_PLUGIN_ID = 100
"""Characters. An id becomes part of names of files, groups and addresses."""
_ENTRY_POINT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_PLUGIN_ID = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def _plugin_id(value: str) -> str:
    if not _PLUGIN_ID.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a plugin id: lower-case words of a-z and 0-9 joined by single underscores"
        )
    if len(value) > MAX_PLUGIN_ID:
        raise ValueError(f"a plugin id of {len(value)} characters: at most {MAX_PLUGIN_ID}")
    return value


@lru_cache
def _version(value: str) -> str:
    try:
        Version(value)
    except InvalidVersion:
        raise ValueError(f"{value!r} is not a version (PEP 440), for example '1.0.0'") from None
    return value


@lru_cache
def _specifier(value: str) -> str:
    try:
        SpecifierSet(value)
    except InvalidSpecifier:
        raise ValueError(f"{value!r} is not a version specifier, for example '>=1.0,<2'") from None
    return value


def _pattern(value: str) -> str:
    try:
        return check_pattern(value)
    except InvalidPattern as error:
        raise ValueError(f"{error.message}: {error.fix}") from None


@lru_cache
def satisfies(version: str, specifier: str) -> bool:
    """Whether a version is within a specifier, both well formed; pre-releases count."""
    return not specifier or SpecifierSet(specifier).contains(version, prereleases=True)


def _entry_point(value: str) -> str:
    if value and not _ENTRY_POINT.fullmatch(value):
        raise ValueError(f"{value!r} is not an entry point, for example 'alerts:Alerts'")
    return value


class _Form:
    """Text that the regular expression `form` matches; `check` refuses the same in words, for people.

    Of JSON, which programs have written, the expression alone is asked: that needs no call of Python, and
    the index of manifests holds thousands of such texts.
    """

    def __init__(self, check: Callable[[str], str], form: str, max_length: int | None = None) -> None:
        self._check = check
        self._json = core_schema.str_schema(pattern=f"^(?:{form})$", max_length=max_length)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        checked = core_schema.no_info_after_validator_function(self._check, handler(source))
        return core_schema.json_or_python_schema(json_schema=self._json, python_schema=checked)


PluginId = Annotated[str, _Form(_plugin_id, _PLUGIN_ID.pattern, MAX_PLUGIN_ID)]
Pattern = Annotated[str, _Form(_pattern, PATTERN_FORM)]


class PluginDependency(BaseModel):
    """A plugin that must be started before; accepts the string `"webhooks>=1.0"`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plugin_id: PluginId
    version_spec: Annotated[str, AfterValidator(_specifier)] = ""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"\s*([A-Za-z0-9_-]+)\s*(.*?)\s*", value)
        if match is None:
            raise ValueError(f"{value!r} is not a dependency, for example 'webhooks>=1.0'")
        return {"plugin_id": match[1], "version_spec": match[2]}

    def accepts(self, version: str) -> bool:
        """Whether `version` satisfies the specifier; pre-releases count."""
        return satisfies(version, self.version_spec)

    def __str__(self) -> str:
        return f"{self.plugin_id}{self.version_spec}"


class PluginMetadata(BaseModel):
    """One manifest (`plugin.toml`, the same keys in JSON and YAML, or class keywords).

    Unknown keys are refused. `source`, `file_path`, `size_bytes` and `checksum` are filled in by
    discovery and may not stand in a manifest file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    plugin_id: PluginId
    name: str = ""
    """For people; the plugin id where it is absent."""
    version: Annotated[str, AfterValidator(_version)]
    description: str = ""
    author: str = ""
    dependencies: tuple[PluginDependency, ...] = ()
    optional_dependencies: tuple[PluginDependency, ...] = ()
    order_after: tuple[PluginId, ...] = ()
    """Started after these where they are present; no dependency."""
    capabilities: tuple[Pattern, ...] = ()
    """The field guide's name for `provides`."""
    tags: tuple[str, ...] = ()
    entry_point: Annotated[str, _Form(_entry_point, f"({_ENTRY_POINT.pattern})?")] = ""
    """`module:Class`, relative to the plugin's folder."""
    security_level: SecurityLevel = SecurityLevel.SANDBOXED
    required_permissions: tuple[Permission, ...] = ()
    default_configuration: dict[str, JsonValue] = Field(default_factory=dict)
    configuration_schema: dict[str, JsonValue] | None = None
    configuration_version: int = Field(default=1, ge=1)

    publishes: tuple[Pattern, ...] | None = None
    subscribes: tuple[Pattern, ...] | dict[str, tuple[Pattern, ...]] | None = None
    """Patterns (the grants), or a table handler name → patterns, whose names make the groups."""
    provides: tuple[Pattern, ...] | None = None
    requests: tuple[Pattern, ...] | None = None
    requires_plugbus: Annotated[str, AfterValidator(_specifier)] = ""
    requires_bus: tuple[Literal["persistent"], ...] = ()
    activation: Literal["eager", "lazy"] = "eager"
    idle_timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds without use after which a lazy plugin is unloaded until it is needed again; absent: never."""
    criticality: Literal["required", "optional"] = "optional"
    resource_limits: ResourceLimits = ResourceLimits()
    instances: int = Field(default=1, ge=1, le=100)
    """Of its class, in one process; each handles one event or call at a time."""
    reload: Literal["swap", "stop-start"] = "swap"

    source: str = ""
    """Where it was found: `builtin`, a folder, `entry point NAME`, or `class`."""
    file_path: str = ""
    size_bytes: int = 0
    checksum: str = ""
    """SHA-256 of the plugin's files."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.provides is not None and self.capabilities and set(self.provides) != set(self.capabilities):
            raise ValueError("'provides' and 'capabilities' are two names of one thing and differ: keep one")
        if self.activation == "lazy":
            self._check_lazy()
        elif self.idle_timeout is not None:
            raise ValueError("'idle_timeout' is for plugins with 'activation = \"lazy\"': add it")
        if not self.name:
            object.__setattr__(self, "name", self.plugin_id)
        return self

    def _check_lazy(self) -> None:
        if self.subscribes and not isinstance(self.subscribes, dict):
            raise ValueError(
                "'activation = \"lazy\"' needs 'subscribes' as a table, handler name → patterns, "
                'so that its groups exist before it is loaded: subscribes = { watch = ["github.**"] }'
            )
        if wide := [name for name in self.provided or () if not is_type_name(name)]:
            raise ValueError(
                f"'activation = \"lazy\"' needs each capability by name, not '{wide[0]}', "
                'so that a call of it can start the plugin: provides = ["pricing.quote"]'
            )

    @property
    def subscribed_patterns(self) -> tuple[str, ...] | None:
        """All patterns of `subscribes`, or None where the manifest does not say."""
        if self.subscribes is None:
            return None
        if isinstance(self.subscribes, dict):
            return tuple(dict.fromkeys(p for patterns in self.subscribes.values() for p in patterns))
        return self.subscribes

    @property
    def provided(self) -> tuple[str, ...] | None:
        """`provides`, or `capabilities` under its other name; None where the manifest does not say."""
        return self.provides if self.provides is not None else (self.capabilities or None)
