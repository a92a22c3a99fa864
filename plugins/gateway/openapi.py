"""One OpenAPI document out of many: ours, and one for each mount. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from contracts.web import WebMount

Document = Mapping[str, Any]
_COMPONENTS = "#/components/"
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})


def merge(own: Document, mounts: Iterable[WebMount]) -> dict[str, Any]:
    """`own` with the paths of all mounts below `/plugins/{id}`.

    Components, operation ids and security schemes of a plugin get its id in front, so that those of
    two plugins never meet.
    """
    paths = dict(own.get("paths", {}))
    components = {kind: dict(named) for kind, named in own.get("components", {}).items()}
    for mount in sorted(mounts, key=lambda mount: mount.plugin_id):
        if mount.openapi is None:
            continue
        for path, item in mount.openapi.get("paths", {}).items():
            paths[f"/plugins/{mount.plugin_id}{path}"] = _path_item(item, mount)
        for kind, named in mount.openapi.get("components", {}).items():
            target = components.setdefault(kind, {})
            target.update({_own(mount, name): _renamed(value, mount) for name, value in named.items()})
    return {**own, "paths": paths, "components": components}


def _own(mount: WebMount, name: str) -> str:
    return f"{mount.plugin_id}.{name}"


def _path_item(item: Document, mount: WebMount) -> dict[str, Any]:
    renamed: dict[str, Any] = _renamed(item, mount)
    return {
        key: _operation(value, mount) if key in _METHODS and isinstance(value, dict) else value
        for key, value in renamed.items()
    }


def _operation(operation: dict[str, Any], mount: WebMount) -> dict[str, Any]:
    tag = f"plugin:{mount.plugin_id}"
    changed = {**operation, "tags": list(dict.fromkeys([tag, *operation.get("tags", [])]))}
    if "operationId" in operation:
        changed["operationId"] = f"{mount.plugin_id}_{operation['operationId']}"
    if "security" in operation:
        changed["security"] = [
            {_own(mount, scheme): scopes for scheme, scopes in requirement.items()}
            for requirement in operation["security"]
        ]
    return changed


def _renamed(value: Any, mount: WebMount) -> Any:
    """A copy of `value` in which every reference to a component names the plugin's own."""
    if isinstance(value, Mapping):
        return {key: _renamed(inner, mount) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(inner, mount) for inner in value]
    if isinstance(value, str) and value.startswith(_COMPONENTS):
        kind, _, name = value.removeprefix(_COMPONENTS).partition("/")
        return f"{_COMPONENTS}{kind}/{_own(mount, name)}"
    return value
