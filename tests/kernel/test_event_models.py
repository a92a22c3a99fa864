"""Models of one event that do not fit: told when the second of the two is loaded, and by `event diff`."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import ProviderFailed
from contracts.messages import DiffEventType
from kernel.testing import Harness

Write = Callable[..., Path]

SHOP = """
from plugbus import BasePlugin, Event
class Placed(Event, type="orders.placed", version={version}):
    id: str
    {field}
class Shop(BasePlugin, plugin_id="{plugin_id}", version="1", security_level="trusted"):
    pass
"""
BOOKS = """
from plugbus import BasePlugin, Event, on
class Placed(Event, type="orders.placed", version={version}):
    {field}
class Books(BasePlugin, plugin_id="{plugin_id}", version="1", security_level="trusted"):
    @on
    async def enter(self, event: Placed) -> None:
        pass
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a plugin whose model of the order has one field of its own."""
    gc.collect()  # classes of an earlier kernel in this process, whose modules had the same names

    def written(code: str, plugin_id: str, field: str, version: int = 1) -> Path:
        file = tmp_path / f"{plugin_id}.py"
        file.write_text(code.format(plugin_id=plugin_id, field=field, version=version), encoding="utf-8")
        return file

    return written


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("first", ["shop", "books"])
async def test_a_model_that_cannot_read_is_told_once_when_the_second_is_loaded(
    harness: Harness, write: Write, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    """Whichever comes first: one warning with both plugins, the type, the field and a fix."""
    plugins = {"shop": write(SHOP, "shop", "total: int"), "books": write(BOOKS, "books", "buyer: str")}
    await harness.load(plugins.pop(first))
    assert warnings(caplog) == []
    await harness.load(*plugins.values())
    [warning] = warnings(caplog)
    for text in (
        "'shop'",
        "'books'",
        "orders.placed (version 1)",
        "buyer: books requires it",
        "fix: give 'buyer'",
    ):
        assert text in warning
    assert "id" not in warning.split("publishes: ")[1].split(":")[0]


async def test_of_two_that_are_loaded_side_by_side_it_is_told_once(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """In one wave."""
    harness = Harness(tmp_path)
    await harness.manager.register_plugin(write(SHOP, "shop", "total: int"))
    await harness.manager.register_plugin(write(BOOKS, "books", "total: str"))
    async with harness:
        pass
    assert ["total: is integer; books takes string" in line for line in warnings(caplog)] == [True]


@pytest.mark.parametrize(
    ("code", "field", "version"),
    [
        (BOOKS, "total: int", 1),  # reads less
        (BOOKS, "total: float", 1),  # reads wider
        (BOOKS, 'note: str = ""', 1),  # adds what may be missing
        (BOOKS, "buyer: str", 2),  # another version
        (SHOP, "buyer: str", 1),  # publishes as well: nobody reads
    ],
)
async def test_models_that_fit_are_not_told(
    harness: Harness, write: Write, caplog: pytest.LogCaptureFixture, code: str, field: str, version: int
) -> None:
    """A narrow model of one's own is how plugins are meant to read each other."""
    await harness.load(write(SHOP, "shop", "total: int"))
    await harness.load(write(code, "other", field, version))
    assert warnings(caplog) == []


async def test_who_gets_events_as_they_are_reads_everything(
    harness: Harness, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """A class beside a handler of a wider pattern is not what the handler gets."""
    raw = BOOKS.replace("@on", '@on("orders.**")').replace("event: Placed", "event: PluginEvent")
    raw = raw.replace("import BasePlugin", "import PluginEvent, BasePlugin")
    await harness.load(write(SHOP, "shop", "total: int"))
    await harness.load(write(raw, "books", "buyer: str"))
    assert warnings(caplog) == []


async def test_two_that_only_handle_are_not_compared(
    harness: Harness, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither writes what the other one reads."""
    await harness.load(write(BOOKS, "one", "total: int"))
    await harness.load(write(BOOKS, "two", "buyer: str"))
    assert warnings(caplog) == []
    diff = await harness.request(DiffEventType(type="orders.placed"))
    assert (diff.versions, diff.comparisons) == ((1,), ())


async def test_publisher_and_handler_are_compared_on_demand(harness: Harness, write: Write) -> None:
    """Each difference with what it means; who has no model of its own is not there."""
    await harness.load(write(SHOP, "shop", "total: int"))
    await harness.load(write(BOOKS, "books", "buyer: str"))
    await harness.load(write(BOOKS, "fine", "total: int"))
    diff = await harness.request(DiffEventType(type="orders.placed"))
    told = {(one.writer.plugin_id, one.reader.plugin_id): one for one in diff.comparisons}
    assert set(told) == {("shop", "books"), ("shop", "fine")}
    wrong, fine = told[("shop", "books")], told[("shop", "fine")]
    assert (wrong.compatible, fine.compatible) == (False, True)
    assert [(one.field, one.compatible) for one in wrong.differences] == [
        ("buyer", False), ("id", True), ("total", True),
    ]  # fmt: skip
    assert [one.field for one in fine.differences] == ["id"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, [(2, 3), (1, 1)]),
        ({"from_version": 1}, [(1, 2)]),
        ({"to_version": 2}, [(1, 2)]),
        ({"from_version": 1, "to_version": 3}, [(1, 3)]),
        ({"from_version": 3, "to_version": 1}, [(3, 1)]),
        ({"from_version": 1, "to_version": 1}, [(1, 1)]),
        ({"to_version": 1}, [(1, 1)]),
        ({"from_version": 3}, []),
    ],
)
async def test_versions_are_compared(
    harness: Harness, write: Write, asked: dict[str, Any], expected: list[tuple[int, int]]
) -> None:
    """The two that are named, a neighbour, or the newest two and the models of each."""
    for version in (1, 2, 3):
        await harness.load(write(SHOP, f"shop{version}", f"v{version}: int", version))
    await harness.load(write(BOOKS, "books", "v1: int"))
    diff = await harness.request(DiffEventType(type="orders.placed", **asked))
    assert diff.versions == (1, 2, 3)
    assert [(one.writer.version, one.reader.version) for one in diff.comparisons] == expected
    for one in diff.comparisons:
        wrong = [told for told in one.differences if not told.compatible]
        assert [told.field for told in wrong] == ([f"v{one.reader.version}"] if wrong else [])
        assert all("@upcast" in told.fix for told in wrong if one.writer.version < one.reader.version)


@pytest.mark.parametrize(
    ("asked", "fix"),
    [({"type": "orders.placd"}, "did you mean 'orders.placed'?"), ({"to_version": 7}, "it has 1")],
)
async def test_what_is_not_there_is_told(
    harness: Harness, write: Write, asked: dict[str, Any], fix: str
) -> None:
    """A type, or a version of it."""
    await harness.load(write(SHOP, "shop", "total: int"))
    with pytest.raises(ProviderFailed) as caught:
        await harness.request(DiffEventType.model_validate({"type": "orders.placed", **asked}))
    assert caught.value.info.matches("EventTypeNotFound")
    assert fix in caught.value.info.fix


async def test_a_schema_that_is_none_stops_no_plugin(
    harness: Harness, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """An author may add anything to a schema; that it cannot be compared is told, and that is all."""
    odd = 'model_config = {"json_schema_extra": {"properties": ["odd"]}}'
    await harness.load(write(SHOP, "shop", odd))
    await harness.load(write(BOOKS, "books", "total: int"))
    assert harness.plugin("books").status.value == "started"
    assert "the event types of books could not be compared" in caplog.text
