"""Start order, and every problem with the chain that leads to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.bus import Features
from contracts.errors import CircularDependencyError, DependencyError, MissingDependency, VersionConflict
from contracts.metadata import PluginMetadata
from kernel.resolver import DependencyResolver, Resolution

MEMORY = Features(persistent=False, shared=False)


def plugin(plugin_id: str, *dependencies: str, version: str = "1.0.0", **more: Any) -> PluginMetadata:
    return PluginMetadata.model_validate(
        {"plugin_id": plugin_id, "version": version, "dependencies": dependencies, **more}
    )


def resolve(*plugins: PluginMetadata, **options: Any) -> Resolution:
    given_options = {"plugbus_version": "0.1.0", "bus_features": MEMORY, **options}
    return DependencyResolver().resolve(plugins, **given_options)


def only(problems: Sequence[DependencyError]) -> DependencyError:
    assert len(problems) == 1
    return problems[0]


def test_independent_plugins_are_one_wave() -> None:
    """Plugins that need nobody start side by side, in the order of their ids."""
    assert resolve(plugin("b"), plugin("a")).waves == (("a", "b"),)


def test_dependencies_make_waves() -> None:
    """Each plugin is in the first wave after all that it needs; the order is the waves in a row."""
    resolution = resolve(plugin("c", "b", "a"), plugin("b", "a"), plugin("a"), plugin("d", "a"))
    assert resolution.waves == (("a",), ("b", "d"), ("c",))
    assert resolution.order == ("a", "b", "d", "c")
    assert not resolution.problems


def test_a_chain_of_a_thousand_is_resolved() -> None:
    """The length of a chain of dependencies is not limited by recursion, nor is that of a circle."""
    chain = [plugin(f"p{number}", f"p{number - 1}") for number in range(1, 1000)]
    assert resolve(plugin("p0"), *chain).order == tuple(f"p{number}" for number in range(1000))
    problems = resolve(plugin("p0", "p999"), *chain).problems
    assert len(problems) == 1000
    assert all(len(error.explain()) < 500 for errors in problems.values() for error in errors)


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("1.0.0", ">=1.0", True),
        ("1.10", ">=1.9", True),
        ("2.0.0b1", ">=1.0", True),
        ("2.0.0", ">=1.0,<2", False),
        ("1.4.2", "~=1.4", True),
        ("1.4.2+local", "==1.4.2", True),
        ("1.0", "!=1.0", False),
        ("1.0", "", True),
    ],
)
def test_versions_are_compared_as_packaging_does(version: str, wanted: str, fits: bool) -> None:
    """Specifiers are those of Python packaging, and pre-releases count."""
    resolution = resolve(plugin("a", version=version), plugin("b", f"a{wanted}"))
    assert ("b" in resolution.order) is fits


def test_a_missing_dependency_is_named() -> None:
    """What is not installed is named, with the nearest name that is."""
    error = only(resolve(plugin("alerts", "webhook>=1"), plugin("webhooks")).problems["alerts"])
    assert isinstance(error, MissingDependency)
    assert error.message == "needs 'webhook>=1', which is not installed; did you mean 'webhooks'?"
    assert error.fix == "write 'webhooks>=1'"
    assert error.chain == ("alerts", "webhook")
    assert error.plugin_id == "alerts"


def test_a_disabled_dependency_is_to_be_enabled() -> None:
    """A dependency that is there but disabled is distinguished from one that is not there."""
    resolution = resolve(plugin("a", "b"), plugin("b"), disabled=["b"])
    assert resolution.waves == ()
    error = only(resolution.problems["a"])
    assert "disabled" in error.message
    assert error.fix == "enable it: [plugins.b] enabled = true"


def test_a_dependency_that_was_refused_before_is_told_apart() -> None:
    """A dependency whose manifest was refused is not called missing."""
    assert "refused" in only(resolve(plugin("a", "b"), refused=["b"]).problems["a"]).message


def test_a_version_conflict_names_both_sides_and_what_would_do() -> None:
    """Required, found, the chain, and the specifier that would accept what is installed."""
    error = only(resolve(plugin("a", "b>=2"), plugin("b", version="1.4")).problems["a"])
    assert isinstance(error, VersionConflict)
    assert (error.required, error.found, error.chain) == (">=2", "1.4", ("a", "b"))
    assert error.message == "needs 'b>=2', but b 1.4 is installed"
    assert "'b>=1.4'" in error.fix


def test_all_problems_of_a_plugin_are_found_at_once() -> None:
    """Nobody has to mend one thing to be told the next."""
    broken = plugin("a", "b>=2", "c", requires_plugbus=">=9", requires_bus=["persistent"])
    problems = resolve(broken, plugin("b")).problems["a"]
    assert len(problems) == 4
    said = " ".join(problem.message for problem in problems)
    for part in ("b>=2", "'c'", "plugbus >=9, this is 0.1.0", "persistent"):
        assert part in said


def test_the_bus_is_asked_for_what_it_promises() -> None:
    """`requires_bus` is met by a bus whose record of features says so."""
    persistent = Features(persistent=True, shared=True)
    needy = plugin("a", requires_bus=["persistent"])
    assert resolve(needy, bus_features=persistent).order == ("a",)
    assert only(resolve(needy).problems["a"]).chain == ("a", "bus")


def test_a_refused_plugin_refuses_those_that_need_it() -> None:
    """The chain leads to the root cause, whose reason and fix are repeated; the others go on."""
    resolution = resolve(plugin("a", "b"), plugin("b", "c"), plugin("c", "d>=1"), plugin("free"))
    assert resolution.order == ("free",)
    error = only(resolution.problems["a"])
    assert error.chain == ("a", "b", "c", "d")
    assert error.message == (
        "needs 'b', which cannot start: a → b → c → d: needs 'd>=1', which is not installed"
    )
    assert error.fix == resolution.problems["c"][0].fix


def test_a_circle_is_shown_from_each_member() -> None:
    """Each plugin on a circle is told the circle from its own place; a follower is led to it."""
    resolution = resolve(plugin("a", "b"), plugin("b", "c"), plugin("c", "a"), plugin("d", "a"), plugin("e"))
    assert resolution.order == ("e",)
    error = only(resolution.problems["b"])
    assert isinstance(error, CircularDependencyError)
    assert error.chain == ("b", "c", "a", "b")
    assert only(resolution.problems["d"]).chain == ("d", "a", "b", "c", "a")


def test_a_plugin_that_needs_itself_is_a_circle() -> None:
    """The smallest circle has one member."""
    assert resolve(plugin("a", "a")).problems["a"][0].chain == ("a", "a")


def test_what_lies_between_two_circles_is_on_neither() -> None:
    """A plugin that needs a circle and is needed by another is a follower, not a member."""
    resolution = resolve(
        plugin("a", "b", "m"), plugin("b", "a"), plugin("m", "x"), plugin("x", "y"), plugin("y", "x")
    )
    assert not any(isinstance(error, CircularDependencyError) for error in resolution.problems["m"])


def test_optional_dependencies_only_order() -> None:
    """What is only wished for comes first if it is there, and is not missed if it is not."""
    resolution = resolve(
        plugin("a", optional_dependencies=["z>=1"], order_after=["y", "nobody"]), plugin("y"), plugin("z")
    )
    assert resolution.waves == (("y", "z"), ("a",))
    assert resolve(plugin("a", optional_dependencies=["z>=1"])).order == ("a",)


def test_an_optional_dependency_of_the_wrong_version_is_a_problem() -> None:
    """Present with a version that the plugin says it cannot work with, it is refused."""
    resolution = resolve(plugin("a", optional_dependencies=["z>=2"]), plugin("z"), plugin("b", "a"))
    assert resolution.order == ("z",)
    assert only(resolution.problems["a"]).chain == ("a", "z")
    assert only(resolution.problems["b"]).chain == ("b", "a", "z")


def test_an_optional_dependency_that_cannot_start_counts_as_absent() -> None:
    """A wrong version of a plugin that does not start anyway does no harm."""
    assert resolve(plugin("a", optional_dependencies=["z>=2"]), plugin("z", "missing")).order == ("a",)


def test_wishes_that_contradict_are_ignored_and_told() -> None:
    """An order that cannot be is no reason not to start: dependencies win, and the wish is named."""
    resolution = resolve(plugin("a", order_after=["b"]), plugin("b", "a"))
    assert resolution.order == ("a", "b")
    assert resolution.ignored == ("'a' cannot start after 'b': a → b → a",)
    both = resolve(plugin("a", order_after=["b"]), plugin("b", order_after=["a"]))
    assert both.order == ("a", "b")
    assert len(both.ignored) == 2


def test_the_guides_names_work() -> None:
    """Graph, order, circles and conflicts can be asked for one by one."""
    resolver = DependencyResolver()
    plugins = [plugin("a", "b"), plugin("b")]
    assert resolver.build_dependency_graph(plugins) == {"a": {"b"}, "b": set()}
    assert resolver.resolve_load_order(plugins) == ("b", "a")
    assert resolver.check_version_conflicts([plugin("a", "b>=2"), plugin("b")])[0].found == "1.0.0"
    graph = {"a": {"b"}, "b": {"a", "c"}, "c": {"b", "gone"}}
    assert resolver.detect_circular_dependencies(graph) == (("a", "b", "a"), ("b", "c", "b"))
    with pytest.raises(MissingDependency):
        resolver.resolve_load_order([plugin("a", "b")])
    with pytest.raises(CircularDependencyError):
        resolver.resolve_load_order([plugin("a", "b"), plugin("b", "a")])


ids = st.sampled_from("abcdef")
worlds = st.dictionaries(ids, st.tuples(st.sets(ids), st.sets(ids), st.sets(ids)), min_size=1)


@given(worlds)
def test_every_plugin_is_either_in_order_or_has_a_problem(
    world: Mapping[str, tuple[set[str], set[str], set[str]]],
) -> None:
    """For any dependencies: each plugin starts after all that it needs, or has a problem that says why."""
    plugins = [
        plugin(name, *sorted(hard), optional_dependencies=sorted(wished), order_after=sorted(after))
        for name, (hard, wished, after) in world.items()
    ]
    resolution = resolve(*plugins)
    assert set(resolution.order) | set(resolution.problems) == set(world)
    assert not set(resolution.order) & set(resolution.problems)
    for place, name in enumerate(resolution.order):
        assert world[name][0] <= set(resolution.order[:place])
    for name, errors in resolution.problems.items():
        assert all(error.chain[0] == name and error.fix for error in errors)
        assert not world[name][0] <= set(resolution.order)
    assert resolve(*reversed(plugins)).waves == resolution.waves
