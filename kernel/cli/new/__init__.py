"""`plugbus new`: the beginning of a plugin, which passes its own tests, type checker and `plugbus check`."""

from pathlib import Path
from typing import Annotated

import typer

from ..output import AsJson, clean, say, say_item

app = typer.Typer(help="Begin something new: plugin.", rich_markup_mode=None)


@app.callback()
def _new() -> None:
    """Keeps `plugin` a word of its own, although there is only one."""


@app.command("plugin")
def plugin(
    name: Annotated[str, typer.Argument(help="The plugin's id: lower-case words joined by underscores.")],
    single_file: Annotated[
        bool, typer.Option("--single-file", help="One file and its test, not a package.")
    ] = False,
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where it is put.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Write a plugin with one handler and one test. Nothing that is there is overwritten."""
    from .scaffold import plan, write

    made = plan(name, single_file=single_file)
    write(made, into)
    files, steps = [str(into / file) for file in made.files], made.next_steps(into)
    if as_json:
        say_item("new.plugin", {"files": files, "next_steps": steps})
        return
    for file in files:
        say(clean(f"wrote {file}"))
    for step in steps:
        say(clean(f"next: {step}"))
