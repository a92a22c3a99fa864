"""`plugbus dlq …`: dead letters, the deliveries that were given up."""

import sys
from typing import Annotated, Any

import typer

from .client import Client, with_client, word
from .errors import CommandError, ExitCode, usage
from .output import AsJson, clean, local, say, say_fields, say_item, say_items, say_table, short
from .selection import choose, with_filters
from .transfer import export_letters, import_letters

app = typer.Typer(help="Dead letters: list, show, redrive, discard, export, import.")

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Dead letters, by id.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters of all groups.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")]

_COMMAND_TIMEOUT = 130.0
"""Seconds; the kernel answers sooner."""
_TRACEBACK_LINES = 12
_COLUMNS = ("ID", "GROUP", "TYPE", "KEY", "TRIES", "REASON", "AT", "ERROR")


@app.command("list")
@with_client
@with_filters
def list_letters(
    client: Client,
    filters: dict[str, Any],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest first.")] = 100,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on behind this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first."""
    items = client.get("/admin/dead-letters", **filters, limit=limit, after=after)
    if as_json:
        say_items("dlq.list", items)
    elif not items:
        say("no dead letters")
    else:
        say_table(_COLUMNS, map(_row, items), cut=-1)


def _row(letter: dict[str, Any]) -> tuple[Any, ...]:
    envelope, error = letter["envelope"], letter.get("error")
    return (
        letter["id"],
        letter["group"],
        envelope["type"],
        envelope.get("partitionkey"),
        letter["attempts"],
        letter["reason"],
        local(letter["last_at"])[5:19],
        _error(error),
    )


def _error(error: dict[str, Any] | None) -> str:
    return f"{error['type'].rpartition('.')[2]}: {error.get('message', '')}" if error else ""


@app.command("show")
@with_client
def show_letter(
    client: Client,
    id: Annotated[str, typer.Argument(metavar="ID", help="The dead letter's id.")],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: the event, and everything that is known of its end."""
    letter = client.get(f"/admin/dead-letters/{word(id)}")
    if as_json:
        say_item("dlq.show", letter)
        return
    error, envelope = letter.get("error") or {}, letter["envelope"]
    say_fields(
        {
            "dead letter": letter["id"],
            "group": letter["group"],
            "plugin": f"{letter['plugin_id']} (generation {letter['generation']})",
            "reason": letter["reason"],
            "error": _error(letter.get("error")),
            "at": error.get("place"),
            "fix": error.get("fix"),
            "attempts": letter["attempts"],
            "published": local(letter["first_at"]),
            "given up": local(letter["last_at"]),
            "event": f"{envelope['type']} v{letter.get('version', 1)} id={envelope['id']}",
            "source": envelope["source"],
            "key": envelope.get("partitionkey"),
            "data": short(letter.get("data_base64") or letter["data"], 2_000),
        }
    )
    for line in error.get("traceback", "").splitlines()[-_TRACEBACK_LINES:]:
        say(f"  {clean(line)}")
    say(f"redrive it: plugbus dlq redrive {letter['id']}")


@app.command("redrive")
@with_client
@with_filters
def redrive(
    client: Client,
    filters: dict[str, Any],
    ids: Ids = None,
    all: All = False,
    dry_run: DryRun = False,
    rate: Annotated[float | None, typer.Option(min=0.001, help="At most so many a second.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put dead letters back to the group that failed, and to it alone."""
    selection = choose(ids, filters, all)
    options = {} if rate is None else {"rate": rate}
    count = _settle(client, "redrive", selection, dry_run, options)
    _tell("redrive", ids, count, dry_run, as_json)


@app.command("discard")
@with_client
@with_filters
def discard(
    client: Client,
    filters: dict[str, Any],
    ids: Ids = None,
    all: All = False,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give dead letters up for good."""
    selection = choose(ids, filters, all)
    if not (yes or dry_run):
        _confirm(client, selection)
    _tell("discard", ids, _settle(client, "discard", selection, dry_run, {}), dry_run, as_json)


def _confirm(client: Client, selection: dict[str, Any]) -> None:
    if not sys.stdin.isatty():
        raise usage("discarding cannot be undone, and nobody is here to ask", "add --yes")
    count = _settle(client, "discard", selection, True, {})
    if not typer.confirm(f"discard {letters(count)} for good?"):
        raise CommandError("declined", "nothing was discarded")


def letters(count: int) -> str:
    """`1 dead letter`, `2 dead letters`."""
    return f"{count} dead letter{'' if count == 1 else 's'}"


def _settle(
    client: Client, verb: str, selection: dict[str, Any], dry_run: bool, options: dict[str, Any]
) -> int:
    parameters = options | ({"dry_run": True} if dry_run else {})
    answer = client.post(f"/admin/dead-letters/{verb}", selection, wait=_COMMAND_TIMEOUT, **parameters)
    return int(answer["count"])


def _tell(verb: str, ids: list[str] | None, count: int, dry_run: bool, as_json: bool) -> None:
    wanted = len(set(ids)) if ids else count
    if count == 0 and wanted:
        raise CommandError(
            "dead-letter-not-found",
            "no dead letter has that id" if wanted == 1 else "no dead letter has one of those ids",
            fix="see `plugbus dlq list`: it may have been settled already",
            exit_code=ExitCode.NOT_FOUND,
        )
    if as_json:
        item = {"count": count, "requested": wanted if ids else None, "dry_run": dry_run}
        say_item(f"dlq.{verb}", item)
    else:
        missing = f" of {wanted}; the others are not there" if count < wanted else ""
        said = f"would {verb} {letters(count)}" if dry_run else f"{verb}: {count}"
        say(f"{said}{missing}{'; nothing was done' if dry_run else ''}")
    if count < wanted:
        raise typer.Exit(ExitCode.PARTIAL)


app.command("export")(with_client(with_filters(export_letters)))
app.command("import")(with_client(import_letters))
