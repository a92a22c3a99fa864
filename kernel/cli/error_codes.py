"""`plugbus explain`: what an error means. The text is that of its class, so that there is one."""

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import CommandError, ExitCode
from .output import AsJson, say, say_item, say_items, say_table

if TYPE_CHECKING:
    from contracts.errors import PlugbusError

_PARTS = ("cause", "example", "fix")


def explain(
    code: Annotated[
        str | None, typer.Argument(help="The code of an error, or its class; without it, all are listed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what an error means, what causes it, and how to mend it."""
    known = [_read(cls) for cls in _errors()]
    if code is not None:
        _say_one(_find(code, known), as_json)
    elif as_json:
        say_items("explain", known)
    else:
        say_table(
            ("CODE", "ERROR", "MEANING"),
            [(one["code"], one["error"], one["meaning"]) for one in known],
            cut=2,
        )


def _errors() -> "Iterator[type[PlugbusError]]":
    """Every error of the contracts, in the order in which they are written there, and the kernel's own."""
    from contracts import errors

    from ..contain import Escaped

    for value in (*vars(errors).values(), Escaped):
        if isinstance(value, type) and issubclass(value, errors.PlugbusError):
            yield value


def _read(cls: "type[PlugbusError]") -> dict[str, str]:
    """The docstring of an error: its meaning, and the parts that begin with their names."""
    meaning, _, rest = inspect.cleandoc(cls.__doc__ or "").partition("\n\nCause: ")
    said = {"code": cls.code, "error": cls.__name__, "meaning": " ".join(meaning.split())}
    for name, mark in zip(_PARTS, ("\nExample: ", "\nFix: ", None), strict=True):
        text, _, rest = rest.partition(mark) if mark else (rest, "", "")
        said[name] = " ".join(text.split())
    return said


def _find(code: str, known: list[dict[str, str]]) -> dict[str, str]:
    wanted = code.strip().rstrip(":").lower()
    for one in known:
        if wanted in (one["code"], one["error"].lower()):
            return one
    from ..manifest_problems import suggestion

    meant = suggestion(wanted, [one["code"] for one in known])
    raise CommandError(
        "not-found",
        f"no error has the code '{code}'",
        fix=f"did you mean '{meant}'?" if meant else "plugbus explain lists them",
        exit_code=ExitCode.NOT_FOUND,
    )


def _say_one(one: dict[str, str], as_json: bool) -> None:
    if as_json:
        say_item("explain", one)
        return
    say(f"{one['code']} ({one['error']})")
    say(one["meaning"])
    for part in _PARTS:
        say(f"  {part + ':':<9}{one[part]}")
