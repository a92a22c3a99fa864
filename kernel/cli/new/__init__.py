"""`plugbus new`: the beginning of a plugin, which passes its own tests, type checker and `plugbus check`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import usage
from ..output import AsJson, clean, say, say_item

app = typer.Typer(help="Begin something new: plugin.", rich_markup_mode=None)


@app.callback()
def _new() -> None:
    """Keeps `plugin` a word of its own, although there is only one."""


@app.command("plugin")
def plugin(
    name: Annotated[
        str | None,
        typer.Argument(help="The plugin's id: lower-case words joined by underscores.", show_default=False),
    ] = None,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="One file and its test, not a package.")
    ] = False,
    grown_from: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", help="A package of the plugin in this file, which stays as it is."
        ),
    ] = None,
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where it is put.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Write a plugin with one handler and one test, or a package of one that is a single file.

    Nothing that is there is overwritten.
    """
    from .grow import grow
    from .scaffold import plan, write

    if (name is None) is (grown_from is None) or (grown_from and single_file):
        raise usage("either a NAME or --from FILE", "plugbus new plugin billing")
    made = grow(grown_from) if grown_from else plan(name or "", single_file=single_file)
    write(made, into)
    files, steps = [str(into / file) for file in made.files], made.next_steps(into)
    if as_json:
        say_item("new.plugin", {"files": files, "next_steps": steps})
        return
    for file in files:
        say(clean(f"wrote {file}"))
    for step in steps:
        say(clean(f"next: {step}"))
