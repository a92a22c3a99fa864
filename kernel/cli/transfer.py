"""`plugbus dlq export` and `import`: dead letters as JSON lines, from one installation to another."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from .arguments import read_text
from .client import Client
from .errors import CommandError, ExitCode
from .output import AsJson, json_line, note, say, say_item, say_json_line

_PAGE = 200
"""Dead letters that are asked for at a time; each may be large."""
_BATCH = 1_000
"""Dead letters that are handed in at a time."""
_BATCH_BYTES = 8 << 20
"""JSON that is handed in at a time; the kernel takes twice as much."""
_SHOWN = 5
_IMPORT_TIMEOUT = 130.0


def export_letters(
    client: Client,
    filters: dict[str, Any],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write there, not to stdout.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write dead letters as JSON lines, one each, the newest first."""
    pages = _pages(client, filters)
    if output is None:
        count = 0
        for letter in pages:
            say_json_line(letter)
            count += 1
        note(f"exported: {count}")
        return
    count = _write(output, pages)
    if as_json:
        say_item("dlq.export", {"count": count, "file": str(output)})
    else:
        say(f"exported: {count} to {output}")


def _pages(client: Client, filters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    after: str | None = None
    while True:
        page = client.get("/admin/dead-letters", **filters, limit=_PAGE, after=after)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1]["id"]


def _write(output: Path, letters: Iterator[dict[str, Any]]) -> int:
    count = 0
    with _written(output) as file:
        for letter in letters:
            file.write(f"{json_line(letter)}\n")
            count += 1
    return count


@contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    """A file that is there under its name only once it is whole."""
    draft = path.with_name(f"{path.name}.part")
    try:
        with draft.open("w", encoding="utf-8") as file:
            yield file
        draft.replace(path)
    except OSError as error:
        raise CommandError(
            "file",
            f"cannot be written: {error.strerror or error}",
            where=str(path),
            fix="name a file in a folder that is yours",
        ) from None
    finally:
        draft.unlink(missing_ok=True)


def import_letters(
    client: Client,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `dlq export` wrote; - for stdin.")],
    as_json: AsJson = False,
) -> None:
    """Add dead letters that were exported, to groups that exist here."""
    found = _read(file)
    _check_groups(client, {letter["group"] for letter in found}, file)
    new = 0
    for batch in _batches(found[::-1]):  # it was written newest first, and is listed by when it was added
        answer = client.post("/admin/dead-letters/import", {"letters": batch}, wait=_IMPORT_TIMEOUT)
        new += answer["count"]
    if as_json:
        say_item("dlq.import", {"count": new, "given": len(found)})
    else:
        known = f"; {len(found) - new} were here already" if new < len(found) else ""
        say(f"imported: {new}{known}")


def _read(file: Path) -> list[dict[str, Any]]:
    """The dead letters of `file`; an error that names the bad lines by number, if there are any."""
    letters: list[dict[str, Any]] = []
    problems: list[str] = []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            try:
                letters.append(_letter(line))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
    if problems:
        more = [*problems[:_SHOWN], *([f"and {len(problems) - _SHOWN} more"] if problems[_SHOWN:] else [])]
        raise CommandError(
            "data",
            f"{_lines(len(problems))}; nothing was imported",
            where=str(file),
            fix="give a file as `plugbus dlq export` writes it",
            more=more,
        )
    return letters


def _lines(count: int) -> str:
    return "1 line is no dead letter" if count == 1 else f"{count} lines are no dead letters"


def _letter(line: str) -> dict[str, Any]:
    """One line as the admin API takes it. Raises `ValueError` in one sentence."""
    from pydantic import ValidationError

    from contracts.bus import DeadLetter

    try:
        letter: dict[str, Any] = DeadLetter.model_validate_json(line).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
    return letter


def _check_groups(client: Client, wanted: set[str], file: Path) -> None:
    """All batches or none: a group that is missing is found before the first is handed in."""
    missing = sorted(wanted - {group["group"] for group in client.get("/admin/groups")}) if wanted else []
    if missing:
        raise CommandError(
            "group-not-found",
            f"not here: {', '.join(missing[:_SHOWN])}; nothing was imported",
            where=str(file),
            fix="install the plugins that they belong to; plugbus group list",
            exit_code=ExitCode.NOT_FOUND,
        )


def _batches(letters: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for letter in letters:
        weight = len(json_line(letter))
        if batch and (len(batch) == _BATCH or size + weight > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(letter)
        size += weight
    if batch:
        yield batch
