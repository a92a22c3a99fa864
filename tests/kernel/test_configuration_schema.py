"""What is secret in a configuration, and what does not fit its schema: pure functions by tables."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, model_validator

from kernel.configuration.schema import misfits_of, problems_of
from kernel.configuration.secrets import is_secret, masked, scrubbed
from kernel.configuration.variables import as_wanted, with_variables

PARTS = {"$defs": {"Login": {"properties": {"pin": {"format": "password"}, "user": {"type": "string"}}}}}
LOGIN = {**PARTS, "properties": {"login": {"anyOf": [{"$ref": "#/$defs/Login"}, {"type": "null"}]}}}


@pytest.mark.parametrize(
    ("path", "schema", "secret"),
    [
        (("token",), None, True),
        (("API_KEY",), None, True),
        (("tokens", "ada"), None, True),
        (("price",), None, False),
        (("pin",), {"properties": {"pin": {"writeOnly": True}}}, True),
        (("login", "pin"), LOGIN, True),
        (("login", "user"), LOGIN, False),
        (("pins", "ada"), {"properties": {"pins": {"additionalProperties": {"writeOnly": True}}}}, True),
        (("pins", "0"), {"properties": {"pins": {"items": {"format": "password"}}}}, True),
        (("a", "a", "a"), {"$ref": "#", "properties": {"a": {"$ref": "#"}}}, False),
        (("a",), {"$ref": "#/nowhere"}, False),
        (("a",), {"properties": {"a": True}, "allOf": 1}, False),
    ],
)
def test_a_secret_is_known_by_its_name_or_its_schema(path: Any, schema: Any, secret: bool) -> None:
    """Also through references and choices, in tables and lists; a schema that makes no sense harms nobody."""
    assert is_secret(path, schema) is secret


def test_what_is_secret_within_a_value_is_masked() -> None:
    """In tables and lists; passwords of URLs; nothing where there is nothing."""
    value: Any = {"token": None, "urls": ["redis://:pw@host", "http://[bad"], "list": [{"password": "x"}]}
    assert masked(("a",), value, None) == {
        "token": None, "urls": ["redis://:••••@host", "http://[bad"], "list": [{"password": "••••"}],
    }  # fmt: skip


def test_a_sentence_loses_the_secrets_that_it_quotes() -> None:
    """Short ones only as words of their own."""
    text = scrubbed(
        "a pair: abcdef (a) and abc", {"token": "abcdef", "pins": ["a"], "secret": {"x": "a"}}, None
    )
    assert text == "•••• pair: •••• (••••) and abc"


@pytest.mark.parametrize(
    ("schema", "given", "told"),
    [
        ({"type": "string"}, 1, "text"),
        ({"type": ["integer", "null"]}, "x", "a whole number or null"),
        ({"enum": ["a", 1]}, "b", 'one of "a", 1'),
        ({"minimum": 1}, 0, "at least 1"),
        ({"exclusiveMaximum": 1}, 1, "less than 1"),
        ({"minLength": 2}, "a", "at least 2 characters"),
        ({"pattern": "^a"}, "b", "text that matches ^a"),
        ({"format": "ipv4"}, "b", "a ipv4"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "x", "a whole number or null"),
        ({"not": {"type": "string"}}, "x", 'what its schema says by not: {"type": "string"}'),
    ],
)
def test_what_was_expected_is_told_from_the_schema(schema: Any, given: Any, told: str) -> None:
    """Never in the validator's words, which quote what they were given."""
    [problem] = problems_of({"properties": {"a": {"properties": {"b": schema}}}}, {"a": {"b": given}})
    assert (problem.key, problem.expected) == ("a.b", told)


def test_a_key_that_is_missing_is_named() -> None:
    """Each of them once."""
    found = problems_of({"required": ["a", "b", "c"]}, {"b": 1})
    assert [(one.key, one.fix) for one in found] == [("a", "set a"), ("c", "set c")]


def test_a_key_that_fits_a_pattern_is_known() -> None:
    """Only the others are told."""
    schema = {"additionalProperties": False, "patternProperties": {"^x": {}}, "properties": {"port": {}}}
    assert [one.key for one in problems_of(schema, {"x1": 1, "prt": 2, "port": 3})] == ["prt"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strin"},
        {"properties": {"a": {"$ref": "#/nowhere"}}},
        {"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}},
    ],
)
def test_a_schema_that_is_none_is_told_and_nothing_is_fetched(schema: Any) -> None:
    """It is the author's to mend."""
    [problem] = problems_of(schema, {"a": 1})
    assert problem.expected == "a configuration_schema that is a JSON Schema (2020-12)"


class Range(BaseModel, extra="forbid"):
    low: int
    high: int = 5
    token: str = ""

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"{self.token} says low must not be above high")
        return self


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"low": "x", "hgh": 1}, [("low", "a valid integer"), ("hgh", "a key that it knows")]),
        ({}, [("low", "a value")]),
        ({"low": 9, "token": "abcdef"}, [("", "•••• says low must not be above high")]),
        ({"low": 1}, []),
    ],
)
def test_a_model_tells_all_that_does_not_fit(given: Any, told: Any) -> None:
    """What it says itself comes without secrets."""
    assert [(one.key, one.expected.partition(",")[0]) for one in misfits_of(Range, given)] == told


WANTED = {
    "properties": {
        "text": {"type": "string"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "number": {"type": "integer"},
        "flag": {"type": "boolean"},
        "either": {"type": ["boolean", "integer"]},
        "list": {"type": "array"},
        "words": {"oneOf": [{"type": "array"}, {"type": "string"}]},
        "choice": {"enum": ["a", "b"]},
        "table": {"properties": {"text": {"$ref": "#/properties/text"}}},
    }
}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("text", "0017", "0017"),
        ("text", "1e5", "1e5"),
        ("text", "true", "true"),
        ("text", "null", "null"),
        ("text", '"quoted"', '"quoted"'),
        ("text", "[1]", "[1]"),
        ("maybe", "null", None),
        ("maybe", "7", "7"),
        ("number", "17", 17),
        ("number", "many", "many"),
        ("flag", "yes", True),
        ("flag", "OFF", False),
        ("flag", "1", True),
        ("flag", "maybe", "maybe"),
        ("either", "1", 1),
        ("list", '["a"]', ["a"]),
        ("words", '["a"]', ["a"]),
        ("words", "a", "a"),
        ("choice", "a", "a"),
        ("table.text", "17", "17"),
        ("unknown", "17", 17),
        ("table.unknown.deeper", "17", 17),
    ],
)
def test_a_variable_is_what_the_schema_wants(key: str, text: str, value: Any) -> None:
    """Where that is not clear, JSON if it is JSON; nothing that does not fit is bent until it does."""
    assert as_wanted(text, WANTED, tuple(key.split("."))) == value


def test_without_a_schema_a_variable_is_json_or_text() -> None:
    assert [as_wanted(text, None, ("a",)) for text in ("17", "yes", "[1]")] == [17, "yes", [1]]


def test_a_variable_changes_only_its_own_key() -> None:
    """Also where another layer has put something else in the place of a table."""
    given: dict[str, Any] = {"table": {"text": 17, "other": 1}, "flag": 1}
    texts = {("table", "text"): "17", ("flag", "deeper"): "1", ("gone",): "1"}
    assert with_variables(given, texts, WANTED) == {"table": {"text": "17", "other": 1}, "flag": 1}
    assert given["table"]["text"] == 17
