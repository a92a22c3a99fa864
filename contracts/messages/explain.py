"""Why a plugin stands where it stands: the query that brings together what is known of it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from ..plugin import PluginStatus
from ..query import Query
from .commands import PluginReason

Tie = Literal["dependency", "optional", "order"]
"""`dependency`: does not start without. `optional`, `order`: starts after it where it is there
(`optional_dependencies`, `order_after`)."""


class StartsAfter(BaseModel):
    """A plugin that another one starts after."""

    model_config = ConfigDict(frozen=True)

    plugin_id: str
    tie: Tie
    version_spec: str = ""
    status: PluginStatus | None = None
    """None: it was not found."""
    wave: int | None = None
    """In which it was started; None: it had no place in the start order."""
    decides: bool = False
    """It is the latest of them, and so decides the place of the one that starts after it."""


class StartPlace(BaseModel):
    """Where a plugin came in the start order of this kernel, and why there."""

    model_config = ConfigDict(frozen=True)

    wave: int | None = None
    """Counted from 1; those of one wave start side by side. None: it had no place when the kernel started."""
    waves: int
    """How many there were."""
    beside: tuple[str, ...] = ()
    """The others of its wave."""
    why: str
    """One sentence."""
    after: tuple[StartsAfter, ...] = ()


class Dependent(BaseModel):
    """A plugin that another one is there for."""

    model_config = ConfigDict(frozen=True)

    plugin_id: str
    status: PluginStatus
    tie: Tie
    """Only a `dependency` breaks where the other goes."""
    chain: tuple[str, ...]
    """A shortest way from it to the plugin that it needs, both included."""


class EventLink(BaseModel):
    """What a plugin publishes or handles, and who is on the other side."""

    model_config = ConfigDict(frozen=True)

    pattern: str
    """The type of an event, or a pattern of types."""
    group: str = ""
    """The handler's group, for what is handled."""
    others: tuple[str, ...] = ()
    """Groups that handle it; plugins that publish it."""
    is_only: bool = False
    """Nobody else publishes it, so that those who handle it get none without this plugin."""


class CapabilityLink(BaseModel):
    """What a plugin provides or requests, and who is on the other side."""

    model_config = ConfigDict(frozen=True)

    capability: str
    """Its name, or a pattern of names."""
    others: tuple[str, ...] = ()
    """Plugins that request it; plugins that provide it."""
    is_only: bool = False
    """Nobody else provides it, so that requests have no answer without this plugin."""


class PluginExplanation(BaseModel):
    """Why a plugin is loaded or not, why in this place, who needs it, and what it says and hears."""

    model_config = ConfigDict(frozen=True)

    plugin_id: str
    version: str
    status: PluginStatus
    activity: str
    enabled: bool
    enabled_by: str = ""
    """Who or what says so: an operator, a place in the settings, a default."""
    reason: PluginReason | None = None
    source: str = ""
    """Which of the places where plugins are looked for had it."""
    path: str = ""
    shadowed: tuple[str, ...] = ()
    """Places where the same id was found as well, and passed over."""
    start: StartPlace
    needed_by: tuple[Dependent, ...] = ()
    """Who names it, and who needs one of those, the nearest first."""
    known_from: Literal["code", "manifest"]
    """Whether what follows is what its code declares, or only what the manifest says (nothing is loaded)."""
    provides: tuple[CapabilityLink, ...] = ()
    requests: tuple[CapabilityLink, ...] = ()
    publishes: tuple[EventLink, ...] = ()
    handles: tuple[EventLink, ...] = ()


class ExplainPlugin(Query[PluginExplanation], capability="kernel.plugin.explain"):
    """Why one plugin is loaded or not, and how it hangs together with the others."""

    plugin_id: str
