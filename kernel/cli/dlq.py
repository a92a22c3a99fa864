"""`plugbus dlq …`: dead letters, the deliveries that were given up."""

import sys
from typing import Annotated, Any

import typer

from .client import Client, with_client, word
from .errors import CommandError, ExitCode, usage
from .output import AsJson, clean, local, say, say_fields, say_item, say_items, say_table, short

app = typer.Typer(help="Dead letters: list, show, redrive, discard.")

Group = Annotated[str | None, typer.Option("--group", help="Only those of this group.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Dead letters, by id.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters of all groups.")]

_TRACEBACK_LINES = 12


@app.command("list")
@with_client
def list_letters(
    client: Client,
    group: Group = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest first.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first."""
    items = client.get("/admin/dead-letters", group=group, limit=limit)
    if as_json:
        say_items("dlq.list", items)
    elif not items:
        say("no dead letters")
    else:
        say_table(("ID", "GROUP", "TYPE", "KEY", "ATTEMPTS", "REASON", "ERROR", "AT"), map(_row, items))


def _row(letter: dict[str, Any]) -> tuple[Any, ...]:
    envelope, error = letter["envelope"], letter.get("error")
    return (
        letter["id"],
        letter["group"],
        envelope["type"],
        envelope.get("partitionkey"),
        letter["attempts"],
        letter["reason"],
        short(_error(error), 60),
        local(letter["last_at"]),
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
            "data": short(letter["data"], 2_000),
        }
    )
    for line in error.get("traceback", "").splitlines()[-_TRACEBACK_LINES:]:
        say(f"  {clean(line)}")
    say(f"redrive it: plugbus dlq redrive {letter['id']}")


@app.command("redrive")
@with_client
def redrive(
    client: Client, ids: Ids = None, group: Group = None, all: All = False, as_json: AsJson = False
) -> None:
    """Put dead letters back to the group that failed, and to it alone."""
    _settle(client, "redrive", ids, _selection(ids, group, all), as_json)


@app.command("discard")
@with_client
def discard(
    client: Client,
    ids: Ids = None,
    group: Group = None,
    all: All = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give dead letters up for good."""
    selection = _selection(ids, group, all)
    if not yes:
        _confirm(ids, group)
    _settle(client, "discard", ids, selection, as_json)


def _selection(ids: list[str] | None, group: str | None, all: bool) -> dict[str, Any]:
    if sum(map(bool, (ids, group, all))) != 1:
        raise usage("which dead letters?", "give their ids, or --group GROUP, or --all")
    if ids:
        return {"ids": ids}
    return {"group": group} if group else {}


def _confirm(ids: list[str] | None, group: str | None) -> None:
    if not sys.stdin.isatty():
        raise usage("discarding cannot be undone, and nobody is here to ask", "add --yes")
    which = f"{len(ids)} dead letters" if ids else f"all dead letters{f' of {group}' if group else ''}"
    if not typer.confirm(f"discard {which} for good?"):
        raise CommandError("declined", "nothing was discarded")


def _settle(
    client: Client, verb: str, ids: list[str] | None, selection: dict[str, Any], as_json: bool
) -> None:
    count = client.post(f"/admin/dead-letters/{verb}", selection)["count"]
    wanted = len(set(ids)) if ids else count
    if count == 0 and wanted:
        raise CommandError(
            "dead-letter-not-found",
            "no dead letter has that id" if wanted == 1 else "no dead letter has one of those ids",
            fix="see `plugbus dlq list`: it may have been settled already",
            exit_code=ExitCode.NOT_FOUND,
        )
    if as_json:
        say_item(f"dlq.{verb}", {"count": count, "requested": wanted if ids else None})
    else:
        say(f"{verb}: {count}{f' of {wanted}; the others are not there' if count < wanted else ''}")
    if count < wanted:
        raise typer.Exit(ExitCode.PARTIAL)
