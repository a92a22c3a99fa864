"""Errors as data: what survives the way over a wire, and how rules recognise them."""

from __future__ import annotations

import pytest

from contracts import errors
from contracts.errors import (
    BusClosed,
    BusError,
    BusFull,
    ErrorInfo,
    InvalidEvent,
    PluginNotReady,
    ProviderFailed,
    RemoteError,
)


def caught(error: Exception) -> ErrorInfo:
    try:
        raise error  # noqa: TRY301 - so that it has a traceback
    except Exception as raised:  # noqa: BLE001 - any error is described
        return ErrorInfo.of(raised)


def over_the_wire(error: Exception) -> Exception:
    return ErrorInfo.model_validate_json(caught(error).model_dump_json()).to_exception()


def test_an_error_is_matched_by_name() -> None:
    """Its own name, short or full, and those of its bases."""
    info = caught(ConnectionRefusedError("no"))
    assert info.matches("ConnectionRefusedError")
    assert info.matches("OSError")
    assert not info.matches("ValueError")
    assert caught(BusFull("x")).matches("contracts.errors.BusFull")
    assert "test_errors.py:" in info.place
    assert str(info) == "ConnectionRefusedError: no"


def test_our_errors_come_back_as_themselves() -> None:
    """Class, sentence, place, fix and what they carry are the same on the other side."""
    there = over_the_wire(BusFull("full", topic="orders", group="a.b", where="here", fix="wait"))
    assert isinstance(there, BusFull)
    assert (there.message, there.topic, there.group, there.where, there.fix) == (
        "full", "orders", "a.b", "here", "wait",
    )  # fmt: skip
    again = over_the_wire(PluginNotReady("later", retry_after=2.5))
    assert isinstance(again, PluginNotReady)
    assert again.retry_after == 2.5


def test_whether_asking_again_helps_is_told() -> None:
    """It does, unless the error or its class says that it will not; that crosses the wire as well."""
    assert not BusError("refused").is_final
    assert BusError("wrong password", is_final=True).is_final
    assert BusClosed("closed").is_final
    for is_final in (False, True):
        there = over_the_wire(BusError("no", is_final=is_final))
        assert isinstance(there, BusError)
        assert there.is_final is is_final


def test_a_failed_provider_is_told_whole() -> None:
    """The error of the provider travels inside the one that the asker gets."""
    inner = caught(LookupError("nothing"))
    there = over_the_wire(ProviderFailed("it failed", info=inner, capability="a.b"))
    assert isinstance(there, ProviderFailed)
    assert (there.capability, there.info) == ("a.b", inner)


def test_foreign_errors_come_back_as_descriptions() -> None:
    """What the other side raised is told whole, however often it is handed on."""
    there = over_the_wire(LookupError("nothing"))
    assert isinstance(there, RemoteError)
    assert there.info.matches("LookupError")
    assert ErrorInfo.of(there) == there.info
    assert "raise error" in there.info.traceback


def test_a_traceback_is_bounded() -> None:
    """The end is kept, where the cause stands."""
    info = caught(ValueError("x" * 50_000))
    assert len(info.traceback) == errors.TRACEBACK_LIMIT


def test_explaining_is_three_lines() -> None:
    """What, where, how to mend it."""
    error = InvalidEvent("does not fit", errors=["a: missing"], where="orders.placed", fix="send a")
    assert error.explain().splitlines() == [
        "invalid-event: does not fit",
        "  at:  orders.placed",
        "  fix: send a",
    ]


@pytest.mark.parametrize("cls", list(errors._OURS.values()))
def test_every_error_of_ours_can_cross(cls: type[errors.PlugbusError]) -> None:
    """Each class is made again from its description, with its own defaults where nothing was carried."""
    there = ErrorInfo(type=errors.qualified_name(cls), message="m").to_exception()
    assert type(there) is cls
    assert str(there) == "m"


def test_a_text_that_is_no_unicode_is_spelled_out() -> None:
    """Else no list that the error is in could be written."""
    info = ErrorInfo.of(ValueError("broken \ud800 text"))
    assert info.message == "broken \\ud800 text"
    assert ErrorInfo.model_validate_json(info.model_dump_json()) == info
