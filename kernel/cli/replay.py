"""`plugbus event replay`: events that are still retained, once more for one group."""

from typing import Annotated

import typer

from .client import Client
from .durations import moment_of
from .errors import usage
from .output import AsJson, clean, say, say_item


def replay(
    client: Client,
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Who handles them again.")],
    start: Annotated[
        str | None, typer.Option("--from", metavar="WHEN", help="oldest, a time, 2h (ago), or a position.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="WHEN", help="The same; events before it. Else: until now.")
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="End the replay that is under way.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deliver retained events to one group once more, beside live traffic."""
    if cancel:
        if start or end:
            raise usage("--cancel ends a replay, --from and --to begin one", "leave out one of them")
        result = client.post("/admin/events/replay/cancel", {"group": group})
    else:
        bounds = {"start": moment_of(start or "oldest")} | ({"end": moment_of(end)} if end else {})
        result = client.post("/admin/events/replay", {"group": group, **bounds})
    if as_json:
        say_item("event.replay", result)
    elif cancel:
        say(clean(f"ended the replay of {group}: {result['events']} events were left"))
    else:
        say(clean(f"replaying {result['events']} events to {group} (plugbus group show {group})"))
