"""Logging of `run` and `demo`."""

import logging
from collections.abc import Callable, Iterator

import pytest

from kernel.cli.logs import LineFormatter, configure_logging


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What was logged; afterwards logging is as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    others = {
        name: logging.getLogger(name).level for name in ("asyncio", "httpcore", "httpx", "uvicorn.access")
    }
    root.handlers = []
    yield lambda: capsys.readouterr().err
    root.handlers, root.level = handlers, level
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
