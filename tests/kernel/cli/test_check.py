"""`plugbus check`: what is wrong with a plugin is told before it runs, and what is in order passes."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import Plugbus

HEAD = "from plugbus import BasePlugin, Event, PluginEvent, Query, on, provides\n"
ROOT = Path(__file__).resolve().parents[3]


def write(file: Path, text: str, head: str = HEAD) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(head + textwrap.dedent(text))
    return file


def findings(plugbus: Plugbus, *words: str) -> list[dict[str, Any]]:
    items = plugbus("check", "--json", *words).json["items"]
    return [finding for item in items for finding in item["findings"]]


GOOD = """
    class Asked(Event, type="a.asked"):
        name: str
    class Answered(Event, type="a.answered"):
        text: str
    class A(BasePlugin, plugin_id="a", version="1.0", security_level="trusted"{more}):
        @on
        async def greet(self, event: Asked) -> Answered:
            return Answered(text=event.name)
"""


def test_what_is_in_order_passes(plugbus: Plugbus, folder: Path) -> None:
    """A file, one line of output, exit code 0, also strictly; nothing is written beside it."""
    file = write(folder / "a.py", GOOD.format(more=""))
    ended = plugbus("check", "a.py", "--strict")
    assert (ended.code, ended.out, ended.err) == (0, f"ok      a 1.0  {file}\n", "")
    assert list(folder.iterdir()) == [file]


@pytest.mark.parametrize("options", [(), ("--single-file",)])
def test_what_new_writes_passes(plugbus: Plugbus, folder: Path, options: tuple[str, ...]) -> None:
    """Strictly; a project is found in the current folder or in the one that is named."""
    assert plugbus("new", "plugin", "order_book", *options).code == 0
    [item] = plugbus("check", "--strict", "--json", "order_book.py" if options else "order_book").json[
        "items"
    ]
    assert (item["plugin_id"], item["status"]) == ("order_book", "ok")


def test_without_a_path_the_project_or_the_settings_are_checked(
    plugbus: Plugbus, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the project in this folder, then the folders of the settings; neither is a mistake."""
    assert plugbus("check").err.startswith("nothing-to-check: ")
    write(folder / "my_plugins/a.py", GOOD.format(more=""))
    assert [item["plugin_id"] for item in plugbus("check", "--json").json["items"]] == ["a"]
    assert plugbus("new", "plugin", "order_book").code == 0
    monkeypatch.chdir(folder / "order_book")
    assert [item["plugin_id"] for item in plugbus("check", "--json").json["items"]] == ["order_book"]


def test_the_plugins_that_come_with_plugbus_pass(plugbus: Plugbus) -> None:
    """Strictly, all of them."""
    ended = plugbus("check", "--strict", str(ROOT / "plugins"))
    assert (ended.code, ended.out.count("ok ")) == (0, 6), ended.out


def test_all_problems_of_a_manifest_are_told_with_their_lines(plugbus: Plugbus, folder: Path) -> None:
    """At once, from a manifest file or a class line, without importing the code."""
    write(folder / "a/plugin.toml", 'plugin_id = "a"\nversoin = "1"\nsecurity_level = "trustd"\n', head="")
    write(folder / "a/a.py", "raise SystemExit\n", head="")
    found = findings(plugbus, "a")
    assert {
        (one["code"], one["where"]) for one in found if "unknown" in one["text"] or "trustd" in one["text"]
    } == {("manifest", f"{folder}/a/plugin.toml:{line}") for line in (2, 3)}
    file = write(folder / "b.py", 'class B(BasePlugin, plugin_id="b",\n  version="x"):\n    pass\n')
    [one] = findings(plugbus, "b.py")
    assert one["where"] == f"{file}:3"
    assert plugbus("check", "b.py").code == 1


WRONG = {
    "no event type": ("async def handle(self, event): ...", "@on", "handler-definition", "has no event type"),
    "not an event": ("async def handle(self, event: int): ...", "@on", "handler-definition", "not an event"),
    "not async": ("def handle(self, event: Asked): ...", "@on", "handler-definition", "is not async"),
    "no pattern": ("async def handle(self, e: PluginEvent): ...", "@on", "handler-definition", "no pattern"),
    "under TYPE_CHECKING": (
        "async def handle(self, event: 'Missing'): ...", "@on", "handler-definition", "cannot be resolved",
    ),
    "no provider": ("def handle(self, query: Asked): ...", "@provides", "handler-definition", "not async"),
}  # fmt: skip


@pytest.mark.parametrize(("method", "mark", "code", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_handler_is_told(
    plugbus: Plugbus, folder: Path, method: str, mark: str, code: str, text: str
) -> None:
    """As the kernel would refuse it, with its place."""
    file = write(
        folder / "a.py",
        f"""
        class Asked(Event, type="a.asked"):
            name: str
        class A(BasePlugin, plugin_id="a", version="1.0", security_level="trusted"):
            {mark}
            {method}
        """,
    )
    [one] = findings(plugbus, "a.py")
    assert (one["code"], text in one["text"], one["where"]) == (code, True, f"{file}:6"), one


def test_all_wrong_handlers_are_told_at_once(plugbus: Plugbus, folder: Path) -> None:
    """Not only the first."""
    write(
        folder / "a.py",
        """
        class A(BasePlugin, plugin_id="a", version="1.0", security_level="trusted"):
            @on
            async def first(self, event): ...
            @on
            async def second(self, event: int): ...
        """,
    )
    assert [one["text"].split("'")[1] for one in findings(plugbus, "a.py")] == ["first", "second"]


LEAVES = """import subprocess, sys
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', __file__])
1 / 0"""
ENDINGS = {
    "raises": ("1 / 0", "the import raised ZeroDivisionError"),
    "exits": ("import os; os._exit(3)", "the import ended the process (exit code 3)"),
    "hangs": ("import time; time.sleep(600)", "the import took longer than 1 s"),
    "leaves a process": (LEAVES, "the import raised ZeroDivisionError"),
}


@pytest.mark.parametrize(("code", "text"), ENDINGS.values(), ids=ENDINGS)
def test_code_that_does_harm_at_import_harms_its_own_process(
    plugbus: Plugbus, folder: Path, code: str, text: str
) -> None:
    """It is told like any other problem, within its deadline, and nothing of it is left running."""
    write(folder / "a.py", f"print('noise')\n{code}\n" + textwrap.dedent(GOOD.format(more="")))
    deadline = "1" if "longer" in text else "20"
    ended = plugbus("check", "a.py", "--deadline", deadline)
    assert (ended.code, text in ended.out, "noise" in ended.out + ended.err) == (1, True, False), ended.out
    mark = str(folder / "a.py")
    left = [one for one in psutil.process_iter(["cmdline"]) if mark in (one.info["cmdline"] or ())]
    _, alive = psutil.wait_procs(left, timeout=10)  # what was killed may take a moment to go
    assert alive == []


def test_dependencies_that_cannot_be_met_are_told(plugbus: Plugbus, folder: Path) -> None:
    """Missing, of another version, in a circle; what comes with Plugbus is there."""
    for id, needs in {"a": "c", "b": "webhooks>=99", "d": "e", "e": "d", "f": "webhooks>=0.1"}.items():
        write(
            folder / f"p/{id}.py", GOOD.format(more=f', dependencies=["{needs}"]').replace('"a"', f'"{id}"')
        )
    items = plugbus("check", "--json", "p").json["items"]
    assert {item["plugin_id"]: [one["code"] for one in item["findings"]] for item in items} == {
        "a": ["missing-dependency"],
        "b": ["version-conflict"],
        "d": ["circular-dependency"],
        "e": ["circular-dependency"],
        "f": [],
    }


def test_what_the_manifest_does_not_ask_for_is_told_where_it_is_used(plugbus: Plugbus, folder: Path) -> None:
    """Publishing, requesting, subscribing, providing, and the folder for data; as the kernel judges it."""
    file = write(
        folder / "a.py",
        """
        class Asked(Event, type="a.asked"):
            name: str
        class Told(Event, type="b.told"):
            name: str
        class Price(Query[float], capability="alerts.active"):
            name: str
        class Rate(Query[float], capability="a.rate"):
            name: str
        class A(BasePlugin, plugin_id="a", version="1.0", security_level="trusted",
                publishes=[], requests=[], subscribes=[], provides=["x.y"]):
            @on
            async def handle(self, event: Asked) -> None:
                await self.context.publish(Told(name="x"))
                await self.context.request(Price(name="x"))
                print(self.context.data_dir)
            @provides
            async def rate(self, query: Rate) -> float:
                return 1.0
        """,
    )
    found = findings(plugbus, "a.py")
    assert {one["code"] for one in found} == {"permission-denied"}
    assert {(one["fix"].partition(" in ")[0], one["where"].removeprefix(str(file))) for one in found} == {
        ('subscribes = ["a.asked"]', ""),
        ('provides = ["a.rate"]', ""),
        ('publishes = ["b.told"]', ":15"),
        ('requests = ["alerts.active"]', ":16"),
        ('required_permissions = ["write_data"]', ":17"),
    }


def test_one_type_that_two_plugins_declare_differently_is_told(plugbus: Plugbus, folder: Path) -> None:
    """By both; a narrower model of the same event is no problem."""
    for id, fields in {"a": "total: int", "b": "total: str", "c": "total: int\n    note: str"}.items():
        source = f"""
class Placed(Event, type="shop.placed"):
    {fields}
class P(BasePlugin, plugin_id="{id}", version="1.0", security_level="trusted"):
    @on
    async def handle(self, event: Placed) -> None: ...
"""
        write(folder / f"{id}.py", source)
    assert findings(plugbus, "a.py", "c.py") == []
    found = findings(plugbus, "a.py", "b.py")
    assert [one["code"] for one in found] == ["event-definition", "event-definition"]
    assert "by 'a' and by 'b', and differently: total is integer here and string there" in found[0]["text"]


@pytest.mark.parametrize(
    ("pattern", "fix"),
    [
        ("a.answerd", "did you mean 'a.answered'?"),
        ("plugin.strted", "did you mean 'plugin.started'?"),
        ("bus.zzzzzzzz.xx.**", "contracts/README.md lists what kernel and bus say"),
        ("somebody.elses", None),
        ("plugin.**", None),
    ],
)
def test_a_handler_for_an_event_that_nobody_publishes_is_a_warning(
    plugbus: Plugbus, folder: Path, pattern: str, fix: str | None
) -> None:
    """Where it is a slip of the pen; what comes from elsewhere is not known here. Strictly, it fails."""
    write(folder / "a.py", GOOD.format(more=""))
    source = f"""
class B(BasePlugin, plugin_id="b", version="1.0", security_level="trusted"):
    @on("{pattern}")
    async def handle(self, event: PluginEvent) -> None: ...
"""
    write(folder / "b.py", source)
    assert [one["fix"] for one in findings(plugbus, "a.py", "b.py")] == ([fix] if fix else [])
    assert plugbus("check", "a.py", "b.py").code == 0
    assert plugbus("check", "a.py", "b.py", "--strict").code == (1 if fix else 0)


def test_a_manifest_that_names_a_handler_that_is_not_there(plugbus: Plugbus, folder: Path) -> None:
    """In its table of subscriptions; the one that was meant is offered."""
    write(folder / "a.py", GOOD.format(more=', subscribes={"gret": ["a.asked"]}'))
    [one] = findings(plugbus, "a.py")
    assert (one["code"], one["fix"]) == ("manifest", "did you mean 'greet'?")


def test_a_level_that_is_not_to_be_had_is_a_warning(plugbus: Plugbus, folder: Path) -> None:
    """An operator may allow it, so it fails strictly only."""
    write(folder / "a.py", GOOD.format(more="").replace(', security_level="trusted"', ""))
    [one] = findings(plugbus, "a.py")
    assert (one["severity"], one["code"]) == ("warning", "plugin-load")


def test_two_plugins_with_one_id_are_told(plugbus: Plugbus, folder: Path) -> None:
    """Whichever comes first hides the other."""
    for name in ("a", "b"):
        write(folder / f"{name}.py", GOOD.format(more=""))
    [one] = findings(plugbus, "a.py", "b.py")
    assert (one["severity"], one["where"]) == ("warning", str(folder / "b.py"))
    assert findings(plugbus, "a.py", "a.py") == []


@pytest.mark.parametrize("content", ["[project", b"\xff", "[project]\nentry-points = 3\n"])
def test_a_project_file_that_is_broken_is_told(plugbus: Plugbus, folder: Path, content: str | bytes) -> None:
    """Never as a traceback."""
    (folder / "pyproject.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    ended = plugbus("check", ".")
    assert ended.code == 1, ended


def test_the_output_fits_on_a_screen(plugbus: Plugbus, folder: Path) -> None:
    """Further findings are counted; JSON has them all."""
    handlers = "".join(f"    @on\n    async def h{n}(self, event): ...\n" for n in range(30))
    write(
        folder / "a.py",
        'class A(BasePlugin, plugin_id="a", version="1", security_level="trusted"):\n' + handlers,
    )
    ended = plugbus("check", "a.py")
    assert len(ended.out.splitlines()) == 1 + 2 * 10 + 1
    assert ended.out.splitlines()[-1] == "… and 20 more: plugbus check --json"
    assert len(findings(plugbus, "a.py")) == 30
    assert plugbus("check", "nowhere").code == 5
