"""Configurations that fit for certain, as the library for JSON Schema would have said."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from kernel.configuration.fitting import certainly_fits

ROOT = Path(__file__).parents[2]


def table(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


PORT = table(port={"type": "integer", "minimum": 1, "maximum": 9, "title": "Port", "default": 5})
SHARE = table(share={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1})
LEVEL = table(level={"type": "string", "enum": ["a", "b"]}, is_on={"type": "boolean"})


@pytest.mark.parametrize(
    ("schema", "configuration"),
    [
        ({"type": "object"}, {}),
        (table(), {}),
        (PORT, {}),
        (PORT, {"port": 1}),
        (PORT, {"port": 9}),
        (SHARE, {"share": 0.5}),
        (LEVEL, {"level": "b", "is_on": True}),
        (table(name={"type": "string", "minimum": 5}), {"name": "x"}),
    ],
)
def test_what_certainly_fits_does(schema: dict[str, Any], configuration: dict[str, Any]) -> None:
    """The library says so too, of the schema as of the configuration."""
    assert certainly_fits(schema, configuration)
    Draft202012Validator.check_schema(schema)
    assert Draft202012Validator(schema).is_valid(configuration)


@pytest.mark.parametrize(
    ("schema", "configuration"),
    [
        ({}, {}),
        ({"type": "object"}, {"more": 1}),
        ({"type": "object", "required": ["port"]}, {}),
        ({"type": "object", "properties": 5}, {}),
        ({"type": "object", "title": 5}, {}),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {}),
        (PORT, {"prot": 1}),
        (PORT, {"port": 0}),
        (PORT, {"port": 10}),
        (PORT, {"port": True}),
        (PORT, {"port": 5.0}),
        (PORT, {"port": "5"}),
        (PORT, {"port": None}),
        (SHARE, {"share": 0}),
        (SHARE, {"share": 1}),
        (SHARE, {"share": float("nan")}),
        (LEVEL, {"level": "c"}),
        (LEVEL, {"is_on": 1}),
        (table(a={"type": "string", "minLength": 1}), {"a": ""}),
        (table(a={"type": "string", "format": "uri"}), {"a": "x"}),
        (table(a={"type": "integer", "minimum": "5"}), {}),
        (table(a={"type": "integer", "minimum": True}), {}),
        (table(a={"type": "integer", "enum": [True]}), {"a": 1}),
        (table(a={"type": ["integer", "null"]}), {"a": 1}),
        (table(a={"type": "array"}), {"a": []}),
        (table(a={"type": "string", "title": 5}), {}),
        (table(a=True), {"a": 1}),
    ],
)
def test_everything_else_is_left_to_the_library(
    schema: dict[str, Any], configuration: dict[str, Any]
) -> None:
    """Whether it fits or not: it says what is wrong, and knows the other keywords."""
    assert not certainly_fits(schema, configuration)


@pytest.mark.parametrize("plugin", ["gateway", "audit"])
def test_the_plugins_that_always_run_do_not_need_it(plugin: str) -> None:
    """Their schemas are of that kind, so a start does without the library."""
    manifest = tomllib.loads((ROOT / "plugins" / plugin / "plugin.toml").read_text(encoding="utf-8"))
    assert certainly_fits(manifest["configuration_schema"], manifest.get("default_configuration", {}))
    code = (
        "import sys; from kernel.configuration.schema import problems_of\n"
        "assert problems_of({'type': 'object'}, {}) == ()\n"
        "assert 'jsonschema' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own interpreter
