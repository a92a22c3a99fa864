"""What commands print: tables and lines for people, JSON for programs.

Text that came from outside is shown with its control characters spelled out, so that an event cannot
drive the terminal. Without a terminal, tables are plain text.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from shutil import get_terminal_size
from typing import Annotated, Any

import typer

from .errors import ReaderGone

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

_PIPED_WIDTH = 240
_TABLE_WIDTH = 100
_NARROWEST = 20
"""Characters that a column keeps that is cut, however long the others are."""


def say(text: str = "") -> None:
    """One line of result, to stdout. Raises `ReaderGone` when nobody reads it any more."""
    try:
        typer.echo(text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered goes nowhere
        raise ReaderGone from None


def note(text: str) -> None:
    """One line beside the result, to stderr."""
    typer.echo(text, err=True)


def say_items(schema: str, items: Sequence[Any]) -> None:
    """`{"schema": "plugbus.plugin.list/1", "items": […]}`; what is in it only ever grows."""
    say(json.dumps({"schema": f"plugbus.{schema}/1", "items": items}, indent=2))


def say_item(schema: str, item: Any) -> None:
    """`{"schema": "plugbus.plugin.show/1", "item": …}`; what is in it only ever grows."""
    say(json.dumps({"schema": f"plugbus.{schema}/1", "item": item}, indent=2))


def say_json_line(value: Any) -> None:
    """One line of NDJSON."""
    say(json_line(value))


def json_line(value: Any) -> str:
    """JSON on one line. As all JSON here it is pure ASCII: no terminal and no encoding can spoil it."""
    return json.dumps(value, separators=(",", ":"))


def pretty(value: Any) -> str:
    """JSON for people."""
    return "\n".join(clean(line) for line in json.dumps(value, indent=2, ensure_ascii=False).splitlines())


def clean(text: object) -> str:
    """`text` on one line, its control characters spelled out."""
    plain = str(text)
    return plain if plain.isprintable() else "".join(map(_visible, plain))


def _visible(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def short(text: str, width: int) -> str:
    """`text`, cut to `width` characters with a sign that it was cut."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def line_width() -> int:
    """How long a line for people may be."""
    return get_terminal_size().columns if sys.stdout.isatty() else _PIPED_WIDTH


def short_name(name: str, width: int) -> str:
    """`name`, cut in its middle: of names that lie side by side, both ends tell them apart."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: max(0, width - 1 - tail)]}…{name[len(name) - tail :]}"


def say_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    cut: int | None = None,
    how: Callable[[str, int], str] = short,
) -> None:
    """One line a row. The column with the index `cut` is shortened to what the others leave of the line."""
    cells = [[clean("" if cell is None else cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _say_rich_table(columns, cells)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    if cut is not None:
        left = max(_NARROWEST, _TABLE_WIDTH - (sum(widths) - widths[cut]) - 2 * (len(widths) - 1))
        for row in cells:
            row[cut] = how(row[cut], left)
        widths[cut] = min(widths[cut], left)
    for line in (columns, *cells):
        say("  ".join(map(str.ljust, line, widths)).rstrip())


def _say_rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def say_fields(fields: Mapping[str, object]) -> None:
    """`name: value` lines; what is empty is left out."""
    width = max(map(len, fields)) + 1
    for name, value in fields.items():
        if value not in (None, "", (), []):
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            say(f"{name + ':':<{width}} {clean(text)}")


def say_event(attributes: Mapping[str, Any], data: str) -> None:
    """One event on one line: time, type, key, id, the beginning of its data."""
    key = f" key={attributes['partitionkey']}" if "partitionkey" in attributes else ""
    head = clean(f"{clock(attributes.get('time'))} {attributes['type']}{key} id={attributes['id']}  ")
    say(short(head + clean(data), line_width()))


def clock(moment: object) -> str:
    """The time of day of an RFC 3339 text, as this place's wall clock shows it."""
    return local(moment)[11:] or "--:--:--.---"


def local(moment: object) -> str:
    """Day and time of an RFC 3339 text, as this place's wall clock shows it; empty for anything else."""
    if not isinstance(moment, str):
        return ""
    return datetime.fromisoformat(moment).astimezone().isoformat(" ", "milliseconds")[:23]
