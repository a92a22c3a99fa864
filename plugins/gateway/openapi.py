"""One OpenAPI document out of many: ours, and one for each mount. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.web import WebMount

Document = Mapping[str, Any]
_COMPONENTS = "#/components/"
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_EDGE = "Plugbus"
"""Before the edge's own names in somebody else's document; no plugin is called so."""


@dataclass(frozen=True)
class _Part:
    """A document that goes into another one: below `at`, with `name` before its own names."""

    document: Document
    name: str
    at: str
    tags: tuple[str, ...] = ()

    def named(self, name: str) -> str:
        return f"{self.name}.{name}"


def merge(own: Document, mounts: Iterable[WebMount], *, prefix: str = "") -> dict[str, Any]:
    """`own` with the paths of all mounts below `{prefix}/plugins/{id}`.

    Components, operation ids and security schemes of a plugin get its id in front, so that those of
    two plugins never meet.
    """
    return _merged(own, _parts(mounts, prefix))


def merge_into(
    document: Document,
    edge: Document,
    mounts: Iterable[WebMount],
    *,
    prefix: str,
    addresses: Sequence[str],
) -> dict[str, Any]:
    """The document of an application that embeds the kernel, with those of `addresses` and of all mounts."""
    paths = {path: item for path, item in edge.get("paths", {}).items() if is_below(path, addresses)}
    served = [_Part({**edge, "paths": paths}, _EDGE, prefix)] if paths else []
    return _merged(document, [*served, *_parts(mounts, prefix)])


def is_below(path: str, addresses: Iterable[str]) -> bool:
    return any(path == address or path.startswith(f"{address}/") for address in addresses)


def _parts(mounts: Iterable[WebMount], prefix: str) -> list[_Part]:
    return [
        _Part(
            mount.openapi,
            mount.plugin_id,
            f"{prefix}/plugins/{mount.plugin_id}",
            (f"plugin:{mount.plugin_id}",),
        )
        for mount in sorted(mounts, key=lambda mount: mount.plugin_id)
        if mount.openapi is not None
    ]


def _merged(own: Document, parts: Iterable[_Part]) -> dict[str, Any]:
    paths = dict(own.get("paths", {}))
    components = {kind: dict(named) for kind, named in own.get("components", {}).items()}
    for part in parts:
        for path, item in part.document.get("paths", {}).items():
            paths[f"{part.at}{path}"] = _path_item(item, part)
        for kind, named in part.document.get("components", {}).items():
            target = components.setdefault(kind, {})
            target.update({part.named(name): _renamed(value, part) for name, value in named.items()})
    return {**own, "paths": paths, "components": components}


def _path_item(item: Document, part: _Part) -> dict[str, Any]:
    renamed: dict[str, Any] = _renamed(item, part)
    return {
        key: _operation(value, part) if key in _METHODS and isinstance(value, dict) else value
        for key, value in renamed.items()
    }


def _operation(operation: dict[str, Any], part: _Part) -> dict[str, Any]:
    changed = {**operation, "tags": list(dict.fromkeys([*part.tags, *operation.get("tags", [])]))}
    if "operationId" in operation:
        changed["operationId"] = f"{part.name}_{operation['operationId']}"
    if "security" in operation:
        changed["security"] = [
            {part.named(scheme): scopes for scheme, scopes in requirement.items()}
            for requirement in operation["security"]
        ]
    return changed


def _renamed(value: Any, part: _Part) -> Any:
    """A copy of `value` in which every reference to a component names the plugin's own."""
    if isinstance(value, Mapping):
        return {key: _renamed(inner, part) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(inner, part) for inner in value]
    if isinstance(value, str) and value.startswith(_COMPONENTS):
        kind, _, name = value.removeprefix(_COMPONENTS).partition("/")
        return f"{_COMPONENTS}{kind}/{part.named(name)}"
    return value
