"""Events: what a class may be, what is shared, what a handler's model gets, and the CloudEvents form."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from contracts.envelope import Envelope, schema_uri, schema_version
from contracts.errors import EventDefinitionError, InvalidEvent
from contracts.event import Event, EventData, EventResult, dump_event, upcast
from contracts.message import Message, PluginEvent, event_from_message
from contracts.query import Query


class Placed(Event, type="orders.placed"):
    order: str
    total: Decimal = Decimal(0)


class Colour(enum.Enum):
    RED = "red"


class Line(BaseModel):
    model_config = ConfigDict(frozen=True)

    sku: str
    tags: tuple[str, ...] = ()


class LooseLine(BaseModel):
    sku: str


def message(event: Event, *, version: int | None = None, data: bytes | None = None) -> Message:
    kind = type(event)
    shared = event if kind.__event_immutable__ and data is None else None
    return Message(
        "1",
        "/test",
        kind.__event_type__,
        version or kind.__event_version__,
        1_700_000_000_000_000_000,
        shared,
        data if data is not None else dump_event(event),
        "key",
    )


def test_an_event_is_strict_when_made_and_frozen() -> None:
    """Unknown fields and changes are refused."""
    with pytest.raises(ValidationError):
        Placed.model_validate({"order": "a", "colour": "red"})
    with pytest.raises(ValidationError):
        Placed(order="a").order = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    "name", ["Orders.placed", "orders..placed", "orders-placed", "1orders", "orders.", "ä"]
)
def test_a_bad_type_name_is_refused_where_it_is_written(name: str) -> None:
    """The class line raises, with the class and how a type is written."""
    with pytest.raises(EventDefinitionError, match="is not an event type") as caught:
        type(Event)("Bad", (Event,), {"__module__": __name__}, type=name)
    assert "Bad" in caught.value.where
    assert "orders.placed" in caught.value.fix


@pytest.mark.parametrize("version", [0, -1, True, "2"])
def test_a_version_is_an_integer_from_one(version: object) -> None:
    """Anything else is refused where the class is made."""
    with pytest.raises(EventDefinitionError, match=r"an integer from 1|has version"):
        type(Event)("Bad", (Event,), {"__module__": __name__}, type="a.b", version=version)


def test_a_field_without_a_json_schema_is_refused() -> None:
    """What cannot be described cannot travel."""
    with pytest.raises(EventDefinitionError, match="without a JSON schema"):

        class Bad(Event, type="a.b"):
            call: Callable[[], int]


@pytest.mark.parametrize(
    ("annotation", "immutable"),
    [
        (str, True),
        (int | None, True),
        (tuple[int, ...], True),
        (frozenset[str], True),
        (Line, True),
        (tuple[Line, ...], True),
        (Literal["a"], True),
        (Colour, True),
        (UUID, True),
        (Annotated[Decimal, Field(gt=0)], True),
        (list[int], False),
        (dict[str, int], False),
        (LooseLine, False),
        (tuple[list[int], ...], False),
        (JsonValue, False),
        (Any, False),
        (object, False),
    ],
)
def test_only_deeply_immutable_events_are_shared(annotation: Any, immutable: bool) -> None:
    """Frozen is shallow: one mutable field anywhere, and every handler gets its own instance."""
    cls = type(Event)(
        "One", (Event,), {"__annotations__": {"x": annotation}, "__module__": __name__}, type="a.b"
    )
    assert cls.__event_immutable__ is immutable


def test_what_the_bases_declare_is_not_evaluated_for_each_class() -> None:
    """Pydantic would compile each of their annotations again, for every event of every plugin."""
    assert not vars(Event).get("__annotations__")
    assert not vars(Query).get("__annotations__")


def test_the_same_class_gets_the_same_object() -> None:
    """No copy and no validation where none is needed."""
    event = Placed(order="a")
    assert event_from_message(message(event), Placed) is event


def test_another_class_gets_its_own_fields() -> None:
    """Unknown fields are ignored by who receives; missing or wrong ones are named."""

    class Narrow(Event, type="orders.placed"):
        order: str

    class Wrong(Event, type="orders.placed"):
        order: int
        customer: str

    assert event_from_message(message(Placed(order="a", total=Decimal(3))), Narrow) == Narrow(order="a")
    with pytest.raises(InvalidEvent) as caught:
        event_from_message(message(Placed(order="a")), Wrong)
    assert {line.split(":")[0] for line in caught.value.errors} == {"order", "customer"}


def test_old_data_are_lifted_hop_by_hop() -> None:
    """A handler only ever sees the version that its class declares."""

    class Third(Event, type="orders.placed", version=3):
        order: str
        total: Decimal
        currency: str

        @upcast(1)
        def _rename(data: dict[str, Any]) -> dict[str, Any]:  # noqa: N805 - upcasts are static
            return {**data, "total": data.pop("amount")}

        @upcast(2)
        def _add(data: dict[str, Any]) -> dict[str, Any]:  # noqa: N805
            return {**data, "currency": "EUR"}

    old = message(Placed(order="a"), version=1, data=b'{"order": "a", "amount": "3.5"}')
    assert event_from_message(old, Third) == Third(order="a", total=Decimal("3.5"), currency="EUR")

    class Placed2(Event, type="orders.placed", version=2):
        order: str

    with pytest.raises(InvalidEvent, match=r"has version 1; .*Placed2 knows 2"):
        event_from_message(old, Placed2)
    with pytest.raises(InvalidEvent, match="has version 4"):
        event_from_message(message(Placed(order="a"), version=4, data=b"{}"), Third)


def test_a_gap_in_the_upcasts_is_refused() -> None:
    """Every hop from the oldest known version must be there."""
    with pytest.raises(EventDefinitionError, match="without a gap"):

        class Gap(Event, type="a.b", version=4):
            @upcast(1)
            def _one(data: dict[str, Any]) -> dict[str, Any]:  # noqa: N805
                return data

            @upcast(3)
            def _three(data: dict[str, Any]) -> dict[str, Any]:  # noqa: N805
                return data


def test_the_envelope_is_cloudevents() -> None:
    """All set attributes under their standard names; the envelope makes the same message again."""
    one = message(Placed(order="a"))
    attributes = one.envelope.attributes()
    assert attributes == {
        "specversion": "1.0",
        "id": "1",
        "source": "/test",
        "type": "orders.placed",
        "time": "2023-11-14T22:13:20Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:plugbus:orders.placed:1",
        "partitionkey": "key",
        "correlationid": "1",
    }
    again = Message.from_envelope(one.envelope, one.data, version=1)
    assert again.envelope == one.envelope
    assert again.data == one.data


def test_foreign_attributes_are_kept() -> None:
    """Extensions, trace context, a foreign schema and the expiry survive the way in and out."""
    now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    envelope = Envelope(
        id="x",
        source="https://example.com",
        type="a.b",
        time=now,
        dataschema="https://example.com/schema",
        datacontenttype="application/vnd.example+json",
        traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
        expirytime=now + timedelta(hours=1),
        extensions={"tenant": "t1", "retries": 3, "urgent": True},
    )
    again = Message.from_envelope(envelope, b"{}").envelope
    assert again == Envelope(
        **{**{f: getattr(envelope, f) for f in envelope.__slots__}, "correlationid": "x"}
    )
    assert again.attributes()["tenant"] == "t1"


def test_the_version_travels_in_the_schema() -> None:
    """Our own dataschema names type and version; anything else says nothing of it."""
    assert schema_version(schema_uri("a.b", 7), "a.b") == 7
    assert schema_version("https://example.com", "a.b") == schema_version(None, "a.b") == 1
    assert schema_version(schema_uri("a.b", 7), "a.c") == 1
    for version in ("0", "-1", "x", "9" * 5_000):
        with pytest.raises(InvalidEvent, match="cannot be one"):
            schema_version(f"urn:plugbus:a.b:{version}", "a.b")


def test_a_plugin_event_crosses_a_wire() -> None:
    """What a handler sees is the same on the other side: attempt, deadline, data, derived ids."""
    adapter = TypeAdapter(PluginEvent)
    event = PluginEvent(message(Placed(order="ä\n")), "watch", 3, 12.5)
    there = adapter.validate_json(adapter.dump_json(event))
    assert (there.handler, there.attempt, there.deadline) == ("watch", 3, 12.5)
    assert there.data == {"order": "ä\n", "total": "0"}
    assert there.as_(Placed) == Placed(order="ä\n")
    assert [there.derived_id(n) for n in range(2)] == [event.derived_id(n) for n in range(2)]
    assert there.derived_id(0) != there.derived_id(1)


def test_event_data_and_results() -> None:
    """An event as data keeps type and version; a result is one of four."""
    data = EventData.of(Placed(order="a"))
    assert (data.type, data.version, json.loads(data.data)["order"]) == ("orders.placed", 1, "a")
    results = [
        EventResult.ok(),
        EventResult.retry("x", after=1),
        EventResult.discard("y"),
        EventResult.dead_letter("z"),
    ]
    assert [result.action for result in results] == ["ok", "retry", "discard", "dead_letter"]


def test_two_upcasts_of_one_version_are_refused() -> None:
    """Neither may win in silence."""
    with pytest.raises(EventDefinitionError, match="lifts version 1, and so does 'one'"):

        class Twice(Event, type="shop.twice", version=2):
            @upcast(1)
            def one(data: dict[str, Any]) -> dict[str, Any]:  # noqa: N805 - upcasts are static
                return data

            @upcast(1)
            def other(data: dict[str, Any]) -> dict[str, Any]:  # noqa: N805 - upcasts are static
                return data


def test_an_upcast_beyond_the_version_says_what_is_missing() -> None:
    """Version 2 cannot be lifted to what the class is not."""
    with pytest.raises(EventDefinitionError) as caught:

        class Beyond(Event, type="shop.beyond", version=2):
            @upcast(2)
            def lift(data: dict[str, Any]) -> dict[str, Any]:  # noqa: N805 - upcasts are static
                return data

    assert caught.value.fix == "an upcast to version 3 belongs to a class with version=3"


@pytest.mark.parametrize("lifts", [0, -1, True, "1", 1.0])
def test_an_upcast_lifts_a_version(lifts: Any) -> None:
    """A whole number from 1."""
    with pytest.raises(EventDefinitionError, match="where the version that it lifts belongs"):
        type(
            "Odd",
            (Event,),
            {"lift": upcast(lifts)(lambda data: data), "__module__": __name__},
            type="a.b",
            version=2,
        )


def test_an_upcast_without_its_version_is_refused() -> None:
    """`@upcast` alone would have been passed over."""
    with pytest.raises(EventDefinitionError, match="does not say which version"):
        upcast(dict)  # type: ignore[arg-type]
