"""Whether what one JSON Schema describes can be read by the model of another. Pure.

Reading is tolerant (`contracts.event.load_model`): a field that the reader does not know is passed over. What
is written comes from a model, so that a field with a default is always there. Compared is what pydantic's
schemas say; keywords beside are not looked at.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contracts.messages.schemas import SchemaDifference

Schema = Mapping[str, Any]
Differences = tuple[SchemaDifference, ...]

_ANYTHING: Schema = {}
_NO_NARROWING = frozenset({"binary", "password", "path"})
"""Formats that any text has."""
_DEEPEST = 16
"""So deep schemas may refer to each other without saying anything; then they are not understood."""
_EXACT = ("pattern", "multipleOf", "uniqueItems")
_TAKEN = {
    "integer": {"number", "decimal"}, "number": {"decimal"}, "decimal": {"number", "string"},
}  # fmt: skip
"""What may be read as something else. `decimal` is our word for a number that may be written as text."""
_LOWER = {"number": ("minimum", "exclusiveMinimum"), "string": ("minLength",), "array": ("minItems",)}
_UPPER = {"number": ("maximum", "exclusiveMaximum"), "string": ("maxLength",), "array": ("maxItems",)}


def differences(writer: Schema, reader: Schema, names: tuple[str, str] = ("writer", "reader")) -> Differences:
    """Every difference that matters to a reader, by field. `names`: what the two are called in the texts."""
    if writer == reader:
        return ()
    return tuple(sorted(_Comparison(writer, reader, *names).of_roots(), key=lambda one: one.field))


@dataclass
class _Comparison:
    """One comparison. Pairs of schemas are compared once, so that models that hold themselves end."""

    writer: Schema
    reader: Schema
    writes: str
    reads: str
    _known: dict[tuple[int, int], Differences] = field(default_factory=dict)
    _made: dict[tuple[int, int], tuple[Any, Schema]] = field(default_factory=dict)
    """Schema → itself and what it comes to. Kept, because `_known` knows schemas by their identity."""

    def of_roots(self) -> Differences:
        return self._compare(self.writer, self.reader)

    def _compare(self, written: Any, read: Any) -> Differences:
        """Differences with fields relative to these two."""
        written, read = self._resolved(written, self.writer), self._resolved(read, self.reader)
        key = (id(written), id(read))
        if key not in self._known:
            self._known[key] = ()  # while it is compared with itself inside, nothing speaks against it
            self._known[key] = self._alternatives(written, read)
        return self._known[key]

    def _resolved(self, schema: Any, root: Schema) -> Schema:
        key = (id(schema), id(root))
        if key not in self._made:
            self._made[key] = (schema, _resolved(schema, root))
        return self._made[key][1]

    def _alternatives(self, written: Schema, read: Schema) -> Differences:
        writes, reads = _alternatives(written, self.writer), _alternatives(read, self.reader)
        if len(writes) == len(reads) == 1:
            return self._plain(writes[0], reads[0])
        found: list[SchemaDifference] = []
        met: set[int] = set()
        for one in writes:
            fitting = [(number, self._plain(one, other)) for number, other in enumerate(reads)]
            number, told = min(fitting, key=lambda fit: (not _all_compatible(fit[1]), len(fit[1])))
            met.add(number)
            same_kind = [fit for fit in fitting if _type(reads[fit[0]]) == _type(one)]
            if _all_compatible(told) or len(same_kind) == 1:
                found += told if _all_compatible(told) else same_kind[0][1]
            else:
                found.append(self._mismatch(f"may be {_name(one)}, which {self.reads} does not take"))
        more = [_name(other) for number, other in enumerate(reads) if number not in met]
        if more and _all_compatible(found):
            found.append(self._fine(f"{self.reads} also takes {', '.join(more)}"))
        return tuple(dict.fromkeys(found))

    def _plain(self, written: Schema, read: Schema) -> Differences:
        """Of two schemas that are no alternatives of others."""
        if (allowed := _values(read)) is not None:
            return self._enumerated(written, allowed)
        kind, wanted = _type(written), _type(read)
        if wanted is None:
            return () if kind is None else (self._fine(f"{self.reads} takes anything"),)
        if kind is None:
            return (self._mismatch(f"may be anything; {self.reads} takes {_name(read)}"),)
        if kind != wanted and wanted not in _TAKEN.get(kind, ()):
            return (self._mismatch(f"is {_name(written)}; {self.reads} takes {_name(read)}"),)
        found = [self._fine(f"is {kind}; {self.reads} takes {wanted}")] if kind != wanted else []
        found += self._bounds(written, read, "number" if wanted in ("integer", "decimal") else wanted)
        if wanted == "object":
            found += self._object(written, read)
        if wanted == "array":
            found += self._array(written, read)
        return tuple(found)

    def _enumerated(self, written: Schema, allowed: list[str]) -> Differences:
        values = _values(written)
        if values is None:
            return (self._mismatch(f"is {_name(written)}; {self.reads} takes only {', '.join(allowed)}"),)
        if strange := [value for value in values if value not in allowed]:
            return (self._mismatch(f"may be {', '.join(strange)}, which {self.reads} does not take"),)
        more = [value for value in allowed if value not in values]
        return (self._fine(f"{self.reads} also takes {', '.join(more)}"),) if more else ()

    def _bounds(self, written: Schema, read: Schema, kind: str) -> Iterator[SchemaDifference]:
        wide, wanted = written.get("format"), read.get("format")
        if wanted is not None and wanted != wide and wanted not in _NO_NARROWING:
            yield self._mismatch(f"is {_name(written)}; {self.reads} takes {_name(read)}")
        low, lowest = _bound(written, _LOWER.get(kind, ()), 1), _bound(read, _LOWER.get(kind, ()), 1)
        high, highest = _bound(written, _UPPER.get(kind, ()), -1), _bound(read, _UPPER.get(kind, ()), -1)
        if lowest is not None and (low is None or low < lowest):
            yield self._mismatch(f"may be less than {self.reads} takes ({_bound_name(read, _LOWER[kind])})")
        if highest is not None and (high is None or high > highest):
            yield self._mismatch(f"may be more than {self.reads} takes ({_bound_name(read, _UPPER[kind])})")
        for keyword in _EXACT:
            if keyword in read and written.get(keyword) != read[keyword]:
                yield self._mismatch(f"{self.reads} asks for {keyword} {read[keyword]}")

    def _object(self, written: Schema, read: Schema) -> Iterator[SchemaDifference]:
        has, wants = written.get("properties", {}), read.get("properties", {})
        required = frozenset(read.get("required", ()))
        for name in sorted({*has, *wants}):
            if name not in wants:
                if wants or "additionalProperties" not in read:
                    yield _at(name, self._fine(f"{self.reads} does not read it"))
            elif name not in has:
                yield _at(name, self._absent(name, has.keys() - wants.keys(), name in required, written))
            else:
                yield from (_at(name, one) for one in self._compare(has[name], wants[name]))
                if name in required and name not in written.get("required", ()):
                    text = f"{self.reads} requires it; {self.writes} has a default, which it always writes"
                    yield _at(name, self._fine(text))
        values, wanted = written.get("additionalProperties"), read.get("additionalProperties")
        if isinstance(wanted, Mapping) and not wants and not has:
            told = self._compare(values if isinstance(values, Mapping) else _ANYTHING, wanted)
            yield from (_at("*", one) for one in told)

    def _absent(self, name: str, unread: set[str], required: bool, written: Schema) -> SchemaDifference:
        if not required:
            return self._fine(f"added in {self.reads}, and optional there")
        near = difflib.get_close_matches(name, sorted(unread), n=1)
        other = f"; {self.writes} has {near[0]!r}" if near else ""
        return SchemaDifference(
            field="",
            text=f"{self.reads} requires it, and {self.writes} lacks it{other}",
            compatible=False,
            fix=f"write {near[0]!r} in {self.reads}, if that is meant"
            if near
            else f"give {name!r} a default in {self.reads}, or add it to {self.writes}",
        )

    def _array(self, written: Schema, read: Schema) -> Iterator[SchemaDifference]:
        places, wanted = written.get("prefixItems", []), read.get("prefixItems", [])
        for number in range(max(len(places), len(wanted))):
            one = places[number] if number < len(places) else written.get("items", _ANYTHING)
            other = wanted[number] if number < len(wanted) else read.get("items", _ANYTHING)
            yield from (_at(f"[{number}]", told) for told in self._compare(_known(one), _known(other)))
        if not wanted:
            told = self._compare(_known(written.get("items")), _known(read.get("items")))
            yield from (_at("[]", one) for one in told) if not places else ()

    def _fine(self, text: str) -> SchemaDifference:
        return SchemaDifference(field="", text=text, compatible=True)

    def _mismatch(self, text: str) -> SchemaDifference:
        fix = f"let both say the same, or give {self.reads} another version of the type, with an @upcast"
        return SchemaDifference(field="", text=text, compatible=False, fix=fix)


def _all_compatible(found: Sequence[SchemaDifference]) -> bool:
    return all(one.compatible for one in found)


def _at(name: str, difference: SchemaDifference) -> SchemaDifference:
    below = difference.field
    joint = "" if not below or below.startswith("[") else "."
    return difference.model_copy(update={"field": f"{name}{joint}{below}"})


def _known(schema: Any) -> Any:
    """What a keyword that is absent, or only true, stands for."""
    return schema if isinstance(schema, Mapping) else _ANYTHING


# --- reading schemas --------------------------------------------------------------------------------------


def _resolved(schema: Any, root: Schema, depth: int = 0) -> Schema:
    """`schema` without references and `allOf` at its top; what cannot be understood stands for anything."""
    seen: set[str] = set()
    while isinstance(schema, Mapping) and depth < _DEEPEST:
        if isinstance(reference := schema.get("$ref"), str):
            if reference in seen:
                return _ANYTHING
            seen.add(reference)
            schema = _target(reference, root)
        elif isinstance(parts := schema.get("allOf"), list) and parts:
            rest = {key: value for key, value in schema.items() if key != "allOf"}
            schema = _merged([*(_resolved(part, root, depth + 1) for part in parts), rest])
        else:
            return schema
    return _ANYTHING


def _target(reference: str, root: Schema) -> Any:
    found: Any = root
    for word in reference.removeprefix("#").strip("/").split("/"):
        if word:
            found = (
                found.get(word.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
            )
    return found


def _merged(parts: Sequence[Schema]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for part in parts:
        properties = {**whole.get("properties", {}), **part.get("properties", {})}
        required = [*whole.get("required", ()), *part.get("required", ())]
        whole = {**whole, **part}
        whole |= ({"properties": properties} if properties else {}) | (
            {"required": required} if required else {}
        )
    return whole


def _alternatives(schema: Schema, root: Schema, depth: int = 0) -> list[Schema]:
    """What a value may be: one schema for each kind."""
    given = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(given, list) and depth < _DEEPEST:
        found = [one for part in given for one in _alternatives(_resolved(part, root), root, depth + 1)]
        return _with_decimals(found)
    if isinstance(kinds := schema.get("type"), list):
        return [{**schema, "type": kind} for kind in kinds]
    return [schema]


def _with_decimals(found: list[Schema]) -> list[Schema]:
    """A Decimal is a number or text to pydantic, and is written as text that numbers are read from."""
    numbers = [one for one in found if _type(one) == "number"]
    texts = [one for one in found if _type(one) == "string" and "format" not in one and "enum" not in one]
    if not numbers or not texts:
        return found
    decimal = {**numbers[0], "type": "decimal"}
    return [decimal, *(one for one in found if one is not numbers[0] and one is not texts[0])]


def _type(schema: Schema) -> str | None:
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else None


def _values(schema: Schema) -> list[str] | None:
    """The values of an enumeration, as JSON: there `1` and `true` differ."""
    if "const" in schema:
        return [json.dumps(schema["const"])]
    values = schema.get("enum")
    return [json.dumps(value) for value in values] if isinstance(values, list) else None


def _name(schema: Schema) -> str:
    """A schema in a few words."""
    if values := _values(schema):
        return f"one of {', '.join(values)}"
    kind, form = _type(schema) or "anything", schema.get("format")
    return f"{kind} ({form})" if form else kind


def _bound(schema: Schema, keywords: Sequence[str], sign: int) -> tuple[float, int] | None:
    """The strictest of inclusive (the first keyword) and exclusive bounds, comparable."""
    found = [
        (schema[keyword], sign * number)
        for number, keyword in enumerate(keywords)
        if isinstance(schema.get(keyword), int | float)
    ]
    return (max(found) if sign > 0 else min(found)) if found else None


def _bound_name(schema: Schema, keywords: Sequence[str]) -> str:
    return ", ".join(f"{keyword} {schema[keyword]}" for keyword in keywords if keyword in schema)
