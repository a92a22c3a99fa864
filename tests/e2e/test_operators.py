"""The operator's tools on a real kernel: every step by the command line, over the admin API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kernel.cli import execute
from kernel.testing import Harness
from plugbus import BasePlugin, Event, RetryPolicy, on


class Parcel(Event, type="post.parcel"):
    """Something to deliver."""

    name: str


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Plugbus = Callable[..., Awaitable[Ended]]


class Postman(BasePlugin, plugin_id="postman", version="1.0.0", security_level="trusted"):
    delivered: ClassVar[list[str]]
    mended: ClassVar[bool]

    @on(retry=RetryPolicy(attempts=1))
    async def deliver(self, event: Parcel) -> None:
        if not self.mended and event.name.startswith("bad"):
            raise (TimeoutError if event.name.startswith("bad slow") else ValueError)(event.name)
        type(self).delivered.append(event.name)


@pytest.fixture
async def postman(harness: Harness) -> type[Postman]:
    """A postman of the test's own, who cannot deliver what is bad."""
    made = type("Own", (Postman,), {"delivered": [], "mended": False, "__manifest__": Postman.__manifest__})
    await harness.load(made)
    return made


@pytest.fixture
async def plugbus(harness: Harness, capsys: pytest.CaptureFixture[str]) -> Plugbus:
    """The command line, against the kernel of this test."""
    await harness.load("gateway", config={"port": 0})
    assert harness.manager.url is not None
    assert harness.manager.state_dir is not None
    token = (harness.manager.state_dir / "token").read_text().strip()
    where = ("--url", harness.manager.url, "--token", token)

    async def run(*words: str) -> Ended:
        code = await asyncio.to_thread(execute, [*words, *where])
        captured = capsys.readouterr()
        return Ended(int(code), captured.out, captured.err)

    return run


async def post(harness: Harness, *names: str) -> None:
    for name in names:
        await harness.publish(Parcel(name=name))


async def test_dead_letters_are_filtered_counted_and_let_go(
    harness: Harness, postman: type[Postman], plugbus: Plugbus
) -> None:
    """By error class; a dry run changes nothing; a rate lets them go one after the other."""
    await post(harness, "good", "bad 1", "bad slow 1", "bad slow 2")
    await harness.quiet()
    assert len((await plugbus("dlq", "list", "--json")).json["items"]) == 3
    slow = ("--group", "postman.deliver", "--error", "TimeoutError", "--newer-than", "1h")
    listed = await plugbus("dlq", "list", *slow, "--json")
    assert [json.loads(item["data"])["name"] for item in listed.json["items"]] == ["bad slow 2", "bad slow 1"]
    assert (await plugbus("dlq", "list", "--older-than", "1h")).out == "no dead letters\n"

    dry = await plugbus("dlq", "redrive", *slow, "--dry-run")
    assert dry.out == "would redrive 2 dead letters; nothing was done\n"
    assert len(await harness.dead_letters()) == 3
    postman.mended = True
    assert (await plugbus("dlq", "redrive", *slow, "--rate", "200")).out == "redrive: 2\n"
    await harness.quiet()
    assert postman.delivered == ["good", "bad slow 1", "bad slow 2"]
    assert (await plugbus("dlq", "discard", "--all", "--yes")).out == "discard: 1\n"
    assert await harness.dead_letters() == []


@pytest.mark.parametrize("verb", [("list",), ("redrive", "--dry-run"), ("discard", "--yes"), ("export",)])
@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--group", "postman.delivr"), 5, "did you mean 'postman.deliver'?"),
        (("--plugin", "postmann"), 5, "did you mean 'postman'?"),
        (("--reason", "attempt"), 2, "did you mean 'attempts'?"),
        (("--type", "J*"), 2, "is not a pattern"),
    ],
)
async def test_a_filter_that_nobody_can_fit_is_refused(
    plugbus: Plugbus,
    postman: type[Postman],
    verb: tuple[str, ...],
    words: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    """A slip of the pen does not look like having no dead letters."""
    ended = await plugbus("dlq", *verb, *words)
    assert (ended.code, told in ended.err) == (code, True), ended.err


async def test_dead_letters_travel_in_a_file(
    harness: Harness, postman: type[Postman], plugbus: Plugbus, tmp_path: Path
) -> None:
    """Exported, discarded, imported: each as it was; a second import adds nothing."""
    await post(harness, "bad 1", "bad 2", "bad 3")
    await harness.quiet()
    before = await harness.dead_letters()
    file = tmp_path / "letters.jsonl"
    assert (await plugbus("dlq", "export", "-o", str(file))).out == f"exported: 3 to {file}\n"
    assert (await plugbus("dlq", "export")).out == file.read_text()
    await plugbus("dlq", "discard", "--group", "postman.deliver", "--yes")
    assert await harness.dead_letters() == []
    assert (await plugbus("dlq", "import", str(file))).out == "imported: 3\n"
    by_id = {letter.id: letter for letter in await harness.dead_letters()}
    assert by_id == {letter.id: letter for letter in before}
    assert (await plugbus("dlq", "import", str(file))).out == "imported: 0; 3 were here already\n"
    postman.mended = True
    assert (await plugbus("dlq", "redrive", "--plugin", "postman", "--generation", "1")).code == 0
    await harness.quiet()
    assert sorted(postman.delivered) == ["bad 1", "bad 2", "bad 3"]


async def test_a_group_is_paused_over_traffic_and_goes_on(
    harness: Harness, postman: type[Postman], plugbus: Plugbus
) -> None:
    """What comes meanwhile waits, in order, and is seen to wait."""
    await post(harness, "before")
    await harness.quiet()
    assert (await plugbus("group", "pause", "postman.deliver", "--reason", "flood")).code == 0
    await post(harness, "first", "second")
    shown = await plugbus("group", "list")
    row = next(line for line in shown.out.splitlines() if line.startswith("postman.deliver "))
    assert row.split()[:3] == ["postman.deliver", "paused", "2"]
    assert "postman.deliver is paused: flood" in shown.out
    assert postman.delivered == ["before"]
    assert (await plugbus("group", "resume", "postman.deliver")).code == 0
    await harness.quiet()
    assert postman.delivered == ["before", "first", "second"]
    assert (await plugbus("group", "pause", "postman.delivr")).code == 5


async def test_events_are_replayed(harness: Harness, postman: type[Postman], plugbus: Plugbus) -> None:
    """All that is retained, those of the last minutes, or none of the future."""
    await post(harness, "a", "b")
    await harness.quiet()
    assert (await plugbus("event", "replay", "postman.deliver")).out.startswith("replaying 2 events")
    await harness.quiet()
    assert postman.delivered == ["a", "b", "a", "b"]
    assert (await plugbus("event", "replay", "postman.deliver", "--from", "5m", "--json")).json["item"] == {
        "group": "postman.deliver",
        "events": 2,
    }
    await harness.quiet()
    assert len(postman.delivered) == 6
    wrong = await plugbus("event", "replay", "postman.deliver", "--from", "nonsense")
    assert (wrong.code, wrong.err.startswith("invalid-option: ")) == (2, True)
    upside_down = await plugbus("event", "replay", "postman.deliver", "--from", "1m", "--to", "5m")
    assert (upside_down.code, "before it begins" in upside_down.err) == (2, True)
    for start in ("1H", "-5m", "5 minutes", "0001-01-01"):
        assert (await plugbus("event", "replay", "postman.deliver", f"--from={start}")).code in (0, 2), start
    assert (await plugbus("event", "replay", "postman.deliver", "--from", "99999999w")).code == 0
    assert (await plugbus("event", "replay", "postman.deliver", "--cancel")).code == 0


async def test_a_group_is_dropped_once_nobody_handles_it(
    harness: Harness, postman: type[Postman], plugbus: Plugbus
) -> None:
    """Refused before with the way to do it; afterwards it begins anew."""
    refused = await plugbus("group", "drop", "postman.deliver", "--yes")
    assert (refused.code, "plugbus plugin stop postman" in refused.err) == (1, True)
    await plugbus("plugin", "stop", "postman")
    await post(harness, "never")
    dropped = await plugbus("group", "drop", "postman.deliver", "--yes")
    assert dropped.out == "dropped postman.deliver: 1 waiting, 0 parked, 0 dead given up\n"
    assert (await plugbus("group", "show", "postman.deliver")).code == 5


async def test_the_catalogue_and_the_bus_are_shown(
    harness: Harness, postman: type[Postman], plugbus: Plugbus
) -> None:
    """Types with who handles them, a type's schema, the topics."""
    await post(harness, "a")
    await harness.quiet()
    row = (await plugbus("event", "list", "post.*")).out.splitlines()[1]
    assert row.split()[:4] == ["post.parcel", "1", "postman", "postman.deliver"]
    assert (await plugbus("event", "schema", "post.parcel")).json["required"] == ["name"]
    missing = await plugbus("event", "schema", "post.parcl")
    assert (missing.code, "did you mean 'post.parcel'?" in missing.err) == (5, True)
    topics = (await plugbus("bus", "info")).out
    assert [line for line in topics.splitlines() if line.startswith("post ")]
