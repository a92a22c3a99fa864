"""The graph of plugins: pure functions over id → ids that must start before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from graphlib import TopologicalSorter

from contracts.metadata import PluginMetadata

Graph = Mapping[str, AbstractSet[str]]


def hard_edges(metadatas: Iterable[PluginMetadata]) -> dict[str, set[str]]:
    """What each plugin cannot do without, installed or not."""
    return {one.plugin_id: {needed.plugin_id for needed in one.dependencies} for one in metadatas}


def soft_edges(metadatas: Iterable[PluginMetadata]) -> dict[str, set[str]]:
    """What each plugin starts after, if it is there."""
    return {
        one.plugin_id: {*(wanted.plugin_id for wanted in one.optional_dependencies), *one.order_after}
        for one in metadatas
    }


def within(graph: Graph, ids: AbstractSet[str]) -> dict[str, set[str]]:
    """The part of the graph that lies between `ids`."""
    return {node: set(graph[node]) & ids for node in graph if node in ids}


def waves_of(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """The nodes in waves: each starts after all those that it needs. The graph must be free of circles."""
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    waves = []
    while ready := tuple(sorted(sorter.get_ready())):
        waves.append(ready)
        sorter.done(*ready)
    return tuple(waves)


def circles_of(graph: Graph) -> dict[str, tuple[str, ...]]:
    """For each node that lies on a circle: a shortest one, from that node back to itself."""
    circles: dict[str, tuple[str, ...]] = {}
    core = _core(graph)
    for node in sorted(core):
        if node not in circles and (circle := _way_back(core, node)):
            for start in range(len(circle)):
                turned = (*circle[start:], *circle[: start + 1])
                circles.setdefault(turned[0], turned)
    return circles


def _core(graph: Graph) -> dict[str, set[str]]:
    """What is left when everything that cannot lie on a circle is taken away."""
    core = within(graph, set(graph))
    for _ in range(2):  # once from those that need nobody, once from those that nobody needs
        core = _without_leaves(_reversed(core))
    return core


def _reversed(graph: Graph) -> dict[str, set[str]]:
    turned: dict[str, set[str]] = {node: set() for node in graph}
    for node, others in graph.items():
        for other in others:
            turned[other].add(node)
    return turned


def _without_leaves(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    left = {node: len(others) for node, others in graph.items()}
    users = _reversed(graph)
    leaves = [node for node, count in left.items() if not count]
    while leaves:
        leaf = leaves.pop()
        del left[leaf]
        for user in users[leaf]:
            left[user] -= 1
            if not left[user]:
                leaves.append(user)
    return within(graph, left.keys())


def _way_back(graph: Graph, start: str) -> tuple[str, ...]:
    """A shortest way from `start` to itself, without the return at the end; empty if there is none."""
    came_from: dict[str, str] = {}
    waiting = deque([start])
    while waiting:
        node = waiting.popleft()
        for other in sorted(graph[node]):
            if other == start:
                return _walked(came_from, start, node)
            if other not in came_from:
                came_from[other] = node
                waiting.append(other)
    return ()


def _walked(came_from: Mapping[str, str], start: str, end: str) -> tuple[str, ...]:
    way = [end]
    while way[-1] != start:
        way.append(came_from[way[-1]])
    return tuple(reversed(way))
