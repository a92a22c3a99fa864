"""Logging of `run` and `demo`."""

import logging
from collections.abc import Callable, Iterator

import pytest

from contracts.message import HANDLING, PluginEvent
from kernel.cli.logs import LineFormatter, configure_logging
from plugbus import Event


class Placed(Event, type="orders.placed"):
    pass


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What was logged; afterwards logging is as it was."""
    root = logging.getLogger()
    handlers, level, factory = root.handlers[:], root.level, logging.getLogRecordFactory()
    others = {
        name: logging.getLogger(name).level for name in ("asyncio", "httpcore", "httpx", "uvicorn.access")
    }
    root.handlers = []
    yield lambda: capsys.readouterr().err
    root.handlers, root.level = handlers, level
    logging.setLogRecordFactory(factory)
    for name, former in others.items():
        logging.getLogger(name).setLevel(former)


def _fail() -> None:
    try:
        int("bad\nnews")
    except ValueError:
        logging.getLogger("plugbus.test").exception("could not %s", "do it")


def test_a_record_is_one_line(written: Callable[[], str]) -> None:
    """Time, level, logger, message; an error with its place; line ends spelled out."""
    configure_logging("info")
    logging.getLogger("plugbus.test").warning("from\noutside")
    _fail()
    first, second = written().splitlines()
    assert first[12:] == " WARNING plugbus.test: from\\noutside"
    assert " ERROR   plugbus.test: could not do it | ValueError: invalid literal" in second
    assert second.endswith(")")
    assert "test_logs.py:" in second


def test_what_a_handler_says_names_its_event(written: Callable[[], str]) -> None:
    """Unless it has named it itself, as the bus does."""
    configure_logging("info")
    token = HANDLING.set(PluginEvent.of(Placed(), id="e-17"))
    logging.getLogger("plugins.shop").warning("price is missing")
    logging.getLogger("plugbus.bus").warning("attempt 1 of e-17 failed")
    HANDLING.reset(token)
    logging.getLogger("plugins.shop").warning("done")
    assert [line.partition(": ")[2] for line in written().splitlines()] == [
        "price is missing event=e-17", "attempt 1 of e-17 failed", "done",
    ]  # fmt: skip


def test_debugging_shows_tracebacks(written: Callable[[], str]) -> None:
    """Whoever asks for `debug` wants them."""
    configure_logging("debug")
    _fail()
    assert "Traceback (most recent call last)" in written()


def test_the_level_is_kept_and_chatter_of_others_left_out(written: Callable[[], str]) -> None:
    """Below the level nothing is written; libraries only from `warning` on."""
    configure_logging("info")
    logging.getLogger("plugbus.test").debug("no")
    logging.getLogger("httpx").info("no")
    assert written() == ""


def test_an_error_without_a_traceback_is_told_without_a_place() -> None:
    """It was never raised."""
    error = ValueError("x")
    record = logging.LogRecord("a", logging.ERROR, "f", 1, "m", (), (ValueError, error, None))
    assert LineFormatter().format(record).endswith("a: m | ValueError: x")
