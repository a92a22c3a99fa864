"""What a plugin's code declares, against what its manifest says and what it is granted."""

from __future__ import annotations

import json

from contracts.errors import HandlerDefinitionError

from .hosts import Declaration
from .registry import PluginRecord
from .security import PermissionManager


def check_against_manifest(record: PluginRecord, declaration: Declaration) -> None:
    """The manifest's table of handlers, where there is one, names the groups before anything is loaded.

    Raises `HandlerDefinitionError` where the code says something else.
    """
    metadata = record.metadata
    if metadata.activation == "lazy":
        _check_lazy(record, declaration)
    table = metadata.subscribes
    if not isinstance(table, dict):
        return
    declared = {handler.name: set(handler.patterns) for handler in declaration.handlers}
    for name, patterns in table.items():
        if declared.get(name) != set(patterns):
            found = sorted(declared[name]) if name in declared else "no such handler"
            raise HandlerDefinitionError(
                f"the manifest says that handler {name!r} takes {sorted(patterns)}; the code says {found}",
                where=metadata.file_path,
                fix="make [subscribes] and @on say the same",
            )
    if unsaid := sorted(declared.keys() - table.keys()):
        name = unsaid[0]
        raise HandlerDefinitionError(
            f"the code has the handler {name!r}, which the manifest's table of handlers does not name",
            where=metadata.file_path,
            fix=f"subscribes = {{ {name} = {json.dumps(sorted(declared[name]))} }} beside the others",
        )


def check_grants(permissions: PermissionManager, declaration: Declaration) -> None:
    """What the code declares and manifest or operator do not grant is known before anything runs.

    Raises `PermissionDeniedError`.
    """
    for provider in declaration.providers:
        permissions.check_provide(provider.capability)
    for pattern in declaration.patterns:
        permissions.check_subscribe(pattern)


def _check_lazy(record: PluginRecord, declaration: Declaration) -> None:
    if declaration.sees_requests:
        raise HandlerDefinitionError(
            "it has handle_request, which would see no request while it is not loaded",
            where=record.metadata.file_path,
            fix='take handle_request away, or activation = "lazy"',
        )
    for handler in declaration.handlers:
        if handler.options.broadcast:
            raise HandlerDefinitionError(
                f"handler {handler.name!r} has broadcast, which keeps nothing while it is not loaded",
                where=record.metadata.file_path,
                fix='take broadcast away, or activation = "lazy"',
            )
