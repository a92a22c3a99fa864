"""What a JSON Schema says about one key of a configuration. Pure; nothing is validated here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..settings_sources import KeyPath

Schema = Mapping[str, Any]

_DEEPEST = 32
"""References that are followed from one place: a schema may refer to itself."""


def along(schema: Schema | None, path: KeyPath) -> Iterator[list[Schema]]:
    """For each word of `path` everything that the schema says about what is there, choices included."""
    nodes = [schema or {}]
    for word in path:
        children = [
            child for node in nodes for one in _alternatives(node, schema) for child in _below(one, word)
        ]
        nodes = [one for child in children for one in _alternatives(child, schema)]
        yield nodes


def kinds_at(schema: Schema | None, path: KeyPath) -> frozenset[str]:
    """The JSON types that are allowed at `path`; empty where nothing is said of them."""
    *_, nodes = along(schema, path)
    said = [node["type"] for node in nodes if "type" in node]
    return frozenset(kind for one in said for kind in (one if isinstance(one, list) else [one]))


def _alternatives(node: Schema, root: Schema | None, depth: int = 0) -> Iterator[Schema]:
    """The node itself, what it refers to, and what it is joined or chosen from."""
    if not isinstance(node, Mapping) or depth > _DEEPEST:
        return
    yield node
    reference = node.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        yield from _alternatives(_at(root, reference), root, depth + 1)
    for keyword in ("allOf", "anyOf", "oneOf"):
        listed = node.get(keyword)
        for one in listed if isinstance(listed, list) else ():
            yield from _alternatives(one, root, depth + 1)


def _at(root: Any, reference: str) -> Schema:
    for word in reference[2:].split("/"):
        root = root.get(word.replace("~1", "/").replace("~0", "~")) if isinstance(root, Mapping) else None
    return root if isinstance(root, Mapping) else {}


def _below(node: Schema, word: str) -> Iterator[Schema]:
    """What the schema says about the key, or the index, `word`."""
    properties = node.get("properties")
    if isinstance(properties, Mapping) and word in properties:
        yield properties[word]
        return
    for keyword in ("additionalProperties", "items"):
        if isinstance(node.get(keyword), Mapping):
            yield node[keyword]
    patterns = node.get("patternProperties")
    yield from patterns.values() if isinstance(patterns, Mapping) else ()
