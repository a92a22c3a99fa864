"""What of an event goes into its message."""

from __future__ import annotations

import gc
import weakref

import pytest

from bus.codec import encode
from contracts.errors import PayloadTooLarge
from contracts.event import Event, EventData, dump_event


class Inner(Event):
    text: str


class Scalars(Event, type="sizes.scalars"):
    text: str = ""
    number: int = 0
    maybe: str | None = None
    many: tuple[str, ...] = ()
    inner: Inner | None = None
    raw: bytes = b""


class Listed(Event, type="sizes.listed"):
    items: list[str]


@pytest.mark.parametrize("size", [10, 1_040_000, 1_100_000])
@pytest.mark.parametrize("field", ["text", "maybe", "many", "inner", "raw"])
def test_the_limit_is_that_of_the_json(field: str, size: int) -> None:
    """In whichever field the text is: taken exactly if its JSON has at most 1 MiB."""
    text = "x" * size
    value = {"many": (text,), "inner": Inner(text=text), "raw": text.encode()}.get(field, text)
    event = Scalars.model_validate({field: value})
    if len(dump_event(event)) > 1 << 20:
        with pytest.raises(PayloadTooLarge):
            encode(event)
    else:
        assert encode(event) == ("sizes.scalars", 1, event, None)


def test_a_class_that_can_change_is_dumped() -> None:
    """The bytes are the snapshot."""
    assert encode(Listed(items=["a"])) == ("sizes.listed", 1, None, b'{"items":["a"]}')
    assert encode(EventData(type="a.b", version=3, data="[]")) == ("a.b", 3, None, b"[]")


def test_what_is_known_of_a_class_does_not_keep_it_alive() -> None:
    """An unloaded generation's classes can go."""

    def publish_once() -> weakref.ref[type[Event]]:
        class Short(Event, type="sizes.short"):
            n: int = 0

        encode(Short())
        return weakref.ref(Short)

    gone = publish_once()
    gc.collect()
    assert gone() is None
