"""Data on the command line: `key=value …`, `--data JSON`, or `--file FILE`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import CommandError, usage

Pairs = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Fields of the data.")]
Data = Annotated[str | None, typer.Option("--data", metavar="JSON", help="The data as a JSON object.")]
File = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="Read the data from a JSON file; - for stdin.")
]


def read_data(pairs: list[str] | None, data: str | None, file: Path | None = None) -> dict[str, Any]:
    """The one object that was given; an empty one if nothing was."""
    if sum(bool(given) for given in (pairs, data, file)) > 1:
        raise usage("the data are given twice", "use one of key=value, --data and --file")
    if pairs:
        return dict(map(_pair, pairs))
    if file is not None:
        return _object(read_text(file), "stdin" if str(file) == "-" else str(file))
    return _object(data, "--data") if data is not None else {}


def _pair(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise usage(
            f"{text!r} is not key=value", "write each field as key=value, or all as --data '{\"key\": …}'"
        )
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def read_text(file: Path) -> str:
    """All of a UTF-8 file; `-` is stdin."""
    try:
        if str(file) == "-":
            return typer.get_text_stream("stdin").read()
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise CommandError(
            "file", f"cannot be read: {why}", where=str(file), fix="name a UTF-8 file"
        ) from None


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError("data", f"not JSON: {error}", where=where, fix="give a JSON object") from None
    if not isinstance(found, dict):
        raise CommandError(
            "data", f"not an object but {type(found).__name__}", where=where, fix="give a JSON object"
        )
    return found
