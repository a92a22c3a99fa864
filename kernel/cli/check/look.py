"""What a plugin's code says when it is imported, written down by a process of its own.

`python -m kernel.cli.check.look` reads one `Task` from stdin and prints one `Look`. Whatever the author's
code does meanwhile, it does it to this process alone: what it prints goes nowhere.
"""

from __future__ import annotations

import ast
import asyncio
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from pydantic import BaseModel

from contracts.base import ON, PROVIDES
from contracts.errors import PlugbusError
from contracts.event import Event
from contracts.metadata import PluginMetadata
from contracts.query import Query

from ...discovered import Discovered
from ...hosts import Declaration
from ...hosts.code import LoadedCode
from ...hosts.in_process import InProcess
from ...hosts.reading import hints_of, members, place
from ...loader import PluginLoader
from .finding import of_error


class Task(BaseModel):
    """What is to be looked at: a plugin that was found, as data."""

    metadata: PluginMetadata
    root: Path
    module: str
    class_name: str
    single_file: bool

    @classmethod
    def of(cls, found: Discovered) -> Task:
        return cls(
            metadata=found.metadata,
            root=found.root,
            module=found.module,
            class_name=found.class_name,
            single_file=found.single_file,
        )

    def found(self) -> Discovered:
        return Discovered(
            self.metadata, str(self.root), self.module, self.class_name, single_file=self.single_file
        )


class Use(BaseModel):
    """Something that the code uses: an event type, a capability, or a member of the context."""

    kind: str
    """`publish`, `request` or `data_dir`."""
    name: str
    where: str


class Look(BaseModel):
    """What was seen; `problems` (the fields of findings) where the plugin cannot be loaded."""

    declaration: Declaration = Declaration()
    uses: list[Use] = []
    problems: list[dict[str, str]] = []
    defect: str = ""
    """A traceback where looking itself failed, which is no fault of the plugin's."""


class _Code(LoadedCode):
    """Remembers the class that it has loaded."""

    cls: type = object

    def load(self) -> type:
        self.cls = super().load()
        return self.cls


def look(task: Task) -> Look:
    """Import the plugin, as the kernel would load it."""
    code = _Code(PluginLoader(), task.found(), 1)
    host = InProcess(code, logging.getLogger("plugbus.check"), web_adapter="")
    try:
        declaration = asyncio.run(host.load())
    except PlugbusError as error:
        return Look(problems=[vars(finding) for finding in of_error(error)])
    modules = [sys.modules[name] for name in code.modules() if name in sys.modules]
    uses = [*_returned(code.cls), *(use for module in modules for use in _called(module))]
    return Look(declaration=declaration, uses=uses)


def _returned(cls: type) -> Iterator[Use]:
    """Events that handlers and providers return."""
    for _, member in members(cls):
        if hasattr(member, ON) or hasattr(member, PROVIDES):
            result = hints_of(member).get("return")
            yield from _uses((result, *get_args(result)), place(member))


def _called(module: ModuleType) -> Iterator[Use]:
    """`publish(Model(…))`, `request(Model(…))` and `data_dir` of a context, as the source has them."""
    file = getattr(module, "__file__", None) or ""
    try:
        tree = ast.parse(Path(file).read_bytes(), file)
    except (OSError, SyntaxError, ValueError):
        return  # a module without source of its own
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "data_dir" and _is_context(node.value):
            yield Use(kind="data_dir", name="data_dir", where=f"{file}:{node.lineno}")
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and _is_context(node.func.value)
        ):
            made = (_made(argument, module) for argument in node.args[:1])
            yield from _uses(made, f"{file}:{node.lineno}")


def _is_context(node: ast.expr) -> bool:
    return (node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")) == "context"


def _made(node: ast.expr, module: ModuleType) -> Any:
    """The class of which `node` makes an instance, where it is called by its name."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return getattr(module, node.func.id, None)
    return None


def _uses(values: Iterable[Any], where: str) -> Iterator[Use]:
    for value in values:
        if isinstance(value, type) and issubclass(value, Event) and value.__event_type__:
            yield Use(kind="publish", name=value.__event_type__, where=where)
        if isinstance(value, type) and issubclass(value, Query) and value.__capability__:
            yield Use(kind="request", name=value.__capability__, where=where)


def main() -> None:
    """Answer one task, on what was stdout before the author's code could write to it."""
    task = Task.model_validate_json(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    sys.stdin = io.StringIO()
    try:
        seen = look(task)
    except Exception:  # noqa: BLE001 - whoever asked raises it
        seen = Look(defect=traceback.format_exc())
    with answers:
        answers.write(seen.model_dump_json().encode())
        answers.flush()
    os._exit(0)  # threads that the code has left running are not waited for


if __name__ == "__main__":
    main()
