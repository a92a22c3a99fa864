"""What bad plugins get: each is named with its place and one fix, and the others go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.messages import PluginInfo
from kernel.cli import execute
from kernel.manager import PluginManager
from kernel.settings import Deadlines, Settings
from plugbus import PluginStatus

HEAD = "from plugbus import BasePlugin, Event, on\n"
GOOD = HEAD + "class Good(BasePlugin, plugin_id='good', version='1.0', security_level='trusted'): ...\n"


def manifest(plugin_id: str, **more: str) -> str:
    lines = {"plugin_id": f'"{plugin_id}"', "version": '"1.0.0"', "entry_point": '"code:P"', **more}
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def plugin(plugin_id: str, body: str, **keywords: str) -> str:
    more = "".join(f", {key}={value}" for key, value in keywords.items())
    line = f"class P(BasePlugin, plugin_id='{plugin_id}', version='1.0', security_level='trusted'{more}):\n"
    return HEAD + "class Ping(Event, type='bad.ping'): ...\n" + line + body


def event(body: str, version: int = 1) -> str:
    """An event class below the head of a plugin's file, from line 6 on."""
    return f"from plugbus import *\nclass Pong(Event, type='bad.pong', version={version}):\n{body}"


def options(plugin_id: str, text: str, before: str = "") -> dict[str, str]:
    """A plugin whose handler, on line 5, asks for `text`."""
    body = f"    @on({text})\n    async def handle(self, event: Ping): ...\n"
    head, _, rest = plugin(plugin_id, body).partition("\n")
    return {f"{plugin_id}.py": f"{head}, upcast, RetryPolicy, SubscriptionOptions\n{before}{rest}"}


CASES: dict[str, tuple[dict[str, str], str, str]] = {
    # plugin id: (files, what the reason says, what the place ends with)
    "unknown_key": (
        {"unknown_key/plugin.toml": manifest("unknown_key", descripton='"x"'), "unknown_key/code.py": ""},
        "descripton",
        "plugin.toml:4",
    ),
    "wrong_type": (
        {"wrong_type/plugin.toml": manifest("wrong_type", instances='"many"'), "wrong_type/code.py": ""},
        "instances",
        "plugin.toml:4",
    ),
    "bad_version": (
        {
            "bad_version/plugin.json": '{\n "plugin_id": "bad_version",\n "version": "one",\n'
            ' "entry_point": "code:P"\n}',
            "bad_version/code.py": "",
        },
        "'one' is not a version",
        "plugin.json:3",
    ),
    "bad_yaml": ({"bad_yaml/plugin.yaml": "plugin_id: bad_yaml\n  version: 1\n"}, "", "plugin.yaml:2"),
    "needs_nobody": (
        {"needs_nobody.py": plugin("needs_nobody", "    ...\n", dependencies="['nobody>=1']")},
        "nobody",
        "needs_nobody.py",
    ),
    "needs_newer": (
        {"needs_newer.py": plugin("needs_newer", "    ...\n", dependencies="['good>=9']")},
        "good",
        "needs_newer.py",
    ),
    "circle_a": (
        {"circle_a.py": plugin("circle_a", "    ...\n", dependencies="['circle_b']")},
        "circle_b",
        "",
    ),
    "circle_b": (
        {"circle_b.py": plugin("circle_b", "    ...\n", dependencies="['circle_a']")},
        "circle_a",
        "",
    ),
    "raises": ({"raises.py": plugin("raises", "    ...\n") + "1 / 0\n"}, "ZeroDivisionError", "raises.py:5"),
    "no_syntax": (
        {"no_syntax.py": plugin("no_syntax", "    ...\n") + "def x(:\n"},
        "syntax",
        "no_syntax.py:5",
    ),
    "hangs": (
        {
            "hangs.py": plugin("hangs", "    ...\n")
            + "import time\nwhile not HERE.exists(): time.sleep(0.005)\n"
        },
        "load took longer than",
        "",
    ),
    "half_web": (
        {"half_web.py": plugin("half_web", "    async def get_api_router(self): ...\n")},
        "get_static_mounts",
        "",
    ),
    "no_annotation": (
        {"no_annotation.py": plugin("no_annotation", "    @on\n    async def handle(self, event): ...\n")},
        "handler 'handle' has no event type",
        "no_annotation.py:4",
    ),
    "wrong_annotation": (
        {
            "wrong_annotation.py": plugin(
                "wrong_annotation", "    @on\n    async def handle(self, event: int): ...\n"
            )
        },
        "takes int, which is not an event",
        "wrong_annotation.py:4",
    ),
    "upcast_gap": (
        {
            "upcast_gap.py": plugin("upcast_gap", "    ...\n")
            + event("    n: int\n    @upcast(1)\n    def one(data): return data\n", 3)
        },
        "without a gap to version 3",
        "upcast_gap.py:6",
    ),
    "upcast_cycle": (
        {
            "upcast_cycle.py": plugin("upcast_cycle", "    ...\n")
            + event("    n: int\n    @upcast(2)\n    def one(data): return data\n", 2)
        },
        "the upcasts of 'bad.pong'",
        "upcast_cycle.py:6",
    ),
    "no_schema": (
        {
            "no_schema.py": plugin("no_schema", "    ...\n")
            + "from collections.abc import Callable\n"
            + event("    n: Callable[[int], int]\n")
        },
        "event 'bad.pong' has a field without a JSON schema",
        "no_schema.py:7",
    ),
    "no_type": (
        {"no_type.py": plugin("no_type", "    ...\n") + event("    n: type(print)\n")},
        "Unable to generate pydantic-core schema for <class 'builtin_function_or_method'>",
        "no_type.py:6",
    ),
    "contradiction": (
        options("contradiction", "broadcast=True, durable=True"),
        "broadcast keeps no place",
        "contradiction.py:4",
    ),
    "no_bound": (
        options("no_bound", "overflow='drop_oldest'"),
        "overflow='drop_oldest' has no bound",
        "no_bound.py:4",
    ),
    "out_of_range": (
        options("out_of_range", "retry=RetryPolicy(attempts=0)"),
        "RetryPolicy(attempts=…): Input should be greater than or equal to 1",
        "out_of_range.py:4",
    ),
    "async_where": (
        options("async_where", "where=later", "async def later(event): return True\n"),
        "handler 'handle' has a predicate that is async",
        "async_where.py:5",
    ),
    "not_async": (
        {"not_async.py": plugin("not_async", "    @on\n    def handle(self, event: Ping): ...\n")},
        "handler 'handle' is not async",
        "not_async.py:4",
    ),
}


@pytest.fixture
async def plugins(tmp_path: Path) -> AsyncIterator[dict[str, PluginInfo]]:
    """A kernel on a folder with every bad plugin and a good one; the infos by id."""
    folder, release = tmp_path / "plugins", tmp_path / "release"
    folder.mkdir()
    (folder / "good.py").write_text(GOOD)
    (folder / "twice_one.py").write_text(GOOD.replace("good", "twice"))
    (folder / "twice_two.py").write_text(GOOD.replace("good", "twice"))
    for files, _, _ in CASES.values():
        for name, text in files.items():
            file = folder / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text.replace("HERE", f"__import__('pathlib').Path({str(release)!r})"))
    settings = Settings(state_dir=tmp_path / "state", plugin_paths=(folder,), deadlines=Deadlines(load=0.5))
    try:
        async with PluginManager(settings, profile="embedded") as manager:
            yield {info.plugin_id: info for info in manager.plugins()}
    finally:
        release.touch()


async def test_every_bad_plugin_is_named_with_place_and_fix(plugins: dict[str, PluginInfo]) -> None:
    """The reason says what is wrong and where, in a few lines; no plugin hides another."""
    wrong = []
    for plugin_id, (_, text, place) in CASES.items():
        info = plugins[plugin_id]
        reason = info.reason
        if reason is None or info.status is not PluginStatus.ERROR:
            wrong.append(f"{plugin_id}: {info.status}")
            continue
        if text not in reason.text or not reason.place.endswith(place) or not reason.next_step:
            wrong.append(f"{plugin_id}: {reason}")
        if len(reason.text.splitlines()) > 12 or "Traceback" in reason.text:
            wrong.append(f"{plugin_id}: more than a screen")
    assert wrong == []


async def test_the_others_go_on(plugins: dict[str, PluginInfo]) -> None:
    """The good one is started; of two with one id the first is, and the second is refused by name."""
    assert plugins["good"].status is PluginStatus.STARTED
    assert plugins["twice"].status is PluginStatus.STARTED
    [second] = [info for name, info in plugins.items() if name.startswith("twice (")]
    assert second.reason is not None
    assert "the id 'twice' is taken" in second.reason.text


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["run", "--bus", "carrier-pigeon://"], 3, "no bus for carrier-pigeon:// is installed"),
        (["plugin", "list"], 4, "plugbus run"),
        (["plugn"], 2, "plugin"),
    ],
)
def test_a_mistyped_command_gets_one_screen(
    argv: list[str],
    code: int,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Cause and fix, a stable exit code, never a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLUGBUS_STATE_DIR", str(tmp_path / "state"))
    assert execute(argv) == code
    printed = capsys.readouterr()
    out = printed.out + printed.err
    assert text in out
    assert "Traceback" not in out
    assert len(out.splitlines()) <= 12
