"""`plugbus new plugin --from FILE`: a plugin in one file becomes a package, and stays what it was."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from .conftest import Plugbus
from .test_new import files_below, plugbus_in, python

PLUGIN = '''\
"""Weighs parcels."""

import json
from urllib.parse import quote

import attr
import httpx
from pydantic import BaseModel

from plugbus import BasePlugin, Event, on


class Weighed(Event, type="depot.weighed", version=2):
    """A parcel was on the scale: ä."""

    parcel: str


class Scale(BasePlugin, plugin_id="depot_scale", version="2.1.0", name='The "depot" scale',
            description="Weighs what comes.", security_level="trusted", subscribes=["depot.**"],
            default_configuration={"most": 5}):
    """Notes what was weighed."""

    seen: list[str] = []

    @on
    async def note(self, event: Weighed) -> None:
        self.seen.append(quote(json.dumps(event.parcel)))
'''
TEST = """\
from kernel.testing import Harness

import scale
from scale import Scale, Weighed


async def test_it_notes(harness: Harness) -> None:
    await harness.load(Scale)
    await harness.publish(Weighed(parcel="p"))
    await harness.quiet()
    assert scale.Scale.seen == ["%22p%22"]
"""


@pytest.fixture
def file(folder: Path) -> Path:
    (folder / "my_plugins").mkdir()
    file = folder / "my_plugins" / "scale.py"
    file.write_text(PLUGIN, encoding="utf-8")
    return file


def test_the_package_is_the_same_plugin(plugbus: Plugbus, folder: Path, file: Path) -> None:
    """Id, manifest and code are those of the file, which stays; what it imports is required."""
    (folder / "my_plugins" / "test_scale.py").write_text(TEST)
    before = {path: path.read_bytes() for path in (folder / "my_plugins").iterdir()}
    ended = plugbus("new", "plugin", "--from", str(file), "--into", "made")
    assert ended.code == 0, ended.err
    place = folder / "made" / "depot_scale"
    assert files_below(place) == {
        ".github/workflows/ci.yml", ".github/workflows/publish.yml", ".gitignore", "CHANGELOG.md",
        "README.md", "pyproject.toml", "src/plugbus_depot_scale/__init__.py",
        "src/plugbus_depot_scale/plugin.py",
        "src/plugbus_depot_scale/py.typed", "tests/test_depot_scale.py",
    }  # fmt: skip
    assert (place / "src/plugbus_depot_scale/plugin.py").read_text(encoding="utf-8") == PLUGIN
    assert {path: path.read_bytes() for path in (folder / "my_plugins").iterdir()} == before
    project = tomllib.loads((place / "pyproject.toml").read_text())
    assert project["project"]["dependencies"][1:] == ["attrs", "httpx", "pydantic"]
    assert project["project"]["entry-points"]["plugbus.plugins"] == {
        "depot_scale": "plugbus_depot_scale.plugin:Scale"
    }
    assert (place / "README.md").read_text().startswith('# The "depot" scale\n\nWeighs what comes.\n')
    [item] = plugbus("check", "--strict", "--json", str(place)).json["items"]
    assert (item["plugin_id"], item["version"], item["status"]) == ("depot_scale", "2.1.0", "ok")
    assert "1 passed" in plugbus_in(place, "test")
    python("-m", "mypy", "--cache-dir=../cache", "src", "tests", cwd=place)


def test_the_version_of_the_package_is_that_of_the_class_line(
    plugbus: Plugbus, folder: Path, file: Path
) -> None:
    """Where a build would not find it there, it is said before anything is written."""
    assert plugbus("new", "plugin", "--from", str(file)).code == 0
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", "../dist", cwd=folder / "depot_scale")
    assert [wheel.name.split("-")[:2] for wheel in (folder / "dist").glob("*.whl")] == [
        ["plugbus_depot_scale", "2.1.0"]
    ]
    file.write_text(PLUGIN.replace('version="2.1.0"', "version='2.1.0'").replace("depot_scale", "other"))
    ended = plugbus("new", "plugin", "--from", str(file))
    assert (ended.code != 0, 'fix: version="2.1.0" in the class line' in ended.err) == (True, True), ended.err
    assert not (folder / "other").exists()


def test_without_a_test_there_is_one_that_starts_it(plugbus: Plugbus, folder: Path, file: Path) -> None:
    """So that whoever goes on has a place to do so."""
    assert plugbus("new", "plugin", "--from", str(file)).code == 0
    assert "1 passed" in plugbus_in(folder / "depot_scale", "test")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "either a NAME or --from FILE"),
        (("billing", "--from", "my_plugins/scale.py"), 2, "either a NAME or --from FILE"),
        (("--single-file", "--from", "my_plugins/scale.py"), 2, "either a NAME or --from FILE"),
        (("--from", "nowhere.py"), 1, "nowhere.py"),
        (("--from", "empty.py"), 1, "empty.py"),
        (("--from", "whole"), 2, "is not a plugin in one file"),
    ],
)
def test_what_cannot_grow_is_told(
    plugbus: Plugbus, folder: Path, file: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    """And nothing is written."""
    (folder / "empty.py").write_text("x = 1\n")
    (folder / "whole").mkdir()
    (folder / "whole" / "plugin.toml").write_text(
        'plugin_id = "whole"\nversion = "1"\nentry_point = "plugin:Whole"\n'
    )
    (folder / "whole" / "plugin.py").write_text("")
    before = files_below(folder)
    ended = plugbus("new", "plugin", *words)
    assert (ended.code, says in ended.err, "Traceback" in ended.err) == (code, True, False), ended
    assert files_below(folder) == before
    assert sys.exc_info()[0] is None
