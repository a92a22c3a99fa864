"""Errors that may come with every message: said once a second, and forgotten."""

from __future__ import annotations

import weakref

import pytest

from bus.redis_streams.throttled_log import ThrottledLog


class Said:
    """A log whose clock stands still until it is set, and what it has said."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.now = 0.0
        self._caplog = caplog
        self._log = ThrottledLog(lambda: self.now)

    def says(self, kind: str, text: str) -> bool:
        """Whether it is said."""
        self._caplog.clear()
        self._log.error(kind, text)
        said = [(record.name, record.levelname, record.getMessage()) for record in self._caplog.records]
        assert said in ([], [("plugbus.bus", "ERROR", text)])
        return bool(said)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Said:
    return Said(caplog)


def test_neither_a_kind_nor_a_text_is_said_again(log: Said) -> None:
    assert log.says("shop", "it is 100 %d full")
    assert not log.says("shop", "it is 100 %d full")
    assert not log.says("shop", "it is closed")
    assert not log.says("mail", "it is 100 %d full")
    assert log.says("mail", "it is closed")


def test_it_is_said_again_after_a_second(log: Said) -> None:
    """After the last time that it was said, not that it was to be said."""
    assert log.says("shop", "it is full")
    for log.now in (0.5, 0.99):
        assert not log.says("shop", "it is full")
    log.now = 1.0
    assert log.says("shop", "it is full")
    log.now = 1.99
    assert not log.says("shop", "it is closed")
    assert not log.says("mail", "it is full")
    log.now = 2.0
    assert log.says("mail", "it is full")
    assert log.says("shop", "it is closed")


def test_what_was_said_meanwhile_shortens_nothing(log: Said) -> None:
    """Each has its own second."""
    assert log.says("shop", "it is full")
    log.now = 0.5
    assert log.says("mail", "it is closed")
    log.now = 0.75
    assert not log.says("shop", "another")
    assert not log.says("another", "it is full")
    log.now = 1.25
    assert log.says("shop", "it is full")
    assert not log.says("mail", "another")
    assert not log.says("another", "it is closed")


class Kind(str):
    """One that can be seen to go."""

    __slots__ = ("__weakref__",)


def test_what_is_over_is_forgotten(log: Said) -> None:
    """Whoever says something else each time, for years, fills nothing."""
    kind = Kind("shop")
    gone = weakref.ref(kind)
    assert log.says(kind, "it is full")
    del kind
    log.now = 0.5
    assert log.says("mail", "it is closed")
    assert gone() is not None
    log.now = 1.0
    assert log.says("news", "it is slow")
    assert gone() is None
