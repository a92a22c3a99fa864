"""Facts about the kernel and its plugins. Published by the kernel alone, each after the change."""

from __future__ import annotations

from ..health import HealthStatus
from .fact import Fact


class KernelStarted(Fact, type="kernel.started"):
    """The kernel is up: every plugin that could be started is."""

    replica: str
    version: str
    started: tuple[str, ...]
    failed: tuple[str, ...]
    seconds: float


class KernelStopping(Fact, type="kernel.stopping"):
    """The kernel begins to stop: no new work from outside."""

    replica: str
    reason: str


class _PluginFact(Fact):
    plugin_id: str
    version: str
    generation: int
    replica: str
    reason: str = ""
    """Why: at boot, by whose command, or because of what."""


class PluginDiscovered(_PluginFact, type="plugin.discovered"):
    """A manifest was found and accepted."""

    source: str


class PluginLoaded(_PluginFact, type="plugin.loaded"):
    """The plugin's code is imported."""


class PluginInitialized(_PluginFact, type="plugin.initialized"):
    """`initialize` has returned."""


class PluginStarted(_PluginFact, type="plugin.started"):
    """The plugin's handlers, providers and routes are active."""

    level_requested: str
    level_effective: str
    seconds: float
    """From the beginning of load."""
    dependents: tuple[str, ...] = ()
    """Ids of the started plugins that depend on it, or optionally do: whom it concerns."""


class PluginStopped(_PluginFact, type="plugin.stopped"):
    """The plugin handles nothing any more; its groups keep their place."""

    dependents: tuple[str, ...] = ()
    """Ids of the started plugins that depend on it, or optionally do: whom it concerns."""


class PluginUnloaded(_PluginFact, type="plugin.unloaded"):
    """The plugin's code is gone from the process."""


class PluginFailed(_PluginFact, type="plugin.failed"):
    """A plugin was refused, or a step of it failed. Others go on."""

    step: str
    """`discover`, `resolve`, `load`, `initialize`, `start`, `stop` or `shutdown`."""
    code: str
    error: str
    place: str = ""
    fix: str = ""


class CapabilityOffered(_PluginFact, type="plugin.capability_offered"):
    """A plugin provides a capability from now on."""

    capability: str
    rank: int
    is_best: bool
    """Whether this replica asks it from now on; else it is there for when better ones go."""


class CapabilityWithdrawing(_PluginFact, type="plugin.capability_withdrawing"):
    """A plugin is about to provide a capability no more.

    Said before: it still answers while its handlers finish, and the one next in rank takes over at once.
    """

    capability: str
    rank: int
    successor: str = ""
    """The plugin that is asked from then on, by this replica; empty: there is none."""
    successor_replica: str = ""


class PluginLeaked(_PluginFact, type="plugin.leaked"):
    """After a plugin's scopes were undone, something of it was still there."""

    leaks: tuple[str, ...]


class PluginQuarantined(_PluginFact, type="plugin.quarantined"):
    """A plugin is not started any more until it is released; `reason` says what it did."""

    by: str
    """`/kernel`, or the source of the command."""


class PluginReleased(_PluginFact, type="plugin.released"):
    """A plugin came out of quarantine and may be started again."""

    by: str


class PluginHealthChanged(_PluginFact, type="plugin.health_changed"):
    """What the kernel takes a plugin's health to be is another than before."""

    status: HealthStatus
    before: HealthStatus
    message: str = ""
    failures: int = 0
    """Answers in a row that were not healthy."""


class PluginStalled(_PluginFact, type="plugin.stalled"):
    """A plugin has blocked the event loop for longer than `health.stall_after`; said when it is over."""

    seconds: float
    place: str
    """File and line of the plugin's own code."""
    stack: tuple[str, ...] = ()
    """What ran, the innermost first."""
