"""A configuration against its JSON Schema or its pydantic model: every problem at once. Pure.

No sentence here repeats a value that is secret: what was expected is told from the schema, never from the
validator's own text, which quotes what it was given.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, JsonValue, ValidationError

from contracts.messages import ConfigurationProblem

from .fitting import certainly_fits
from .places import Schema
from .secrets import is_secret, masked, scrubbed

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError as Misfit

_SHOWN = 80
_TOLD: Mapping[str, str] = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "text that matches {}",
    "format": "a {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "minProperties": "at least {} keys",
    "maxProperties": "at most {} keys",
    "const": "{}",
}
_KINDS = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "array": "a list", "object": "a table", "null": "null",
}  # fmt: skip


def problems_of(schema: Schema, configuration: Mapping[str, JsonValue]) -> tuple[ConfigurationProblem, ...]:
    """What of `configuration` does not fit a JSON Schema (2020-12); nothing is fetched for it."""
    if certainly_fits(schema, configuration):
        return ()
    from jsonschema import Draft202012Validator  # dear to import, and not every plugin has a schema
    from jsonschema.exceptions import SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        Draft202012Validator.check_schema(schema)
        validator = Draft202012Validator(
            schema, registry=Registry(), format_checker=Draft202012Validator.FORMAT_CHECKER
        )
        found = sorted(validator.iter_errors(configuration), key=lambda each: list(map(str, each.path)))
    except SchemaError as error:
        return (_bad_schema(f"{error.json_path}: {error.message}"),)
    except Unresolvable as error:
        return (_bad_schema(f"{error.ref} refers to nothing in it"),)
    return _each_once(problem for error in found for problem in _problems(error, schema))


def misfits_of(
    model: type[BaseModel], configuration: Mapping[str, JsonValue]
) -> tuple[ConfigurationProblem, ...]:
    """What of `configuration` does not fit a pydantic model."""
    try:
        model.model_validate(dict(configuration))
    except ValidationError as error:
        schema = schema_of(model)
        told = (_misfit(model, each, configuration, schema) for each in error.errors(include_url=False))
        return _each_once(told)
    return ()


def schema_of(model: type[BaseModel]) -> dict[str, JsonValue]:
    return model.model_json_schema()


def known_keys(schema: Schema | None) -> list[str]:
    properties = (schema or {}).get("properties")
    return sorted(properties) if isinstance(properties, Mapping) else []


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """The fix for a key that is not known."""
    listed = sorted(known)
    near = difflib.get_close_matches(key, listed, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"remove it; the keys are {', '.join(listed)}" if listed else "remove it; there are no keys"


def told(problem: ConfigurationProblem) -> str:
    """A problem as half a sentence."""
    found = f", found {problem.found}" if problem.found else ""
    return f"{problem.key}: expected {problem.expected}{found}" if problem.key else problem.expected


def _bad_schema(why: str) -> ConfigurationProblem:
    return ConfigurationProblem(
        key="",
        expected="a configuration_schema that is a JSON Schema (2020-12)",
        found=why[:_SHOWN],
        fix="mend the schema of the plugin; its values cannot be checked until then",
    )


def _each_once(problems: Iterable[ConfigurationProblem]) -> tuple[ConfigurationProblem, ...]:
    return tuple({(each.key, each.expected): each for each in problems}.values())


# --- JSON Schema ---------------------------------------------------------------------------------------


def _problems(error: Misfit, root: Schema) -> Iterator[ConfigurationProblem]:
    path = tuple(map(str, error.absolute_path))
    given: Any = error.instance
    schema: Any = error.schema
    wanted: Any = error.validator_value
    if error.validator == "additionalProperties" and wanted is False and isinstance(given, Mapping):
        known = known_keys(schema)
        patterns = schema.get("patternProperties") or ()
        unknown = set(given) - set(known)
        for key in sorted(key for key in unknown if not any(re.search(each, key) for each in patterns)):
            yield ConfigurationProblem(
                key=".".join((*path, key)), expected="a key that it knows", fix=did_you_mean(key, known)
            )
    elif error.validator == "required" and isinstance(given, Mapping):
        for key in wanted:
            if key not in given:
                yield ConfigurationProblem(
                    key=".".join((*path, key)), expected="a value", found="nothing", fix=f"set {key}"
                )
    else:
        yield ConfigurationProblem(
            key=".".join(path),
            expected=_expected(error),
            found=_shown(path, given, root),
            fix=_example(schema),
        )


def _expected(error: Misfit) -> str:
    keyword: str = str(error.validator)
    wanted: Any = error.validator_value
    if keyword == "type":
        kinds = [wanted] if isinstance(wanted, str) else wanted
        return " or ".join(_KINDS.get(kind, str(kind)) for kind in kinds)
    if keyword == "enum":
        return f"one of {', '.join(_short(each) for each in wanted)}"
    if keyword in ("anyOf", "oneOf") and error.context:
        return " or ".join(dict.fromkeys(_expected(each) for each in error.context))
    if keyword in _TOLD:
        return _TOLD[keyword].format(wanted if isinstance(wanted, str) else _short(wanted))
    return f"what its schema says by {keyword}: {_short(wanted)}"


def _example(schema: Any) -> str:
    for keyword in ("default", "examples"):
        if isinstance(schema, Mapping) and keyword in schema:
            value = schema[keyword]
            example = value[0] if keyword == "examples" and isinstance(value, list) and value else value
            return f"for example {_short(example)}"
    return "give such a value, or leave it out"


# --- pydantic --------------------------------------------------------------------------------------------


def _misfit(
    model: type[BaseModel], error: Any, configuration: Mapping[str, JsonValue], schema: Schema
) -> ConfigurationProblem:
    path = tuple(str(part) for part in error["loc"])
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        known = _names(model) if len(path) == 1 else []
        return ConfigurationProblem(
            key=key,
            expected="a key that it knows",
            fix=did_you_mean(path[-1], known) if known else "remove it",
        )
    if error["type"] == "missing":
        return ConfigurationProblem(key=key, expected="a value", found="nothing", fix=f"set {path[-1]}")
    text = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return ConfigurationProblem(
        key=key,
        expected=scrubbed(text, configuration, schema),
        found=_shown(path, error["input"], schema) if path else "",
        fix="give such a value, or leave it out" if path else "set what is expected",
    )


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


# --- showing -----------------------------------------------------------------------------------------------


def _shown(path: Sequence[str], value: Any, schema: Schema) -> str:
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    place = tuple(path)
    return "••••" if is_secret(place, schema) and value else _short(masked(place, value, schema))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
