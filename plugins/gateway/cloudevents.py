"""CloudEvents 1.0.2 over HTTP: from headers and body to an envelope with its data, and back to JSON.

Pure functions. What is not a well-formed CloudEvent is a 400, what is one but cannot be an event of
this bus a 422, a format that is not spoken here a 415; all of them are raised as `Problem`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import NoReturn

from pydantic import JsonValue

from contracts.bus import TailItem
from contracts.envelope import Envelope, schema_version
from contracts.errors import InvalidEvent
from contracts.event import EventData
from contracts.patterns import is_type_name

from .attributes import (
    Attributes,
    check_name,
    from_header,
    from_json_value,
    malformed,
    take,
    take_required,
    take_schema,
    take_source,
    take_time,
)
from .json_text import elements, members, parse_json
from .problems import Problem

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"

Headers = Sequence[tuple[bytes, bytes]]

_JSON_TYPE = re.compile(r"application/json|[\w.!#$&^-]+/[\w.!#$&^-]+\+json")


def parse(headers: Headers, body: bytes, *, now: datetime) -> tuple[Envelope, EventData]:
    """One event from an HTTP request in binary or structured mode. `now` stands in for a missing time.

    Header names are lower case, as ASGI gives them.
    """
    content_type = _content_type(headers)
    media = _media(content_type)
    if media == STRUCTURED:
        attributes, data = _structured(body)
    elif media.startswith("application/cloudevents"):
        _refuse_format(media)
    else:
        attributes, data = _binary(headers, content_type), body
    return _event(attributes, data, now)


def is_batch(headers: Headers) -> bool:
    return _media(_content_type(headers)) == BATCHED


def parse_batch(body: bytes, *, most: int, now: datetime) -> list[tuple[Envelope, EventData] | Problem]:
    """Each event of a batch, or what is wrong with it. Raises `Problem` where the body is no batch of at
    most `most` events."""
    return [_parsed(text, now) for text in elements(body, most)]


def _parsed(text: bytes, now: datetime) -> tuple[Envelope, EventData] | Problem:
    try:
        attributes, data = _structured(text)
        return _event(attributes, data, now)
    except Problem as problem:
        return problem


def render(item: TailItem) -> str:
    """An event of the bus as a structured CloudEvent on one line."""
    attributes = json.dumps(item.envelope.attributes(), ensure_ascii=False, separators=(",", ":"))
    data = item.data.replace("\r", " ").replace("\n", " ")  # in JSON, only ever between tokens
    return f'{attributes[:-1]},"data":{data}}}'


# --- the two modes -------------------------------------------------------------------------------------


def _binary(headers: Headers, content_type: str | None) -> Attributes:
    attributes: Attributes = {}
    for raw_name, raw_value in headers:
        if raw_name.startswith(b"ce-"):
            name = check_name(raw_name[3:].decode("latin-1"))
            if name in attributes:
                malformed(f"the header ce-{name} is there twice", name)
            attributes[name] = from_header(name, raw_value)
    if not attributes:
        malformed(
            "the request is not a CloudEvent: it has no ce- headers",
            fix=f"send the event as JSON with Content-Type: {STRUCTURED}, or attributes as ce- headers",
        )
    if "datacontenttype" in attributes:
        malformed("ce-datacontenttype is not allowed", "datacontenttype", fix="use Content-Type")
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    return attributes


def _structured(body: bytes) -> tuple[Attributes, bytes]:
    found = members(body)
    if "data" in found and "data_base64" in found:
        malformed("the event has both data and data_base64", "data", fix="keep one of them")
    data, text = found.pop("data", (None, ""))
    encoded, _ = found.pop("data_base64", (None, ""))
    attributes = {
        check_name(name): from_json_value(name, value)
        for name, (value, _) in found.items()
        if value is not None
    }
    if encoded is not None:
        return attributes, _base64(encoded)
    return attributes, b"" if data is None else text.encode()


def _base64(value: JsonValue) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "?", validate=True)
    except (binascii.Error, ValueError):
        malformed("data_base64 is not Base64", "data_base64", fix="a string of RFC 4648 Base64")


# --- the event -----------------------------------------------------------------------------------------


def _event(attributes: Attributes, data: bytes, now: datetime) -> tuple[Envelope, EventData]:
    if take_required(attributes, "specversion") != "1.0":
        malformed("only specversion 1.0 is understood", "specversion", fix='specversion "1.0"')
    kind, schema = take_required(attributes, "type"), take_schema(attributes)
    content_type = take(attributes, "datacontenttype") or "application/json"
    envelope = Envelope(
        id=take_required(attributes, "id"),
        source=take_source(attributes),
        type=kind,
        time=take_time(attributes, "time") or now,
        subject=take(attributes, "subject"),
        datacontenttype=content_type,
        dataschema=schema,
        traceparent=take(attributes, "traceparent"),
        tracestate=take(attributes, "tracestate"),
        partitionkey=take(attributes, "partitionkey"),
        correlationid=take(attributes, "correlationid"),
        causationid=take(attributes, "causationid"),
        expirytime=take_time(attributes, "expirytime"),
        extensions=attributes,  # what is left of them
    )
    return envelope, _data(kind, schema, data, content_type)


def _data(kind: str, schema: str | None, data: bytes, content_type: str) -> EventData:
    if not is_type_name(kind):
        fix = "words of a-z, 0-9 and _ that start with a letter, joined by dots: 'orders.placed'"
        raise Problem(422, "invalid-event-type", f"{kind!r} cannot be the type of an event here", fix=fix)
    if not _JSON_TYPE.fullmatch(_media(content_type)):
        detail = f"data of type {content_type!r} are not taken"
        raise Problem(415, "unsupported-data", detail, fix="send JSON, as application/json")
    return EventData(type=kind, version=_version(schema, kind), data=_object(data))


def _object(data: bytes) -> str:
    if not data.strip():
        return "{}"
    if not isinstance(parse_json(data), dict):
        raise Problem(422, "invalid-event", "the data are not a JSON object", fix='send {"name": "Ada"}')
    return data.decode()


def _version(schema: str | None, kind: str) -> int:
    try:
        return schema_version(schema, kind)
    except InvalidEvent as error:
        malformed(error.message, "dataschema")


# --- media types ---------------------------------------------------------------------------------------


def _content_type(headers: Headers) -> str | None:
    values = [value.decode("latin-1").strip() for name, value in headers if name == b"content-type"]
    if len(values) > 1:
        malformed("the header Content-Type is there twice")
    return values[0] if values and values[0] else None


def _media(content_type: str | None) -> str:
    """The media type in lower case; JSON in another charset than UTF-8 is refused."""
    media, *parameters = (content_type or "").lower().split(";")
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise Problem(415, "unsupported-charset", f"the charset {value} is not read", fix="send UTF-8")
    return media.strip()


def _refuse_format(media: str) -> NoReturn:
    what, fix = f"the format {media} is not understood", f"send {STRUCTURED}, or an array as {BATCHED}"
    raise Problem(415, "unsupported-format", what, fix=fix)
