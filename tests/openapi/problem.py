"""What a refusal of the HTTP edge has to be: a problem document (RFC 9457), with the headers of RFC 9110."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import jsonschema_rs  # comes with schemathesis; unlike jsonschema alone it knows what a URI reference is

_DOCUMENT = jsonschema_rs.validator_for(
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["type", "title", "status", "detail", "instance"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference", "minLength": 1},
            "title": {"type": "string", "minLength": 1},
            "status": {"type": "integer"},
            "detail": {"type": "string", "minLength": 1},
            "instance": {"type": "string", "format": "uri-reference", "minLength": 1},
        },
    },
    validate_formats=True,
)
_CHALLENGE = re.compile(r"Bearer( |$)")


def judge(status: int, headers: Mapping[str, str], body: bytes, *, method: str = "GET") -> None:
    """Raise `AssertionError` unless this is a 2xx, or as it has to be. Header names in lower case."""
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        # No refusal, so no problem: a redirect says where to go, a 304 stands for what the client has.
        assert status == 304 or headers.get("location"), f"a {status} without Location"
        assert not body, f"a {status} with a body"
        return
    assert headers.get("content-type") == "application/problem+json", f"it is {headers.get('content-type')}"
    if method != "HEAD":  # has the headers of the answer alone
        document = json.loads(body)
        for error in _DOCUMENT.iter_errors(document):
            raise AssertionError(f"{error.instance_path}: {error.message}, in {document}")
        assert document["status"] == status, f"it says {document['status']} in a {status}"
    if status == 401:
        assert _CHALLENGE.match(headers.get("www-authenticate", "")), "a 401 without WWW-Authenticate"
    if status == 405:
        assert headers.get("allow"), "a 405 without Allow"
