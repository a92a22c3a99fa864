"""`plugbus check --write`: manifests say what the code declares, and nothing else of them changes."""

from __future__ import annotations

import ast
import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import Plugbus

CODE = """\
from plugbus import BasePlugin, Event, Query, on, provides

class Placed(Event, type="orders.placed"):
    order: str

class Sent(Event, type="invoices.sent"):
    order: str

class Open(Query[float], capability="billing.open"):
    order: str

class Price(Query[float], capability="alerts.active"):
    sku: str

class Billing(BasePlugin{line}):
    @on
    async def bill(self, event: Placed) -> Sent:
        await self.context.request(Price(sku="a"))
        return Sent(order=event.order)

    @on("refunds.*")
    async def refund(self, event: Event) -> None: ...

    @provides
    async def outstanding(self, query: Open) -> float:
        return 0.0
"""
WRITTEN: dict[str, Any] = {
    "publishes": ["invoices.sent"],
    "subscribes": {"bill": ["orders.placed"], "refund": ["refunds.*"]},
    "provides": ["billing.open"],
    "requests": ["alerts.active"],
}
FORMATS = {
    "plugin.toml": (
        (
            '# whose it is\nplugin_id = "billing"  # never changes\nversion = "1.0"\n'
            'entry_point = "billing:Billing"\nsecurity_level = "trusted"\n\n'
            '[default_configuration]  # for the price\ncurrency = "EUR"\n'
        ),
        tomllib.loads,
    ),
    "plugin.json": (
        (
            '{\n    "plugin_id": "billing",\n    "version": "1.0",\n    "entry_point": "billing:Billing",\n'
            '    "security_level": "trusted",\n    "author": "Zoë"\n}\n'
        ),
        json.loads,
    ),
    "plugin.yaml": (
        (
            "# whose it is\nplugin_id: billing\nversion: '1.0'  # of the price list\n"
            "entry_point: billing:Billing\nsecurity_level: trusted"
        ),
        yaml.safe_load,
    ),
}


def plugin(folder: Path, name: str, manifest: str, code: str = CODE.format(line="")) -> Path:
    made = folder / "billing"
    made.mkdir()
    (made / "billing.py").write_text(code)
    (made / name).write_text(manifest)
    return made / name


@pytest.mark.parametrize("name", FORMATS)
def test_what_the_code_declares_is_written(plugbus: Plugbus, folder: Path, name: str) -> None:
    """In TOML, JSON and YAML, with every comment and mode bit; a second time there is nothing to write."""
    before, read = FORMATS[name]
    file = plugin(folder, name, before)
    file.chmod(0o640)
    ended = plugbus("check", "--write", "--strict", "billing")
    assert (ended.code, ended.err) == (0, "")
    assert "written: publishes, subscribes, provides, requests" in ended.out
    after = file.read_text()
    assert read(after) == {**read(before), **WRITTEN}
    for line in before.splitlines():
        assert line.rstrip(",") in after, line
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
    [again] = plugbus("check", "--write", "--json", "billing").json["items"]
    assert (again["status"], again["written"], file.read_text()) == ("ok", [], after)
    assert sorted(path.name for path in file.parent.iterdir()) == sorted(["billing.py", name])


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", [*FORMATS, "billing.py"])
def test_bytes_that_others_have_chosen_stay(plugbus: Plugbus, folder: Path, name: str, mark: bytes) -> None:
    """A byte order mark, line ends of Windows and tabs are not the author's mistake."""
    line = ', plugin_id="billing", version="1.0", security_level="trusted"'
    text = CODE.format(line=line) if name == "billing.py" else FORMATS[name][0]
    before = mark + text.replace("\n", "\r\n").replace("\r\n    ", "\r\n\t").encode()
    file = folder / name if name == "billing.py" else plugin(folder, name, "")
    file.write_bytes(before)
    [item] = plugbus("check", "--write", "--json", name if name == "billing.py" else "billing").json["items"]
    assert (item["status"], sorted(item["written"])) == ("ok", sorted(WRITTEN))
    after = file.read_bytes()
    assert after.startswith(mark)
    assert after.count(b"\n") == after.count(b"\r\n") > before.count(b"\n")
    kept = [each.rstrip(b":),") for each in before.splitlines()]
    assert [each for each in kept if each not in after] == []


def test_what_stands_on_one_line_gets_plain_line_ends(plugbus: Plugbus, folder: Path) -> None:
    one_line = json.dumps(json.loads(FORMATS["plugin.json"][0]))
    file = plugin(folder, "plugin.json", one_line)
    assert plugbus("check", "--write", "billing").code == 0
    assert b"\r" not in file.read_bytes()
    assert json.loads(file.read_text()) == {**json.loads(one_line), **WRITTEN}


@pytest.mark.parametrize(
    "line",
    [
        ', plugin_id="billing", version="1.0", security_level="trusted"',
        ',\n    plugin_id="billing",\n    version="1.0",  # of the ä list\n    security_level="trusted",\n',
    ],
)
def test_a_class_line_is_written(plugbus: Plugbus, folder: Path, line: str) -> None:
    """Behind its last keyword, however it is laid out; the code stays as it was."""
    file = folder / "billing.py"
    file.write_text(CODE.format(line=line))
    [item] = plugbus("check", "--write", "--json", "billing.py").json["items"]
    assert (item["status"], sorted(item["written"])) == ("ok", sorted(WRITTEN))
    text = file.read_text()
    assert 'subscribes={"bill": ["orders.placed"], "refund": ["refunds.*"]}' in text
    assert "# of the ä list" in text or "ä" not in line
    tree = ast.parse(text)
    [cls] = [node for node in tree.body if getattr(node, "name", "") == "Billing"]
    assert isinstance(cls, ast.ClassDef)
    cls.keywords = [keyword for keyword in cls.keywords if keyword.arg not in WRITTEN]
    assert ast.dump(tree) == ast.dump(ast.parse(CODE.format(line=line)))


def test_only_what_is_absent_is_written(plugbus: Plugbus, folder: Path) -> None:
    """A list of grants stays one, and `capabilities` is `provides`."""
    more = (
        'subscribes = ["orders.*", "refunds.*"]\ncapabilities = ["billing.*"]\npublishes = ["invoices.**"]\n'
    )
    file = plugin(folder, "plugin.toml", more + FORMATS["plugin.toml"][0])
    [item] = plugbus("check", "--write", "--json", "billing").json["items"]
    assert (item["status"], item["written"]) == ("ok", ["requests"])
    assert file.read_text().startswith(more)


def test_what_is_in_error_is_left_alone(plugbus: Plugbus, folder: Path) -> None:
    """A plugin whose manifest and code contradict each other is told of, and not written."""
    more = 'publishes = []\nsubscribes = { bil = ["orders.placed"] }\n'
    file = plugin(folder, "plugin.toml", more + FORMATS["plugin.toml"][0])
    before = file.read_text()
    [item] = plugbus("check", "--write", "--json", "billing").json["items"]
    assert (item["status"], item["written"], file.read_text()) == ("error", [], before)


@pytest.mark.parametrize(
    ("name", "manifest"),
    [
        ("plugin.yaml", json.dumps(yaml.safe_load(FORMATS["plugin.yaml"][0])) + "\n"),
        ("plugin.yaml", FORMATS["plugin.yaml"][0] + "\n...\n"),
    ],
)  # fmt: skip
def test_what_cannot_be_added_to_is_told_with_what_to_write(
    plugbus: Plugbus, folder: Path, name: str, manifest: str
) -> None:
    """Nothing is changed, and the fix has the keys."""
    file = plugin(folder, name, manifest)
    ended = plugbus("check", "--write", "billing")
    assert (ended.code, file.read_text()) == (1, manifest)
    assert 'add by hand: publishes: ["invoices.sent"]' in ended.out
    assert "Traceback" not in ended.out + ended.err
