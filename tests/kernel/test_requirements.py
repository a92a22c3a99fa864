"""What plugins require of other distributions, told before anything is imported."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from contracts.bus import Features
from contracts.errors import ManifestError, RequirementNotMet
from contracts.metadata import PluginMetadata
from contracts.plugin import PluginStatus
from kernel import PluginManager
from kernel.cli.check.judge import examine
from kernel.discovered import Discovered
from kernel.discovery import PluginDiscovery
from kernel.requirements import exclude_each_other, unmet_requirements
from kernel.resolver import DependencyResolver
from kernel.settings import load_settings

THERE = {"httpx": "2.1", "acme-tools": "1.0b1"}
MANIFEST = 'plugin_id = "{0}"\nversion = "1"\nsecurity_level = "trusted"\n'
CODE = "raise RuntimeError('imported')\nfrom plugbus import BasePlugin\nclass Main(BasePlugin): ...\n"


def plugin(plugin_id: str, *requirements: str, **more: object) -> Discovered:
    metadata = PluginMetadata.model_validate({"plugin_id": plugin_id, "version": "1", **more})
    return Discovered(metadata, "", "main", "Main", requirements=requirements)


def unmet(*plugins: Discovered) -> dict[str, Sequence[RequirementNotMet]]:
    return dict(unmet_requirements(plugins, THERE.get))


@pytest.mark.parametrize(
    "requirement",
    [
        "httpx",
        "HTTPX>=2,<3",
        "httpx[http2]~=2.0",
        "Acme_Tools>=1.0a1",
        "gone; python_version < '3'",
        "gone; extra == 'test'",
        "gone; sys_platform == 'nowhere'",
        "httpx @ https://example.org/httpx.whl",
    ],
)
def test_what_is_there_is_no_problem(requirement: str) -> None:
    """Names, extras, pre-releases and markers are read as pip reads them."""
    assert unmet(plugin("a", requirement)) == {}


@pytest.mark.parametrize(
    ("requirement", "said"),
    [
        ("gone>=1", "requires 'gone>=1', but it is not installed"),
        ("httpx[http2]<2; python_version > '3'", "requires 'httpx[http2]<2', but httpx 2.1 is installed"),
        ("httpx>>2", "requires 'httpx>>2', which is no requirement"),
        ("x" * 5_000 + " !", "which is no requirement"),
    ],
)
def test_what_is_not_there_is_named(requirement: str, said: str) -> None:
    """Missing, in another version, or never valid: what, where and one fix."""
    (error,) = unmet(plugin("a", requirement, file_path="/somewhere"))["a"]
    assert said in error.message
    assert error.where == "/somewhere"
    assert error.fix
    assert len(error.explain()) < 600


def test_two_that_exclude_each_other_are_both_named() -> None:
    """The chain leads from the one that cannot start over the distribution to the other one."""
    found = unmet(plugin("old", "httpx<1"), plugin("new", "httpx>=2"), plugin("any", "httpx"))
    assert list(found) == ["old"]
    (error,) = found["old"]
    assert error.chain == ("old", "httpx", "new")
    assert "requires 'httpx<1', but httpx 2.1 is installed" in error.message
    assert "'new' requires 'httpx>=2', and no version is both" in error.message
    assert "disable 'new' or 'old'" in error.fix


def test_two_that_could_agree_do_not_blame_each_other() -> None:
    """Where a version exists that does for both, it is a matter of installing it."""
    (error,) = unmet(plugin("a", "httpx<3,>=2.5"), plugin("b", "httpx>=2"))["a"]
    assert error.chain == ("a", "httpx")
    assert error.fix == "pip install 'httpx<3,>=2.5'"


@pytest.mark.parametrize(
    ("first", "second", "excluded"),
    [
        (">=2", "<1", True), (">=2", "<2", True), (">=2", "<=2", False), ("==1.*", "==1.4.2", False),
        ("==1.*", ">=2", True), ("~=1.4", "<1.4", True), ("~=1.4.2", "==1.5", True), ("~=1.4", ">1.9", False),
        ("!=1", "==1.0", True), ("", "<1", False), ("===abc", ">=1", True), (">1", "<1.0.1", False),
        ("==1!2.0", ">=1!1", False),
    ],
)  # fmt: skip
def test_ranges_are_compared(first: str, second: str, excluded: bool) -> None:
    """Either way round, at the edges as well."""
    one, two = SpecifierSet(first), SpecifierSet(second)
    assert exclude_each_other(one, two) is excluded
    assert exclude_each_other(two, one) is excluded


numbers = st.builds("{}.{}.{}".format, *[st.integers(0, 3)] * 3)
specifiers = st.lists(
    st.builds("{}{}".format, st.sampled_from([">=", "<=", "<", ">", "==", "!=", "~="]), numbers), max_size=3
).map(lambda parts: SpecifierSet(",".join(parts)))


@given(specifiers, specifiers, numbers)
def test_what_a_version_satisfies_is_never_called_excluded(
    first: SpecifierSet, second: SpecifierSet, version: str
) -> None:
    """A plugin is blamed only where no version is within both ranges."""
    if exclude_each_other(first, second):
        assert not (first.contains(version) and second.contains(version))


def test_who_needs_such_a_plugin_is_led_to_the_cause() -> None:
    """A dependent plugin's chain goes on to the distribution, also where that is called like a plugin."""
    httpx, user = plugin("httpx", "gone"), plugin("user", "httpx>9", dependencies=["httpx"])
    resolution = DependencyResolver().resolve(
        [httpx.metadata, user.metadata],
        plugbus_version="1",
        bus_features=Features(persistent=True, shared=True),
        unmet=unmet(httpx, user),
    )
    assert [error.chain for error in resolution.problems["user"]] == [
        ("user", "httpx"),
        ("user", "httpx", "gone"),
    ]


# --- where it is said -------------------------------------------------------------------------------

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A folder plugin that requires something."""

    def make(plugin_id: str, *requirements: str) -> Path:
        folder = tmp_path / "plugins" / plugin_id
        folder.mkdir(parents=True)
        (folder / "plugin.toml").write_text(MANIFEST.format(plugin_id))
        (folder / "plugin.py").write_text(CODE)
        (folder / "pyproject.toml").write_text(f"[project]\ndependencies = {json.dumps(requirements)}\n")
        return folder

    return make


async def test_a_kernel_says_it_instead_of_importing(make: Make, tmp_path: Path) -> None:
    """At start the plugin is refused with the reason; nothing of it was imported."""
    make("lacking", "surely-not-installed>=1")
    environ = {
        "PLUGBUS_STATE_DIR": str(tmp_path / "state"),
        "PLUGBUS_PLUGIN_PATHS": json.dumps([str(tmp_path / "plugins")]),
    }
    async with PluginManager(load_settings(environ=environ), profile="embedded") as manager:
        (info,) = [one for one in manager.plugins() if one.plugin_id == "lacking"]
        assert info.status is PluginStatus.ERROR
        assert info.reason is not None
        assert info.reason.code == "RequirementNotMet"
        assert "requires 'surely-not-installed>=1', but it is not installed" in info.reason.text
        assert info.reason.next_step == "pip install 'surely-not-installed>=1'"


def test_check_names_both_of_two_that_exclude_each_other(make: Make, tmp_path: Path) -> None:
    """`plugbus check` holds all that it is given against what is installed, and against each other."""
    make("newer", "pydantic>=2")
    make("older", "pydantic<2")
    reports = {report.plugin_id: report for report in examine([tmp_path / "plugins"], 20)}
    found = [one for one in reports["older"].findings if one.code == "requirement-not-met"]
    assert "'newer' requires 'pydantic>=2'" in found[0].text
    assert not [one for one in reports["newer"].findings if one.code == "requirement-not-met"]


@pytest.mark.parametrize(
    "content", [b"[project", b"\xff", b"a." * 1_000, b"x" * (1 << 21), b"a=" + b"[" * 9_000]
)
def test_a_broken_project_file_is_a_refusal(make: Make, content: bytes) -> None:
    """Nobody knows what such a plugin requires, and that is said."""
    folder = make("broken")
    (folder / "pyproject.toml").write_bytes(content)
    with pytest.raises(ManifestError, match="cannot be read as TOML"):
        PluginDiscovery().discover_path(folder)


@pytest.mark.parametrize(
    "content", ["project = 1", "[project]\ndependencies = 'httpx'", "[tool.x]\ny = 1", ""]
)
def test_a_project_file_without_requirements_requires_nothing(make: Make, content: str) -> None:
    """Tools put theirs there as well."""
    folder = make("plain")
    (folder / "pyproject.toml").write_text(content)
    assert PluginDiscovery().discover_path(folder).requirements == ()


def test_an_entry_point_brings_what_its_distribution_requires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Requires-Dist` of the metadata, markers included."""
    info = tmp_path / "acme_x-1.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: acme-x", "Version: 1.0", "Requires-Dist: gone (>=1)", ""]
    (info / "METADATA").write_text("\n".join(lines))
    (info / "entry_points.txt").write_text("[test.required]\nx = acme_x:Main\n")
    (tmp_path / "acme_x.py").write_text(
        CODE.replace("(BasePlugin)", '(BasePlugin, plugin_id="x", version="1")')
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (found,) = PluginDiscovery().discover_from_entry_points("test.required").found
    (error,) = unmet(found)["x"]
    assert "but it is not installed" in error.message
