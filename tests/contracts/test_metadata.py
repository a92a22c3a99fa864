"""The rules of a manifest's texts hold however they come: written by people, or as JSON by a program."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from contracts.metadata import MAX_PLUGIN_ID, Pattern, PluginId

TEXTS = st.lists(st.sampled_from(["a", "b1", "A", "_", "*", "**", ".", "1", "é", "²", "\n", " "]), max_size=9)


ID: TypeAdapter[str] = TypeAdapter(PluginId)
PATTERN: TypeAdapter[str] = TypeAdapter(Pattern)


def accepts(adapter: TypeAdapter[str], text: str, *, as_json: bool) -> bool:
    try:
        found = adapter.validate_json(json.dumps(text)) if as_json else adapter.validate_python(text)
    except ValidationError:
        return False
    return found == text


@pytest.mark.parametrize("kind", [ID, PATTERN])
@given(text=TEXTS.map("".join))
@example(text="a" * MAX_PLUGIN_ID)
@example(text="a" * (MAX_PLUGIN_ID + 1))
@example(text="a\n")
@example(text="orders.*.placed.**")
def test_json_is_held_to_the_same_rules(kind: TypeAdapter[str], text: str) -> None:
    """What one way refuses, the other refuses as well."""
    assert accepts(kind, text, as_json=True) == accepts(kind, text, as_json=False)


def test_what_people_write_is_refused_in_words() -> None:
    """The expression itself is told to nobody who writes a plugin."""
    with pytest.raises(ValidationError, match="'Web-Hooks' is not a plugin id: lower-case words"):
        ID.validate_python("Web-Hooks")
