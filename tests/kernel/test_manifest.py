"""Manifest files: what is read, and what is said of what cannot be."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.base import BasePlugin
from contracts.errors import ManifestError
from contracts.metadata import PluginMetadata
from contracts.security import Permission, SecurityLevel
from kernel.manifest import build_metadata, manifest_in, metadata_of, read_manifest

TOML = """\
plugin_id = "alerts"
version = "1.0.0"
security_level = "TRUSTED"
required_permissions = ["read_data"]
dependencies = ["webhooks>=1.0"]
subscribes = { watch = ["github.**", "host.sampled"] }

[default_configuration]
load_above = 4.0
"""
YAML = """\
plugin_id: alerts
version: "1.0.0"
security_level: TRUSTED
required_permissions: [read_data]
dependencies: ["webhooks>=1.0"]
subscribes:
  watch: ["github.**", host.sampled]
default_configuration:
  load_above: 4.0
"""
JSON = json.dumps(
    {
        "plugin_id": "alerts",
        "version": "1.0.0",
        "security_level": "TRUSTED",
        "required_permissions": ["read_data"],
        "dependencies": ["webhooks>=1.0"],
        "subscribes": {"watch": ["github.**", "host.sampled"]},
        "default_configuration": {"load_above": 4.0},
    }
)


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., PluginMetadata]:
    def check(content: str | bytes, name: str = "plugin.toml") -> PluginMetadata:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return build_metadata(read_manifest(path))

    return check


Check = Callable[..., PluginMetadata]


def refusal(check: Check, content: str | bytes, name: str = "plugin.toml") -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        check(content, name)
    return caught.value


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (TOML, "plugin.toml"),
        (YAML, "plugin.yaml"),
        (YAML, "plugin.yml"),
        (JSON, "plugin.json"),
        (JSON, "metadata.json"),
    ],
)
def test_every_format_says_the_same(check: Check, content: str, name: str) -> None:
    """One manifest in TOML, YAML and JSON gives equal metadata."""
    metadata = check(content, name)
    assert metadata == check(TOML)
    assert metadata.security_level is SecurityLevel.TRUSTED
    assert metadata.required_permissions == (Permission.READ_DATA,)
    assert str(metadata.dependencies[0]) == "webhooks>=1.0"
    assert metadata.default_configuration == {"load_above": 4.0}


def test_a_table_may_stand_on_several_lines(check: Check) -> None:
    """As TOML 1.1 has it; 1.0 wants what is within braces on one line."""
    text = TOML.replace("[default_configuration]\n", "default_configuration = {\n") + ",\n}\n"
    assert check(text) == check(TOML)


def test_a_byte_order_mark_is_no_problem(check: Check) -> None:
    """Editors that write a byte order mark do not break a manifest."""
    assert check(b"\xef\xbb\xbf" + TOML.encode()).plugin_id == "alerts"


GOOD = 'plugin_id = "a"\nversion = "1"\n'


@pytest.mark.parametrize(
    ("line", "said", "fix"),
    [
        ('verison = "1"', "unknown key 'verison', did you mean 'version'?", "write 'version'"),
        ("colour = 1", "unknown key 'colour'", "remove 'colour'"),
        ("name = 7", "'name' must be a string, not a number (7)", 'name = "7"'),
        ('tags = "x"', "'tags' must be a list, not a string ('x')", 'tags = ["x"]'),
        ('instances = "many"', "'instances' must be a whole number", "change 'instances'"),
        ("instances = 0", "'instances': input should be greater than or equal to 1", "change 'instances'"),
        ('security_level = "trustd"', "cannot be 'trustd', did you mean 'trusted'?", "one of 'unrestricted'"),
        ('activation = "later"', "'activation' cannot be 'later'", "one of 'eager' or 'lazy'"),
        ('dependencies = ["Web-Hooks>=1"]', "'Web-Hooks' is not a plugin id", "write 'web_hooks'"),
        ('dependencies = ["a>>1"]', "'>>1' is not a version specifier", "for example '>=1.0,<2'"),
        ('subscribes = ["Orders"]', "'Orders' is not a pattern", "'orders.placed'"),
        ("subscribes = 3", "'subscribes' must be a list, not a number", "change 'subscribes'"),
        ('subscribes = { w = "x" }', "'subscribes.w' must be a list", 'w = ["x"]'),
        ('entry_point = "alerts"', "'alerts' is not an entry point", "for example 'alerts:Alerts'"),
        ('requires_plugbus = "two"', "'two' is not a version specifier", "for example"),
        ('activation = "lazy"\nsubscribes = ["a.b"]', "needs 'subscribes' as a table", "subscribes = {"),
        ('provides = ["a"]\ncapabilities = ["b"]', "two names of one thing", "keep one"),
        ('checksum = "0"', "'checksum' is filled in by Plugbus", "remove 'checksum'"),
        (
            "resource_limits = { max_memory = 1 }",
            "unknown key 'resource_limits.max_memory', did you mean 'max_memory_mb'?",
            "write 'max_memory_mb'",
        ),
    ],
)
def test_a_wrong_key_is_named_with_its_line_and_a_fix(check: Check, line: str, said: str, fix: str) -> None:
    """What is wrong, on which line, what was expected, and what to write."""
    error = refusal(check, GOOD + line)
    assert said in error.message
    assert fix in error.fix
    last = GOOD.count("\n") + 1
    assert error.where.endswith((f"plugin.toml:{last}", "plugin.toml"))


@pytest.mark.parametrize(
    ("content", "name", "line"),
    [
        (TOML + "max_load = 1\n[resource_limits]\nmax_cpu = 3\n", "plugin.toml", 12),
        (TOML.replace('"host.sampled"', '"Host"'), "plugin.toml", 6),
        (YAML + "resource_limits:\n  max_cpu: 3\n", "plugin.yaml", 11),
        (YAML.replace("host.sampled", "Host"), "plugin.yaml", 7),
        ('{\n "plugin_id": "a",\n "version": "1",\n "resource_limits":\n {"max_cpu": 3}}', "plugin.json", 5),
        ('{"plugin_id": "a",\n "version": "1", "tgas": []}', "plugin.json", 2),
    ],
)
def test_the_line_of_a_nested_value_is_found(check: Check, content: str, name: str, line: int) -> None:
    """The line is that of the value itself, in each format."""
    assert refusal(check, content, name).where.endswith(f"{name}:{line}")


def test_missing_keys_are_named_with_what_to_write(check: Check) -> None:
    """A manifest without id and version is told how both are written in its own format."""
    error = refusal(check, "{}", "plugin.json")
    assert "'plugin_id' is missing" in error.message
    assert "'version' is missing" in error.message
    assert error.fix == '"plugin_id": "alerts"'


def test_all_problems_come_in_one_error_of_at_most_a_screen(check: Check) -> None:
    """Thirty problems are one error; what does not fit is counted."""
    error = refusal(check, GOOD + "".join(f"key{number} = 1\n" for number in range(30)))
    assert error.message.startswith("30 problems")
    assert "line 3: unknown key 'key0'" in error.message
    assert "… and 18 more" in error.message
    assert len(error.explain().splitlines()) < 24
    assert len(error.details["problems"]) == 30


@pytest.mark.parametrize(
    ("content", "name", "said", "line"),
    [
        ("", "plugin.toml", "the manifest is empty", None),
        ("\n \n", "plugin.yaml", "the manifest is empty", None),
        ('plugin_id = "a"\nversion 1\n', "plugin.toml", "this is not TOML", 2),
        ('plugin_id = "a"\nplugin_id = "b"\n', "plugin.toml", "this is not TOML", 2),
        ('plugin_id = "a', "plugin.toml", "this is not TOML", 1),
        ('{\n"plugin_id": "a",,\n}', "plugin.json", "this is not JSON", 2),
        ('{"version": "1", "version": "2"}', "plugin.json", "'version' is given twice", None),
        ('{"version": NaN}', "plugin.json", "NaN is not a JSON value", None),
        ("[1, 2]", "plugin.json", "a manifest is a table of keys, this is a list", None),
        ("hello", "plugin.yaml", "a manifest is a table of keys, this is a string", None),
        ("plugin_id: a\nversion: [1\n", "plugin.yaml", "this is not YAML", 3),
        ("version: 1\nversion: 2\n", "plugin.yaml", "'version' is given twice", 2),
        ("a: &x [1]\nb: *x\n", "plugin.yaml", "the reference *x is not allowed", 2),
        ("a: !!python/name:os.system\n", "plugin.yaml", "this is not YAML", 1),
        ("a: 2020-13-45\n", "plugin.yaml", "this is not YAML", None),
        ("a: \x07\n", "plugin.yaml", "this is not YAML", None),
        (b'plugin_id = "a"\nname = "\xff"\n', "plugin.toml", "byte 0xff is not valid UTF-8", 2),
        (b"x" * (1024 * 1024 + 1), "plugin.toml", "larger than 1 MiB", None),
        (b"x" * (10 * 1024 * 1024), "plugin.json", "larger than 1 MiB", None),
        ("x = " + "[" * 50_000, "plugin.toml", "nested too deeply", None),
        ("x = " + "{a = " * 50_000, "plugin.toml", "nested too deeply", None),
        ('{"x":' * 50_000, "plugin.json", "nested too deeply", None),
        ("[" * 500_000, "plugin.yaml", "nested too deeply", None),
        ("- " * 400_000, "plugin.yaml", "nested too deeply", None),
        ('{"x": ' + "9" * 5000 + "}", "plugin.json", "this is not JSON", None),
        ("x = " + "9" * 5000, "plugin.toml", "this is not TOML", None),
        ('{"a": 1, "b": 2, "b": 3, "b": 4}', "plugin.json", "'b' is given 3 times", None),
        ("x = 1\n" + "a." * 500_000 + "a = 1", "plugin.toml", "the key has too many parts", 2),
        ("x = { " + "'a b' . " * 100_000 + "a = 1 }", "plugin.toml", "the key has too many parts", 1),
        ("a: " + "1:" * 500_000 + "1", "plugin.yaml", "a number has too many digits", 1),
        ("version = 0x" + "f" * 5_000, "plugin.toml", "a number has too many digits", None),
        ("version: 0x" + "f" * 900 + '\nname: "\\ud800"', "plugin.yaml", "this is not YAML", 2),
        ('{"plugin_id": "a", "author": "\\ud83d"}', "plugin.json", "'\\ud83d' is half of a character", None),
        ('plugin_id = "' + "a" * 101 + '"', "plugin.toml", "a plugin id of 101 characters", None),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(
    check: Check, content: str | bytes, name: str, said: str, line: int | None
) -> None:
    """Broken syntax, wrong encoding, depth and size end in one short error, never in a crash."""
    error = refusal(check, content, name)
    assert said in error.message
    assert error.where.endswith(f"{name}:{line}" if line else name)
    assert error.fix
    assert len(error.explain()) < 500


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("{" + ",".join(f'"key{number}": 1' for number in range(20_000)) + "}", "plugin.json"),
        ("required_permissions = [" + '"x",' * 20_000 + "]", "plugin.toml"),
        ("\n".join(f"key{number}: 1" for number in range(20_000)), "plugin.yaml"),
    ],
)
def test_a_large_manifest_of_mistakes_is_refused_as_fast_as_a_small_one(
    check: Check, content: str, name: str
) -> None:
    """Not every wrong value is put into words: with tens of thousands that would take hours."""
    error = refusal(check, content, name)
    problems = error.details["problems"]
    assert len(problems) < 100
    assert re.fullmatch(r"\d+ further values are wrong", problems[-1].text)
    assert len(error.explain()) < 2_500


def test_deep_configuration_is_refused_in_few_words(check: Check) -> None:
    """A configuration that parses but is nested 400 deep does not fill the screen."""
    deep = '{"a":' * 400 + "1" + "}" * 400
    error = refusal(
        check, f'{{"plugin_id": "a", "version": "1", "default_configuration": {deep}}}', "plugin.json"
    )
    assert "nested too deeply" in error.message
    assert len(error.explain()) < 500


@given(st.binary(max_size=200), st.sampled_from(["plugin.toml", "plugin.json", "plugin.yaml"]))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    """No content of a file gets anything but metadata or a `ManifestError`."""
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    with pytest.raises(ManifestError):
        build_metadata(read_manifest(path))


@given(st.text(alphabet="abc:-[]{}'\"\n *&!|>#0.=,", max_size=60))
@example("0.:")
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """The same for text that looks like a manifest."""
    for name in ("plugin.toml", "plugin.json", "plugin.yaml"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ManifestError):
            build_metadata(read_manifest(path))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder, a link that leads to itself and a missing file are refused without being opened."""
    (tmp_path / "plugin.toml").mkdir()
    (tmp_path / "plugin.json").symlink_to(tmp_path / "plugin.json")
    for name in ("plugin.toml", "plugin.json", "plugin.yaml"):
        with pytest.raises(ManifestError, match=r"cannot be read|does not exist"):
            read_manifest(tmp_path / name)


def test_two_manifests_in_one_folder_are_refused(tmp_path: Path) -> None:
    """Which of two manifests counts would be a guess; a `metadata.json` may belong to something else."""
    (tmp_path / "plugin.toml").touch()
    (tmp_path / "metadata.json").touch()
    assert manifest_in(tmp_path) == tmp_path / "plugin.toml"
    (tmp_path / "plugin.yaml").touch()
    with pytest.raises(ManifestError, match=r"plugin\.toml and plugin\.yaml"):
        manifest_in(tmp_path)


class Greeter(BasePlugin, plugin_id="greeter", version="1.2.0", security_level="trusted"):
    pass


class Nameless(BasePlugin):
    pass


def test_a_class_line_is_a_manifest() -> None:
    """The metadata of an imported class are its keywords, and where it stands."""
    metadata = metadata_of(Greeter)
    assert (metadata.plugin_id, metadata.version) == ("greeter", "1.2.0")
    assert metadata.entry_point == "test_manifest:Greeter"
    assert metadata.source == "class"
    assert metadata.file_path == __file__


def test_more_completes_a_class() -> None:
    """What a caller gives beside the class completes or replaces what the class says."""
    assert metadata_of(Nameless, plugin_id="nameless", version="3").version == "3"
    assert metadata_of(Greeter, version="2").plugin_id == "greeter"


def test_a_class_without_manifest_is_refused() -> None:
    """A class that says nothing is told what to write."""
    with pytest.raises(ManifestError, match="Nameless does not say its plugin_id") as caught:
        metadata_of(Nameless)
    assert "class Nameless(BasePlugin, plugin_id=" in caught.value.fix


def test_the_manifest_beside_a_module_is_that_of_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class imported from a plugin's folder has the metadata of the folder's manifest file."""
    (tmp_path / "plugin.toml").write_text('plugin_id = "beside"\nversion = "2"\nentry_point = "m:Beside"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "module_beside.py").write_text("class Beside: ...\nclass Other: ...\n")
    module = importlib.import_module("module_beside")
    monkeypatch.setitem(sys.modules, "module_beside", sys.modules.pop("module_beside"))
    assert metadata_of(module.Beside).plugin_id == "beside"
    assert metadata_of(module.Beside, version="3").version == "3"
    with pytest.raises(ManifestError, match="Other does not say"):
        metadata_of(module.Other)
