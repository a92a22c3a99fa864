"""CloudEvents over HTTP, read strictly: pure functions, by tables."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.bus import TailItem
from contracts.envelope import Envelope
from contracts.event import EventData
from plugins.gateway.cloudevents import parse, parse_batch, render
from plugins.gateway.problems import Problem

NOW = datetime(2026, 1, 31, 8, tzinfo=UTC)
EVENT = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "orders.placed"}
STRUCTURED = {"content-type": "application/cloudevents+json"}
JSON = {"content-type": "application/json"}


def raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def structured(body: Any, content_type: str = STRUCTURED["content-type"]) -> tuple[Envelope, EventData]:
    """Parsed in structured mode, and held against the same event in a batch."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    batched = in_batch(content) if content_type == STRUCTURED["content-type"] and content else None
    found = outcome(raw({"content-type": content_type}), content)
    if isinstance(found, Problem):
        if batched is not None:
            assert isinstance(batched, Problem)
            assert (batched.status, batched.code) == (found.status, found.code)
            assert batched.extensions == found.extensions
        raise found
    assert batched is None or batched == found
    return found


def outcome(headers: list[tuple[bytes, bytes]], content: bytes) -> tuple[Envelope, EventData] | Problem:
    try:
        return parse(headers, content, now=NOW)
    except Problem as problem:
        return problem


def in_batch(content: bytes) -> tuple[Envelope, EventData] | Problem:
    try:
        good, found = parse_batch(
            b"[" + json.dumps(EVENT).encode() + b" , " + content + b"]", most=9, now=NOW
        )
    except Problem as problem:
        return problem
    assert good == parse(raw(STRUCTURED), json.dumps(EVENT).encode(), now=NOW)
    return found


def binary(
    headers: dict[str, str] | None = None, body: bytes = b'{"order_id":"17"}', **attributes: str
) -> tuple[Envelope, EventData]:
    named = {f"ce-{name}": value for name, value in {**EVENT, **attributes}.items()}
    return parse(raw({**named, **(JSON if headers is None else headers)}), body, now=NOW)


def both(**attributes: Any) -> list[tuple[Envelope, EventData]]:
    """The same attributes in both modes."""
    return [binary(**attributes), structured({**EVENT, **attributes, "data": {"order_id": "17"}})]


def test_both_modes_say_the_same() -> None:
    """One event in binary and in structured mode is one envelope and the same data."""
    extensions = {
        "subject": "17",
        "time": "2026-01-31T09:00:00+01:00",
        "dataschema": "urn:plugbus:orders.placed:3",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate": "a=b",
        "partitionkey": "customer-4",
        "correlationid": "c1",
        "causationid": "c0",
        "expirytime": "2026-02-01T00:00:00Z",
        "tenant": "acme",
    }
    (in_headers, header_data), (in_json, json_data) = both(**extensions)
    assert in_headers == in_json
    assert in_json.time == NOW
    assert in_json.partitionkey == "customer-4"
    assert in_json.expirytime == datetime(2026, 2, 1, tzinfo=UTC)
    assert in_json.extensions == {"tenant": "acme"}
    assert json_data.version == header_data.version == 3
    assert json.loads(json_data.data) == json.loads(header_data.data) == {"order_id": "17"}


def test_what_is_missing_has_its_default() -> None:
    """Without time, schema, content type and data: now, version 1, JSON, an empty object."""
    envelope, data = structured(EVENT)
    assert envelope.time == NOW
    assert envelope.datacontenttype == "application/json"
    assert data == EventData(type="orders.placed", version=1, data="{}")
    assert binary(headers={}, body=b"")[1] == data


def test_null_attributes_are_absent() -> None:
    """A null attribute, and null data, are as if they were not there."""
    envelope, data = structured({**EVENT, "subject": None, "tenant": None, "time": None, "data": None})
    assert envelope.subject is None
    assert envelope.extensions == {}
    assert envelope.time == NOW
    assert data.data == "{}"


def test_extensions_keep_their_types() -> None:
    """Booleans and integers of foreign extensions come out of JSON as they were."""
    envelope, _ = structured({**EVENT, "sampled": True, "priority": -5, "a" * 40: "long names are allowed"})
    assert envelope.extensions == {"sampled": True, "priority": -5, "a" * 40: "long names are allowed"}


def test_data_are_passed_on_untouched() -> None:
    """Numbers of the data keep every digit in both modes."""
    text = b'{ "total" : 12.50, "exact": 0.1000000000000000055511151231257827, "big": 12345678901234567890 }'
    body = json.dumps(EVENT)[:-1].encode() + b' ,\n "data" :\t' + text + b" }"
    assert structured(body)[1].data == binary(body=text)[1].data == text.decode()


def test_base64_data_are_decoded() -> None:
    """data_base64 carries the bytes of the JSON object."""
    _, data = structured({**EVENT, "data_base64": "eyJhIjoxfQ=="})
    assert data.data == '{"a":1}'


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("100%25", "100%"),
        ('"quoted \\"inside\\" by an old sender"', 'quoted "inside" by an old sender'),
        ("  trimmed ", "trimmed"),
        ("%2525", "%25"),
    ],
)
def test_headers_are_percent_decoded_once(header: str, value: str) -> None:
    """Header values are unquoted, then percent-decoded exactly once."""
    assert binary(subject=header)[0].subject == value


@pytest.mark.parametrize(
    "header", ["%C0%A0", "%ED%A0%80", "%FF", "Z\xfcrich", "50%", "%zz", "%00", "%EF%BF%BF"]
)
def test_headers_that_are_not_utf_8_are_refused(header: str) -> None:
    """Overlong, cut or raw bytes, broken escapes, controls and noncharacters are malformed."""
    with pytest.raises(Problem) as refused:
        binary(subject=header)
    assert (refused.value.status, refused.value.code) == (400, "malformed-cloudevent")
    assert refused.value.extensions["attribute"] == "subject"


@pytest.mark.parametrize(
    ("change", "attribute"),
    [
        ({"id": None}, "id"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"source": None}, "source"),
        ({"source": "not a uri"}, "source"),
        ({"source": "/%zz"}, "source"),
        ({"type": None}, "type"),
        ({"type": True}, "type"),
        ({"specversion": None}, "specversion"),
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": "1.1"}, "specversion"),
        ({"specversion": 1}, "specversion"),
        ({"subject": ""}, "subject"),
        ({"dataschema": "/relative"}, "dataschema"),
        ({"dataschema": "urn:plugbus:orders.placed:" + "9" * 5_000}, "dataschema"),
        ({"time": "yesterday"}, "time"),
        ({"time": "2026-01-31"}, "time"),
        ({"time": "2026-01-31T08:00:00"}, "time"),
        ({"time": "2026-13-31T08:00:00Z"}, "time"),
        ({"time": "2026-01-31 08:00:00Z"}, "time"),
        ({"time": "0001-01-01T00:00:00+14:00"}, "time"),
        ({"time": "9999-12-31T23:59:59.999999-14:00"}, "time"),
        ({"expirytime": "soon"}, "expirytime"),
        ({"partitionkey": 5}, "partitionkey"),
        ({"MyExt": "x"}, "MyExt"),
        ({"my_ext": "x"}, "my_ext"),
        ({"my-ext": "x"}, "my-ext"),
        ({"": "x"}, ""),
        ({"größe": "x"}, "größe"),
        ({"nested": {"a": 1}}, "nested"),
        ({"listed": [1]}, "listed"),
        ({"ratio": 0.5}, "ratio"),
        ({"large": 2**31}, "large"),
        ({"control": "a\u0007b"}, "control"),
        ({"odd": "\ufffe"}, "odd"),
    ],
)
def test_bad_attributes_are_named(change: dict[str, Any], attribute: str) -> None:
    """Each rule of CloudEvents that is broken is a 400 that names the attribute."""
    with pytest.raises(Problem) as refused:
        structured({**EVENT, **change})
    assert (refused.value.status, refused.value.code) == (400, "malformed-cloudevent")
    assert refused.value.extensions.get("attribute", "") == attribute


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"specversion":"1.0"',
        b"\xff\xfe",
        b'{"specversion":"1.0","id":"\xc3"}',
        b'{"id":"\\ud800"}',
        b'{"data":NaN}',
        b'{"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b"[" * 10_000,
        b'{"n":' + b"9" * 5_000 + b"}",
        b'{"n":' + b"9" * 4_301 + b"}",
        b"{} {}",
    ],
)
def test_json_that_cannot_be_read_is_a_400(body: bytes) -> None:
    """Truncated, wrongly encoded, endless and absurdly deep JSON are malformed, never a failure of ours."""
    for attempt in (lambda: structured(body), lambda: binary(body=body or b"{")):
        with pytest.raises(Problem) as refused:
            attempt()
        assert refused.value.status == 400


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"null", b"7"])
def test_a_structured_event_is_an_object(body: bytes) -> None:
    """JSON that is no object is no event."""
    with pytest.raises(Problem) as refused:
        structured(body)
    assert refused.value.status == 400


def test_data_and_base64_never_come_together() -> None:
    """Two sets of data are refused, whatever they hold."""
    for data in ({}, None):
        with pytest.raises(Problem, match="both"):
            structured({**EVENT, "data": data, "data_base64": "e30="})


@pytest.mark.parametrize("value", ["%%%", "e30", 5, ["e30="], "e30=\n"])
def test_bad_base64_is_refused(value: Any) -> None:
    """data_base64 is a string of Base64 and nothing else."""
    with pytest.raises(Problem) as refused:
        structured({**EVENT, "data_base64": value})
    assert refused.value.status == 400


def test_a_member_may_stand_once() -> None:
    """The same attribute twice is ambiguous, in JSON as in headers."""
    with pytest.raises(Problem, match="twice"):
        structured(json.dumps(EVENT)[:-1].encode() + b',"id":"2"}')
    with pytest.raises(Problem, match="twice"):
        parse(
            [*raw({f"ce-{name}": value for name, value in EVENT.items()}), (b"ce-id", b"2")], b"{}", now=NOW
        )
    with pytest.raises(Problem, match="twice"):
        parse([(b"content-type", b"application/json"), (b"content-type", b"text/plain")], b"{}", now=NOW)


@pytest.mark.parametrize("name", ["ce-my_ext", "ce-", "ce-data", "ce-datacontenttype", "ce-d\xe9j\xe0"])
def test_bad_header_names_are_refused(name: str) -> None:
    """What follows ce- is an attribute name, and neither data nor the content type."""
    with pytest.raises(Problem) as refused:
        binary(headers={**JSON, name: "x"})
    assert refused.value.status == 400


def test_header_names_may_be_written_in_any_case() -> None:
    """HTTP header names have no case: CE-MyExt is the attribute myext."""
    assert binary(headers={**JSON, "CE-MyExt": "x"})[0].extensions == {"myext": "x"}


def test_a_request_without_an_event_is_told_how() -> None:
    """Plain JSON without ce- headers is answered with both ways to send an event."""
    with pytest.raises(Problem) as refused:
        parse(raw(JSON), b"{}", now=NOW)
    assert refused.value.status == 400
    assert "application/cloudevents+json" in refused.value.fix


@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        ("application/cloudevents+xml", "unsupported-format"),
        ("application/cloudevents", "unsupported-format"),
        ("application/cloudevents+json; charset=latin-1", "unsupported-charset"),
        ("application/json; charset=utf-16", "unsupported-charset"),
        ("text/plain", "unsupported-data"),
        ("application/octet-stream", "unsupported-data"),
    ],
)
def test_other_formats_are_a_415(content_type: str, code: str) -> None:
    """Other formats, other charsets and data that are not JSON are not spoken here."""
    with pytest.raises(Problem) as refused:
        binary(headers={"content-type": content_type})
    assert (refused.value.status, refused.value.code) == (415, code)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; Charset=UTF-8",
        'application/json;charset="utf-8"',
        "text/x.y+json",
    ],
)
def test_json_under_any_name_is_taken(content_type: str) -> None:
    """application/json and +json are JSON, in any case and with UTF-8 named."""
    assert binary(headers={"content-type": content_type})[1].data == '{"order_id":"17"}'
    assert structured({**EVENT, "datacontenttype": content_type, "data": {}})[1].data == "{}"


def test_structured_data_of_another_type_are_a_415() -> None:
    """datacontenttype is honoured in structured mode too."""
    with pytest.raises(Problem) as refused:
        structured({**EVENT, "datacontenttype": "text/plain", "data": "hello"})
    assert refused.value.status == 415


@pytest.mark.parametrize("data", [[], "text", 5, True])
def test_data_of_an_event_are_an_object(data: Any) -> None:
    """Well-formed data that are no object cannot be an event here: 422."""
    for attempt in (
        lambda: structured({**EVENT, "data": data}),
        lambda: binary(body=json.dumps(data).encode()),
    ):
        with pytest.raises(Problem) as refused:
            attempt()
        assert refused.value.status == 422


@pytest.mark.parametrize("kind", ["Com.Example", "a b", "orders..placed", "1st", "*", "orders.**"])
def test_a_type_that_the_bus_does_not_know_is_a_422(kind: str) -> None:
    """A valid CloudEvents type that is no type name of the bus is told apart from a malformed event."""
    with pytest.raises(Problem) as refused:
        structured({**EVENT, "type": kind})
    assert (refused.value.status, refused.value.code) == (422, "invalid-event-type")


@pytest.mark.parametrize("size", [65_536, 65_537])
def test_large_data_are_accepted(size: int) -> None:
    """64 KiB of data, and one byte more, come through whole in both modes."""
    data = {"a": "x" * (size - len('{"a":""}'))}
    text = json.dumps(data, separators=(",", ":"))
    assert len(text) == size
    assert binary(body=text.encode())[1].data == text
    assert json.loads(structured({**EVENT, "data": data})[1].data) == data


@pytest.mark.parametrize("seconds", ["", ".1", ".123456", ".123456789"])
@pytest.mark.parametrize("zone", ["Z", "z", "+00:00", "-05:30"])
def test_every_rfc_3339_time_is_read(seconds: str, zone: str) -> None:
    """Fractions of any length and every offset are read; what comes out is UTC."""
    moment = binary(time=f"2026-01-31T08:00:00{seconds}{zone}")[0].time
    assert moment.tzinfo is UTC
    assert moment.hour == (13 if zone == "-05:30" else 8)


def test_what_was_parsed_is_rendered_on_one_line() -> None:
    """An event comes out as a structured CloudEvent on one line that parses to the same event."""
    body = {
        **EVENT,
        "subject": "line\u2028 separator",
        "tenant": "a",
        "priority": 3,
        "time": "2026-01-31T08:00:00Z",
    }
    text = json.dumps(body)[:-1].encode() + b',"data":{\r\n  "text": "two\\nlines"\n}}'
    envelope, data = structured(text)
    line = render(TailItem(envelope=envelope, version=1, data=data.data, position="1"))
    assert "\n" not in line
    assert "\r" not in line
    assert json.loads(line)["data"] == {"text": "two\nlines"}
    assert structured(line.encode())[0] == envelope
