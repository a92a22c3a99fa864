"""What a handler makes of an event: an instance of its own model, or an error that says why not."""

from __future__ import annotations

import pytest

from contracts.errors import InvalidEvent, UndecodableEvent
from contracts.event import Event
from contracts.message import Message, PluginEvent


class Placed(Event, type="orders.placed"):
    number: int
    note: str = ""


class OfAnotherPlugin(Event, type="orders.placed"):
    """The same type, as somebody else has declared it."""

    number: int


def delivered(event: Event | None, data: bytes | None) -> PluginEvent:
    return PluginEvent(Message("e1", "/shop", "orders.placed", 1, 0, event, data), "test")


def test_an_object_of_the_same_class_is_handed_on() -> None:
    event = Placed(number=7)
    assert delivered(event, None).as_(Placed) is event


def test_an_object_of_another_class_is_read_from_its_data() -> None:
    """What the model does not know is left out."""
    assert delivered(Placed(number=7, note="x"), None).as_(OfAnotherPlugin) == OfAnotherPlugin(number=7)


def test_data_that_do_not_fit_are_an_error_with_event_and_field() -> None:
    with pytest.raises(InvalidEvent, match=r"orders\.placed v1 \(id e1\) does not fit: number"):
        delivered(None, b'{"number": "many"}').as_(Placed)


def test_what_is_no_json_has_an_error_of_its_own() -> None:
    with pytest.raises(UndecodableEvent, match="no JSON"):
        delivered(None, b"{number").as_(Placed)
