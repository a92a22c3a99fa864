"""Finding plugins in folders, files and installed distributions, without running them."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contracts.errors import ManifestError
from contracts.security import SecurityLevel
from kernel import bounded, plugin_files
from kernel.discovery import Discovery, PluginDiscovery, Source

GREETER = """\
from plugbus import BasePlugin
raise RuntimeError("discovery ran the plugin")
class Greeter(BasePlugin, plugin_id="greeter", version="1.0.0", security_level="trusted"):
    pass
"""
MANIFEST = 'plugin_id = "{0}"\nversion = "1.0.0"\nentry_point = "{0}:Plugin"\n'

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str | bytes = "") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def scan(path: Path, source: str = "") -> Discovery:
    return PluginDiscovery().discover_from_directory(path, source)


def ids(discovery: Discovery) -> list[str]:
    return [found.plugin_id for found in discovery.found]


def refused(discovery: Discovery) -> ManifestError:
    assert not discovery.found
    (refusal,) = discovery.refused
    assert isinstance(refusal.error, ManifestError)
    return refusal.error


# --- folders ---------------------------------------------------------------------------------------


def test_a_folder_with_a_manifest_is_a_plugin(write: Write, tmp_path: Path) -> None:
    """Metadata, place, size and checksum are known without importing anything."""
    manifest = write("alerts/plugin.toml", MANIFEST.format("alerts"))
    code = write("alerts/alerts.py", "raise RuntimeError")
    (found,) = scan(tmp_path, "builtin").found
    assert (found.root, found.module, found.class_name) == (tmp_path / "alerts", "alerts", "Plugin")
    assert found.metadata.source == "builtin"
    assert found.metadata.file_path == str(manifest)
    assert found.metadata.size_bytes == manifest.stat().st_size + code.stat().st_size
    assert len(found.metadata.checksum) == 64
    assert found.code == found.root


def test_the_checksum_follows_the_code(write: Write, tmp_path: Path) -> None:
    """A change of a byte or a name changes the checksum; bytecode and hidden files do not."""

    def checksum() -> str:
        return scan(tmp_path).found[0].metadata.checksum

    write("a/plugin.toml", MANIFEST.format("a"))
    write("a/a.py", "x = 1")
    first = checksum()
    write("a/__pycache__/a.pyc", "bytecode")
    write("a/.git/config", "hidden")
    assert checksum() == first
    write("a/a.py", "x = 2")
    second = checksum()
    (tmp_path / "a/a.py").write_text("x = 1")
    write("a/b.py")
    assert len({first, second, checksum()}) == 3


def test_a_single_file_is_read_without_running_it(write: Write, tmp_path: Path) -> None:
    """A file whose class line carries the manifest is a plugin; its neighbours do not belong to it."""
    file = write("hello.py", GREETER)
    write("other.py", "x = 1")
    (found,) = scan(tmp_path).found
    assert (found.root, found.module, found.class_name) == (tmp_path, "hello", "Greeter")
    assert found.single_file
    assert found.code == file
    assert found.metadata.security_level is SecurityLevel.TRUSTED
    assert found.metadata.size_bytes == file.stat().st_size


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("with space", "with_space"),
        ("my-plugin", "my_plugin"),
        ("2.fast", "plugin_2_fast"),
        ("日本", "plugin"),
    ],
)
def test_a_single_file_is_named_like_a_module(write: Write, tmp_path: Path, name: str, instead: str) -> None:
    """Another name is refused, with one that would do; without a plugin in it, it is nobody's business."""
    file = write(f"{name}.py", GREETER)
    write("not a plugin.py", "x = 1")
    (refused,) = scan(tmp_path).refused
    assert (refused.path, refused.error.where) == (file, str(file))
    assert f"'{name}' is no name of a Python module" in refused.error.message
    assert refused.error.fix == f"rename it, for example to '{instead}.py'"


@pytest.mark.parametrize("name", ["plugin", "__init__"])
def test_a_folder_may_carry_its_manifest_in_the_class_line(write: Write, tmp_path: Path, name: str) -> None:
    """Without a manifest file, `plugin.py` or `__init__.py` may say it."""
    write(f"pack/{name}.py", GREETER)
    (found,) = scan(tmp_path).found
    assert (found.root, found.module, found.single_file) == (tmp_path / "pack", name, False)


@pytest.mark.parametrize(
    "head",
    [
        "from plugbus import BasePlugin as BP\nclass A(BP, ",
        "import plugbus\nclass A(plugbus.BasePlugin, ",
        "from plugbus import BasePlugin\nclass Base(BasePlugin): pass\nclass A(Base, ",
        "from elsewhere import Base\nclass A(Base, metaclass=Meta, ",
        "from plugbus import BasePlugin\nclass A(BasePlugin, security_level=SecurityLevel.TRUSTED, ",
    ],
)
def test_the_class_is_found_however_its_base_is_named(write: Write, tmp_path: Path, head: str) -> None:
    """Aliases, attributes, local bases and unknown bases with an id are all recognised."""
    write("a.py", f'{head}plugin_id="a", version="1"):\n    pass\n')
    assert ids(scan(tmp_path)) == ["a"]


def test_a_manifest_may_leave_the_class_to_be_found(write: Write, tmp_path: Path) -> None:
    """Without `entry_point`, the one plugin class of `plugin.py`, `__init__.py` or `<id>.py` is it."""
    write("a/plugin.toml", 'plugin_id = "a"\nversion = "1"\n')
    write("a/a.py", "class A(BasePlugin): pass")
    write("b/plugin.toml", 'plugin_id = "b"\nversion = "1"\n')
    discovery = scan(tmp_path)
    assert discovery.found[0].metadata.entry_point == "a:A"
    assert "'entry_point' is missing" in discovery.refused[0].error.message


def test_an_entry_point_may_name_the_folder_itself(write: Write, tmp_path: Path) -> None:
    """`alerts:Alerts` in the folder `alerts` is its `__init__.py` where there is no `alerts.py`."""
    write("alerts/plugin.toml", MANIFEST.format("alerts"))
    write("alerts/__init__.py")
    assert scan(tmp_path).found[0].module == "__init__"


def test_an_entry_point_without_module_is_refused_before_import(write: Write, tmp_path: Path) -> None:
    """The missing file is named, with the line and the name that was probably meant."""
    write("alerts/plugin.toml", MANIFEST.format("alerts"))
    write("alerts/alert.py")
    error = refused(scan(tmp_path))
    assert "there is no 'alerts.py'" in error.message
    assert error.fix == 'entry_point = "alert:Plugin"'
    assert error.where.endswith("plugin.toml:3")


def test_what_is_no_plugin_is_passed_over(write: Write, tmp_path: Path) -> None:
    """Helpers, data, private and hidden names are no plugins and no errors."""
    write("helper.py", "def broken(:")
    write("_private.py", GREETER)
    write(".hidden/plugin.toml", "broken")
    write("data/readme.txt")
    write("notes.md")
    write("package/__init__.py")
    assert scan(tmp_path) == Discovery()


def test_a_broken_plugin_does_not_hide_the_others(write: Write, tmp_path: Path) -> None:
    """Each problem is a refusal with a best guess of the id; the good plugins are found."""
    write("good/plugin.toml", MANIFEST.format("good"))
    write("good/good.py")
    write("My-Broken/plugin.toml", "plugin_id = ")
    write("typo/plugin.toml", MANIFEST.format("known_id") + "verison = 1\n")
    write("syntax.py", "from plugbus import BasePlugin\nclass A(BasePlugin:\n")
    write("nul.py", b"BasePlugin\0")
    discovery = scan(tmp_path, "mine")
    assert ids(discovery) == ["good"]
    assert {one.plugin_id for one in discovery.refused} == {"my_broken", "known_id", "syntax", "nul"}
    assert {one.source for one in discovery.refused} == {"mine"}
    syntax = next(one.error for one in discovery.refused if one.plugin_id == "syntax")
    assert syntax.where == f"{tmp_path / 'syntax.py'}:2"


@pytest.mark.parametrize(
    ("source", "said", "line"),
    [
        ("class A(BasePlugin):\n    pass\n", "A does not say its plugin_id", 1),
        ('class A(BasePlugin, plugin_id="a"): ...\n', "'version' is missing", None),
        ('class A(BasePlugin, plugin_id="a",\n  version=VERSION): ...', "'version' is not a literal", 2),
        ('class A(BasePlugin, plugin_id="a", version="1",\n\n  tgas=[]): ...', "did you mean 'tags'", 3),
        ('class A(BasePlugin, plugin_id="a", version="1", **more): ...', "'**' is not a literal", 1),
        (
            'class A(BasePlugin, plugin_id="a", version="1"): ...\nclass B(A, plugin_id="b"): ...',
            "one file is one plugin, this one has A (line 1) and B (line 2)",
            2,
        ),
        ("x = " + "(" * 5000 + "  # BasePlugin", "", 1),
        ("# BasePlugin\n" + "x" * 1024 * 1024, "larger than 1 MiB", None),
    ],
)
def test_a_wrong_class_line_is_named_with_its_line(
    write: Write, tmp_path: Path, source: str, said: str, line: int | None
) -> None:
    """What `ast` can tell of a class line is told before anything runs."""
    path = write("a.py", source)
    error = refused(scan(tmp_path))
    assert said in error.message
    assert error.where.startswith(f"{path}:{line}" if line else str(path))
    assert error.fix


def test_links_are_followed_one_step_and_loops_are_survived(write: Write, tmp_path: Path) -> None:
    """A linked plugin folder is a plugin; circles, links into nowhere and pipes do no harm."""
    write("outside/alerts/plugin.toml", MANIFEST.format("alerts"))
    write("outside/alerts/alerts.py")
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "linked").symlink_to(tmp_path / "outside/alerts")
    (tmp_path / "outside/alerts/loop").symlink_to(tmp_path / "outside")
    (plugins / "here").symlink_to(plugins)
    (plugins / "self").symlink_to(plugins / "self")
    (plugins / "gone.py").symlink_to(plugins / "nowhere")
    os.mkfifo(plugins / "pipe.py")
    discovery = scan(plugins)
    assert ids(discovery) == ["alerts"]
    assert {one.plugin_id for one in discovery.refused} == {"self", "gone", "pipe"}
    assert all(one.error.fix for one in discovery.refused)


def test_an_unreadable_file_is_a_refusal(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest without read permission is named; the others go on."""

    def denied(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    write("a/plugin.toml", MANIFEST.format("a"))
    monkeypatch.setattr("kernel.bounded.os.open", denied)
    error = refused(scan(tmp_path))
    assert error.message == "'plugin.toml' cannot be read: Permission denied"


def test_an_unreadable_file_inside_is_named(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a plugin of many files, the one without read permission is told."""
    write("a/plugin.toml", MANIFEST.format("a"))
    secret = str(write("a/inner/secret.py"))
    write("a/a.py")
    whole = os.open

    def denied(path: str, flags: int) -> int:
        if path == secret:
            raise PermissionError(13, "Permission denied", path)
        return whole(path, flags)

    monkeypatch.setattr("kernel.bounded.os.open", denied)
    assert refused(scan(tmp_path)).message == "'secret.py' cannot be read: Permission denied"


def test_a_folder_that_changes_while_it_is_read_is_read_again(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that goes away between being listed and being read is no fault of the plugin."""
    write("a/plugin.toml", MANIFEST.format("a"))
    write("a/a.py")
    leaving = [str(write(f"a/{number}.tmp")) for number in range(2)]
    whole = os.open

    def late(path: str, flags: int) -> int:
        if path in leaving:
            leaving.remove(path)
            Path(path).unlink()
        return whole(path, flags)

    monkeypatch.setattr("kernel.bounded.os.open", late)
    (found,) = scan(tmp_path).found
    monkeypatch.undo()
    assert not leaving
    assert found.metadata.checksum == scan(tmp_path).found[0].metadata.checksum


def test_each_file_is_opened_once(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So what is parsed is what the checksum was taken of, and nobody can change it in between."""
    write("a/plugin.toml", MANIFEST.format("a"))
    write("a/a.py")
    write("b/plugin.py", GREETER)
    write("c.py", GREETER.replace('"greeter"', '"c"'))
    opened: Counter[str] = Counter()
    whole = os.open

    def counted(path: str | Path, flags: int) -> int:
        opened[str(path)] += 1
        return whole(path, flags)

    monkeypatch.setattr("kernel.bounded.os.open", counted)
    assert ids(scan(tmp_path)) == ["a", "greeter", "c"]
    assert set(opened.values()) == {1}
    assert len(opened) == 4


def test_a_file_that_grows_while_it_is_read_is_read_to_its_end(write: Write, tmp_path: Path) -> None:
    """Files whose size is not what the system says of them are bounded as well."""
    with write("a", b"x" * 5_000).open("rb") as file:
        assert bounded._to_its_end(file.fileno(), 10, 10_000) == b"x" * 5_000
        file.seek(0)
        assert bounded._to_its_end(file.fileno(), 10, 4_000) is None


def test_a_folder_that_cannot_be_a_plugin_is_not_read_whole(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment or a data store beside the manifest is refused instead of hashed for minutes."""
    write("a/plugin.toml", MANIFEST.format("a"))
    write("a/a.py")
    for number in range(5):
        write(f"a/data/{number}.bin", b"x" * 100)
    monkeypatch.setattr(plugin_files, "MAX_FILES", 5)
    assert "too large for a plugin: more than 5 files" in refused(scan(tmp_path)).message
    monkeypatch.setattr(plugin_files, "MAX_FILES", 50)
    monkeypatch.setattr(plugin_files, "MAX_BYTES", 300)
    assert "too large for a plugin" in refused(scan(tmp_path)).message


def test_a_missing_folder_is_a_refusal(tmp_path: Path) -> None:
    """A folder of plugins that does not exist is told, not taken for an empty one."""
    assert refused(scan(tmp_path / "nowhere")).message == "'nowhere' does not exist"


def test_a_file_in_place_of_a_folder_is_its_plugin(write: Write) -> None:
    """A list of plugin folders may name a single file as well."""
    assert ids(scan(write("hello.py", GREETER))) == ["greeter"]


def test_two_plugins_with_one_id_in_one_folder_are_told(write: Write, tmp_path: Path) -> None:
    """The first by name is it; the second is refused and both places are named."""
    for folder in ("one", "two"):
        write(f"{folder}/plugin.toml", MANIFEST.format("twin"))
        write(f"{folder}/twin.py")
    discovery = scan(tmp_path)
    assert discovery.found[0].root == tmp_path / "one"
    (refusal,) = discovery.refused
    assert refusal.plugin_id == "twin"
    assert str(tmp_path / "one") in refusal.error.message
    assert str(tmp_path / "two") in refusal.error.where


def test_a_folder_that_is_a_plugin_itself_is_one(write: Write, tmp_path: Path) -> None:
    """A plugin's own folder may be given instead of the folder above it."""
    write("alerts/plugin.toml", MANIFEST.format("alerts"))
    write("alerts/alerts.py")
    assert ids(scan(tmp_path / "alerts")) == ["alerts"]


# --- several sources ---------------------------------------------------------------------------------


def test_the_first_source_wins_and_the_shadowed_place_is_reported(write: Write, tmp_path: Path) -> None:
    """An id that an earlier source has is it; where else it was found is told."""
    write("mine/alerts/plugin.toml", MANIFEST.format("alerts"))
    write("mine/alerts/alerts.py")
    hidden = write("builtin/alerts/plugin.toml", MANIFEST.format("alerts"))
    write("builtin/alerts/alerts.py")
    write("builtin/broken/plugin.toml", "broken")
    sources = [Source.folder(tmp_path / "mine"), Source.folder(tmp_path / "builtin", "builtin")]
    discovery = PluginDiscovery().discover_all(sources)
    assert [found.metadata.source for found in discovery.found] == [str(tmp_path / "mine")]
    assert discovery.shadowed == {"alerts": (str(hidden),)}
    assert [one.plugin_id for one in discovery.refused] == ["broken"]


def test_a_plugin_that_two_sources_lead_to_does_not_shadow_itself(write: Write, tmp_path: Path) -> None:
    """A file that is named and also lies in a folder of plugins is one plugin."""
    file = write("hello.py", GREETER)
    discovery = PluginDiscovery().discover_all([Source.named(file), Source.folder(tmp_path)])
    assert ids(discovery) == ["greeter"]
    assert not discovery.shadowed


# --- one path named by a person -------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["alerts", "alerts/plugin.toml", "hello.py"])
def test_a_named_path_is_a_plugin(write: Write, tmp_path: Path, named: str) -> None:
    """A plugin's file, its folder and its manifest all name it."""
    write("alerts/plugin.toml", MANIFEST.format("alerts"))
    write("alerts/alerts.py")
    write("hello.py", GREETER)
    found = PluginDiscovery().discover_path(tmp_path / named, "command line")
    assert found.metadata.source == "command line"
    assert ids(PluginDiscovery().discover(Source.named(tmp_path / named))) == [found.plugin_id]


def test_a_named_file_without_plugin_is_an_error(write: Write, tmp_path: Path) -> None:
    """What a scan passes over is an error when a person names it."""
    write("hello.py", "print('hello')")
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("hello.py", "no plugin found in 'hello.py'"),
        ("empty", "no plugin found in 'empty'"),
        ("gone.py", "'gone.py' does not exist"),
    ):
        with pytest.raises(ManifestError, match=said):
            PluginDiscovery().discover_path(tmp_path / name)
        assert said in refused(PluginDiscovery().discover(Source.named(tmp_path / name))).message


def test_a_named_folder_of_plugins_gives_them_all(write: Write, tmp_path: Path) -> None:
    """A folder that is no plugin itself is looked through."""
    write("a.py", GREETER)
    write("b/plugin.toml", MANIFEST.format("b"))
    write("b/b.py")
    assert ids(PluginDiscovery().discover(Source.named(tmp_path))) == ["greeter", "b"]


def test_one_manifest_file_can_be_read(write: Write) -> None:
    """`discover_from_metadata` reads exactly the file that it is given."""
    write("a/a.py")
    path = write("a/metadata.json", '{"plugin_id": "a", "version": "1", "entry_point": "a:A"}')
    assert PluginDiscovery().discover_from_metadata(path).class_name == "A"
    with pytest.raises(ManifestError, match="does not exist"):
        PluginDiscovery().discover_from_metadata(path.with_name("plugin.toml"))


# --- entry points ---------------------------------------------------------------------------------------

Install = Callable[[str], Path]


@pytest.fixture
def install(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """An installed distribution with entry points in the group `test.plugins`."""

    def install(points: str) -> Path:
        write("acme-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        write("acme-1.0.dist-info/entry_points.txt", f"[test.plugins]\n{points}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        return tmp_path

    before = set(sys.modules)
    yield install
    assert not [name for name in set(sys.modules) - before if name.startswith("acme")]


def installed() -> Discovery:
    return PluginDiscovery().discover_from_entry_points("test.plugins")


def test_an_entry_point_is_found_without_importing_its_package(install: Install, write: Write) -> None:
    """The package, its parents and the module stay unimported; the root is the outermost package."""
    write("acme/__init__.py", "raise RuntimeError('imported')")
    write("acme/inner/__init__.py", "raise RuntimeError('imported')")
    write("acme/inner/greeter.py", GREETER)
    root = install("greeter = acme.inner.greeter:Greeter")
    (found,) = installed().found
    assert (found.root, found.module, found.class_name) == (root / "acme", "inner.greeter", "Greeter")
    assert found.entry_point_name == "greeter"
    assert found.metadata.source == "entry point greeter"


def test_an_entry_point_may_have_a_manifest_beside_its_module(install: Install, write: Write) -> None:
    """In a package the manifest file counts; the entry point says which class."""
    write("acme/__init__.py")
    write("acme/alerts.py", "class Alerts(BasePlugin): ...")
    write("acme/plugin.toml", 'plugin_id = "alerts"\nversion = "2"\n')
    install("alerts = acme.alerts:Alerts")
    (found,) = installed().found
    assert (found.metadata.version, found.metadata.entry_point) == ("2", "alerts:Alerts")


def test_a_module_and_a_namespace_are_found(install: Install, write: Write) -> None:
    """A distribution of one module, and one whose top is a namespace package."""
    write("acme_single.py", GREETER)
    write("acme_space/deep/__init__.py", GREETER.replace('"greeter"', '"deep"'))
    root = install("one = acme_single:Greeter\ntwo = acme_space.deep:Greeter")
    one, two = installed().found
    assert (one.root, one.module, one.single_file) == (root, "acme_single", True)
    assert (two.root, two.module) == (root / "acme_space/deep", "__init__")


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("x = acme_gone.inner:X", "'acme_gone.inner' has no source"),
        ("x = acme:Missing", "no plugin class 'Missing'"),
        ("x = acme:Base", "Base does not say its plugin_id"),
        ("x = not-a-module:X", "is not 'package.module:Class'"),
        ("x = json:JSONDecoder", "'json' has no source"),
    ],
)
def test_an_entry_point_that_leads_nowhere_is_refused(
    install: Install, write: Write, point: str, said: str
) -> None:
    """A stale or wrong entry point is a refusal that names it; the others go on."""
    write("acme/__init__.py", "class Base(BasePlugin): ...")
    write("acme_good.py", GREETER)
    install(f"{point}\nzz = acme_good:Greeter")
    discovery = installed()
    assert ids(discovery) == ["greeter"]
    (refusal,) = discovery.refused
    assert refusal.plugin_id == "x"
    assert said in refusal.error.message
