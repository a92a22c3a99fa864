"""Who can start, in which order, and everything that is wrong with the others. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from packaging.version import Version

from contracts.bus import Features
from contracts.errors import (
    CircularDependencyError,
    DependencyError,
    MissingDependency,
    RequirementNotMet,
    VersionConflict,
)
from contracts.metadata import PluginDependency, PluginMetadata, satisfies

from .dependencies import Graph, circles_of, hard_edges, soft_edges, users_of, waves_of, within
from .manifest_problems import suggestion

LONGEST_CHAIN = 10
"""Ids of a chain that a message spells out; the error's `chain` has them all."""

Problems = dict[str, list[DependencyError]]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What one look at all manifests together says."""

    waves: tuple[tuple[str, ...], ...]
    """Those of one wave can start side by side, once all earlier waves have."""
    order: tuple[str, ...]
    """The waves one behind the other."""
    problems: Mapping[str, tuple[DependencyError, ...]]
    """Why the other plugins cannot start; all reasons of each."""
    ignored: tuple[str, ...] = ()
    """Wishes for an order (`optional_dependencies`, `order_after`) that contradict each other."""


@dataclass(frozen=True, slots=True)
class _World:
    """What the plugins are resolved against."""

    present: Mapping[str, PluginMetadata]
    disabled: Collection[str] = ()
    refused: Collection[str] = ()
    plugbus_version: str | None = None
    bus_features: Features | None = None
    problems: Problems = field(default_factory=dict)
    graph: Graph = field(init=False)
    """What those that are present need of each other."""

    def __post_init__(self) -> None:
        graph = within(hard_edges(self.present.values()), self.present.keys())
        object.__setattr__(self, "graph", graph)

    def add(self, plugin_id: str, error: DependencyError) -> None:
        self.problems.setdefault(plugin_id, []).append(error)


class DependencyResolver:
    """Resolves all manifests at once. Keeps nothing between two calls."""

    def resolve(
        self,
        metadatas: Iterable[PluginMetadata],
        *,
        plugbus_version: str,
        bus_features: Features,
        disabled: Collection[str] = (),
        refused: Collection[str] = (),
        unmet: Mapping[str, Sequence[DependencyError]] | None = None,
    ) -> Resolution:
        """The start order of what can start, and every problem of what cannot.

        `disabled` and `refused` are ids of plugins that are known but will not start; their metadata may
        be among `metadatas`. `unmet` is what else is wrong with plugins. A plugin that needs one that
        cannot start cannot start either; its problem leads to the cause. An optional dependency may be
        missing, but if it is there its version must fit.
        """
        out = {*disabled, *refused}
        present = {one.plugin_id: one for one in metadatas if one.plugin_id not in out}
        world = _World(present, disabled, refused, plugbus_version, bus_features)
        for metadata in present.values():
            _check_alone(metadata, world)
            for error in (unmet or {}).get(metadata.plugin_id, ()):
                world.add(metadata.plugin_id, error)
        _check_circles(world)
        _refuse_followers(world)
        while _check_optional(world):
            _refuse_followers(world)
        return _resolution(world)

    def build_dependency_graph(self, metadatas: Iterable[PluginMetadata]) -> dict[str, set[str]]:
        """Plugin id → the ids that it depends on, installed or not. Optional ones are left out."""
        return hard_edges(metadatas)

    def resolve_load_order(self, metadatas: Iterable[PluginMetadata]) -> tuple[str, ...]:
        """The ids in start order. Raises the first `DependencyError` if there is any problem."""
        world = _World({one.plugin_id: one for one in metadatas})
        for metadata in world.present.values():
            _check_dependencies(metadata, world)
        _check_circles(world)
        _check_optional(world)
        for errors in world.problems.values():
            raise errors[0]
        return _resolution(world).order

    def detect_circular_dependencies(self, graph: Graph) -> tuple[tuple[str, ...], ...]:
        """The circles of a graph, each from its first id back to it: `("a", "b", "a")`."""
        circles = circles_of(within(graph, set(graph))).values()
        return tuple(sorted({_from_first_id(circle) for circle in circles}))

    def check_version_conflicts(self, metadatas: Iterable[PluginMetadata]) -> tuple[VersionConflict, ...]:
        """Every dependency, optional ones included, whose installed version does not satisfy it."""
        present = {one.plugin_id: one for one in metadatas}
        return tuple(
            conflict
            for one in present.values()
            for wanted in (*one.dependencies, *one.optional_dependencies)
            if wanted.plugin_id in present and (conflict := _conflict(one, wanted, present[wanted.plugin_id]))
        )


# --- one plugin at a time ------------------------------------------------------------------------


def _check_alone(metadata: PluginMetadata, world: _World) -> None:
    version, features = world.plugbus_version, world.bus_features
    if version is not None and not satisfies(version, metadata.requires_plugbus):
        world.add(metadata.plugin_id, _host_conflict(metadata, version))
    if features and (lacking := [one for one in metadata.requires_bus if not getattr(features, one)]):
        world.add(metadata.plugin_id, _bus_lacks(metadata, lacking))
    _check_dependencies(metadata, world)


def _check_dependencies(metadata: PluginMetadata, world: _World) -> None:
    for wanted in metadata.dependencies:
        other = world.present.get(wanted.plugin_id)
        if other is None:
            world.add(metadata.plugin_id, _missing(metadata, wanted, world))
        elif conflict := _conflict(metadata, wanted, other):
            world.add(metadata.plugin_id, conflict)


def _host_conflict(metadata: PluginMetadata, version: str) -> VersionConflict:
    required = metadata.requires_plugbus
    return VersionConflict(
        f"needs plugbus {required}, this is {version}",
        plugin_id=metadata.plugin_id,
        where=metadata.file_path,
        fix=f'pip install "plugbus{required}", or write requires_plugbus = "{_at_least(version)}"',
        required=required,
        found=version,
        chain=(metadata.plugin_id, "plugbus"),
    )


def _bus_lacks(metadata: PluginMetadata, lacking: Sequence[str]) -> DependencyError:
    return DependencyError(
        f"needs a bus that is {' and '.join(lacking)}, this one is not",
        plugin_id=metadata.plugin_id,
        where=metadata.file_path,
        fix="choose a bus that is, for example PLUGBUS_BUS__URL=redis://localhost:6379",
        chain=(metadata.plugin_id, "bus"),
    )


def _missing(metadata: PluginMetadata, wanted: PluginDependency, world: _World) -> MissingDependency:
    name = wanted.plugin_id
    if name in world.disabled:
        text, fix = f"needs '{wanted}', which is disabled", f"enable it: [plugins.{name}] enabled = true"
    elif name in world.refused:
        text, fix = f"needs '{wanted}', which is refused", f"mend {name} first"
    else:
        text, fix = f"needs '{wanted}', which is not installed", f"install {name}, or remove the dependency"
        if meant := suggestion(name, (*world.present, *world.disabled, *world.refused)):
            text, fix = f"{text}; did you mean '{meant}'?", f"write '{meant}{wanted.version_spec}'"
    return MissingDependency(
        text,
        plugin_id=metadata.plugin_id,
        where=metadata.file_path,
        fix=fix,
        chain=(metadata.plugin_id, name),
    )


def _conflict(
    metadata: PluginMetadata, wanted: PluginDependency, other: PluginMetadata
) -> VersionConflict | None:
    if wanted.accepts(other.version):
        return None
    return VersionConflict(
        f"needs '{wanted}', but {other.plugin_id} {other.version} is installed",
        plugin_id=metadata.plugin_id,
        where=metadata.file_path,
        fix=f"install {wanted}, or write '{other.plugin_id}{_at_least(other.version)}' if that does",
        required=wanted.version_spec,
        found=other.version,
        chain=(metadata.plugin_id, other.plugin_id),
    )


def _at_least(version: str) -> str:
    return f">={Version(version).public}"


# --- all together --------------------------------------------------------------------------------


def _check_circles(world: _World) -> None:
    for plugin_id, circle in circles_of(world.graph).items():
        error = CircularDependencyError(
            f"depends on itself: {_arrows(circle)}",
            plugin_id=plugin_id,
            where=world.present[plugin_id].file_path,
            fix="let one of them speak to the other by events, or make it an optional dependency",
            chain=circle,
        )
        world.add(plugin_id, error)


def _refuse_followers(world: _World) -> None:
    """Refuse who needs a refused one, nearest first, so that each chain is a shortest one."""
    if not world.problems:
        return
    users = users_of(world.graph)
    told = {
        (error.plugin_id, error.chain[1])
        for errors in world.problems.values()
        for error in errors
        if not isinstance(error, RequirementNotMet)  # a distribution may be called like a plugin
    }
    waiting = sorted(world.problems)
    while waiting:
        followers = []
        for cause in waiting:
            for user in sorted(users.get(cause, ())):
                is_new = user not in world.problems
                if (user, cause) not in told:
                    told.add((user, cause))
                    world.add(user, _follows(user, cause, world))
                if is_new:
                    followers.append(user)
        waiting = followers


def _follows(user: str, cause: str, world: _World) -> MissingDependency:
    root = world.problems[cause][0]
    chain = (user, *root.chain)
    return MissingDependency(
        f"needs '{cause}', which cannot start: {_arrows(chain)}: {root.details.get('root') or root.message}",
        plugin_id=user,
        where=world.present[user].file_path,
        fix=root.fix,
        chain=chain,
        root=root.details.get("root") or root.message,
    )


def _check_optional(world: _World) -> bool:
    """Refuse who would meet a wrong version of what it only wishes for; whether anybody was."""
    starting = {id: one for id, one in world.present.items() if id not in world.problems}
    conflicts = [
        conflict
        for one in starting.values()
        for wanted in one.optional_dependencies
        if wanted.plugin_id in starting and (conflict := _conflict(one, wanted, starting[wanted.plugin_id]))
    ]
    for conflict in conflicts:
        world.add(conflict.plugin_id, conflict)
    return bool(conflicts)


def _resolution(world: _World) -> Resolution:
    starting = world.present.keys() - world.problems.keys()
    graph, ignored = _with_wishes(world, starting)
    waves = waves_of(graph)
    problems = {plugin_id: tuple(world.problems[plugin_id]) for plugin_id in sorted(world.problems)}
    return Resolution(waves, tuple(id for wave in waves for id in wave), problems, ignored)


def _with_wishes(world: _World, starting: set[str]) -> tuple[Graph, tuple[str, ...]]:
    """The graph to start by: dependencies, and the wishes that do not contradict them or each other."""
    hard = within(world.graph, starting) if world.problems else world.graph
    wishes = within(soft_edges(world.present.values()), starting)
    if not any(wishes.values()):
        return hard, ()
    soft = {node: wishes.get(node, set()) for node in hard}
    ignored: list[str] = []
    while circles := circles_of({node: hard[node] | soft[node] for node in hard}):
        for circle in circles.values():
            ignored += _drop_wishes(circle, hard, soft)
    return {node: hard[node] | soft[node] for node in hard}, tuple(dict.fromkeys(ignored))


def _drop_wishes(circle: Sequence[str], hard: Graph, soft: dict[str, set[str]]) -> list[str]:
    steps = [(user, other) for user, other in pairwise(circle) if other in soft[user]]
    dropped = [(user, other) for user, other in steps if other not in hard[user]]
    for user, other in steps:
        soft[user].discard(other)
    return [f"'{user}' cannot start after '{other}': {_arrows(circle)}" for user, other in dropped]


def _from_first_id(circle: Sequence[str]) -> tuple[str, ...]:
    start = circle.index(min(circle))
    return (*circle[start:-1], *circle[: start + 1])


def _arrows(chain: Sequence[str]) -> str:
    shown = chain if len(chain) <= LONGEST_CHAIN else (*chain[: LONGEST_CHAIN - 3], "…", *chain[-2:])
    return " → ".join(shown)
