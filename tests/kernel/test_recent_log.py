"""The last log records of a kernel, for whoever is to help: without data of events."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from contracts.errors import ErrorInfo
from contracts.logs import Quoted
from contracts.message import HANDLING, PluginEvent
from contracts.messages import ShowLog
from kernel import records
from kernel.recent_log import RecentLog
from kernel.testing import Harness
from plugbus import Event


class Placed(Event, type="orders.placed"):
    card: str


@pytest.fixture
def recent() -> Iterator[RecentLog]:
    """At the root of the loggers, as `plugbus run` has it."""
    root, undo = logging.getLogger(), records.install()
    handler, level = RecentLog(3), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.setLevel(level)
    root.removeHandler(handler)
    undo()


ours, theirs = logging.getLogger("plugbus.test"), logging.getLogger("shop.prices")


def test_the_last_are_kept_and_the_others_counted(recent: RecentLog) -> None:
    """With time and level; what is below the level of the log does not come."""
    ours.debug("no")
    for number in range(5):
        ours.warning("number %d", number)
    assert [line.text for line in recent.lines()] == ["number 2", "number 3", "number 4"]
    assert (recent.dropped, recent.lines()[0].level) == (2, "WARNING")
    assert abs((datetime.now(UTC) - recent.lines()[0].at).total_seconds()) < 60


def test_errors_are_told_by_their_type(recent: RecentLog) -> None:
    """As an argument or with a traceback: what they say may quote an event."""
    error = ValueError("card 4711")
    ours.error("%s failed: %s", "bill", ErrorInfo.of(error))
    assert recent.lines()[-1].text == "bill failed: ValueError"
    ours.error(error)
    ours.error("%(what)s failed: %(error)s", {"what": "bill", "error": error})
    try:
        raise error
    except ValueError:
        ours.exception("it failed")
    texts = [line.text for line in recent.lines()]
    assert texts == ["ValueError", "bill failed: ValueError", "it failed"]
    assert recent.lines()[-1].error.startswith(f"ValueError ({__file__}:")
    assert "4711" not in str(recent.lines())


def test_what_may_be_data_is_left_out(recent: RecentLog) -> None:
    """Objects and marked text, and whatever anybody else says."""
    ours.info("%s, %r, %d, %s", Quoted("4711"), Placed(card="4711"), 17, Path("a"))
    ours.info("%d", Decimal(4711))
    theirs.warning("paid with 4711")
    first, second, third = (line.text for line in recent.lines())
    assert (first, second) == ("…, '…', 17, a", "%d …")
    assert third.startswith("(test_recent_log.py:")
    assert "4711" not in str(recent.lines())


def test_a_line_names_what_it_belongs_to(recent: RecentLog) -> None:
    """The event that was handled meanwhile."""
    token = HANDLING.set(PluginEvent.of(Placed(card="4711"), id="e-17"))
    theirs.warning("x")
    HANDLING.reset(token)
    theirs.warning("y")
    first, second = recent.lines()
    assert (first.event_id, first.event_type) == ("e-17", "orders.placed")
    assert (second.event_id, second.event_type) == ("", "")


def test_several_threads_may_log_while_it_is_read(recent: RecentLog) -> None:
    """Nothing is lost, and nothing breaks."""

    def log() -> None:
        for _ in range(500):
            ours.info("x")

    threads = [threading.Thread(target=log) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert len(recent.lines()) <= 3
    for thread in threads:
        thread.join()
    assert recent.dropped == 4 * 500 - 3


async def test_the_kernel_tells_it(recent: RecentLog, harness: Harness) -> None:
    """As a query like any other."""
    ours.warning("look here")
    told = await harness.request(ShowLog())
    assert (told.most, told.lines[-1].text) == (3, "look here")


async def test_an_application_keeps_its_own_log(harness: Harness) -> None:
    """Then there is nothing, and that is said."""
    told = await harness.request(ShowLog())
    assert (told.most, told.lines) == (0, ())
