"""The graph of plugins: pure functions over id → ids that must start before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from contracts.metadata import PluginMetadata

Graph = Mapping[str, AbstractSet[str]]


def hard_edges(metadatas: Iterable[PluginMetadata]) -> dict[str, set[str]]:
    """What each plugin cannot do without, installed or not."""
    return {one.plugin_id: {needed.plugin_id for needed in one.dependencies} for one in metadatas}


def soft_edges(metadatas: Iterable[PluginMetadata]) -> dict[str, set[str]]:
    """What plugins start after, if it is there; those without such a wish are left out."""
    return {
        one.plugin_id: {*(wanted.plugin_id for wanted in one.optional_dependencies), *one.order_after}
        for one in metadatas
        if one.optional_dependencies or one.order_after
    }


def within(graph: Graph, ids: AbstractSet[str]) -> dict[str, set[str]]:
    """The part of the graph that lies between `ids`."""
    return {node: {one for one in others if one in ids} for node, others in graph.items() if node in ids}


def waves_of(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """The nodes in waves: each starts after all those that it needs.

    What lies on a circle, or needs what does, is in none.
    """
    left = {node: len(others) for node, others in graph.items()}
    users = users_of(graph)
    waves = []
    ready = [node for node, count in left.items() if not count]
    while ready:
        waves.append(tuple(sorted(ready)))
        ready = []
        for node in waves[-1]:
            for user in users.get(node, ()):
                left[user] -= 1
                if not left[user]:
                    ready.append(user)
    return tuple(waves)


def users_of(graph: Graph) -> dict[str, list[str]]:
    """The graph turned round; who is needed by nobody is not in it."""
    users: dict[str, list[str]] = {}
    for node, others in graph.items():
        for other in others:
            users.setdefault(other, []).append(node)
    return users


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
    behind = _without_waves(graph)  # those that lie on a circle or need one that does
    users = users_of(behind)
    return within(behind, _without_waves({node: {*users.get(node, ())} for node in behind}).keys())


def _without_waves(graph: Graph) -> dict[str, set[str]]:
    return within(graph, graph.keys() - {node for wave in waves_of(graph) for node in wave})


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
