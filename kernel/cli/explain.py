"""`plugbus plugin explain`: why a plugin is loaded or not, and what hangs on it, on one screen."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from .client import Client, word
from .output import AsJson, clean, say, say_item, short

Item = Mapping[str, Any]

_MARKS = {"started": "✔", "error": "✖"}
_MOST = 6
"""Lines of one kind; a screen has few."""
_NAMES = 60
"""Characters of a list of names; `--json` has all of them."""
_WIDTH = 160
_LABEL = 11
_FROM_MANIFEST = "nothing of it is loaded; what follows is what its manifest says"
_TIES = {"dependency": "needs it", "optional": "optional", "order": "order only"}


def explain(
    client: Client,
    plugin_id: Annotated[str, typer.Argument(metavar="PLUGIN", help="The plugin's id.")],
    as_json: AsJson = False,
) -> None:
    """Tell why a plugin is loaded or not, why it starts when it does, and what breaks without it."""
    item = client.get(f"/admin/plugins/{word(plugin_id)}/explain")
    if as_json:
        say_item("plugin.explain", item)
        return
    for line in explained(item):
        say(short(clean(line), _WIDTH))


def explained(item: Item) -> Iterator[str]:
    """The lines for people."""
    yield from _status(item)
    yield from _block("found", [_place(item), *(f"passed over: {path}" for path in item["shadowed"])])
    yield from _block("enabled", [_enabled(item)] if item.get("enabled_by") else [])
    yield from _block("start", [_start(item["start"]), *map(_starts_after, item["start"]["after"])])
    yield from _block("needed by", [_dependent(one) for one in item["needed_by"]] or ["nobody"])
    yield from _block("known", [] if item["known_from"] == "code" else [_FROM_MANIFEST])
    yield from _block("provides", _links("capability", "→", item["provides"]))
    yield from _block("requests", _links("capability", "←", item["requests"]))
    yield from _block("publishes", _links("pattern", "→", item["publishes"]))
    handled = [(f"{one['pattern']} in {one['group'] or '?'}", one) for one in item["handles"]]
    yield from _block("handles", [_link(name, "←", one) for name, one in handled])
    yield from _block("without it", list(_losses(item)) or ["nothing that is known breaks"])


def _status(item: Item) -> Iterator[str]:
    busy = f", {item['activity']}" if item["activity"] not in ("", "none") else ""
    mark = _MARKS.get(item["status"], "·")
    first, *more = str((item.get("reason") or {}).get("text", "")).splitlines() or [""]
    code = f" ({item['reason']['code']})" if item.get("reason") else ""
    why = f"{code}: {first}" if first else code
    yield f"{mark} {item['plugin_id']} {item['version']}  {item['status']}{busy}{why}"
    reason = item.get("reason") or {}
    yield from (f"    {line.strip()}" for line in more[:_MOST])
    if reason.get("place"):
        yield f"    at:  {reason['place']}"
    if reason.get("next_step"):
        yield f"    fix: {reason['next_step']}"


def _block(label: str, lines: Sequence[str]) -> Iterator[str]:
    """`label: line`, the others below; of many the first."""
    shown = [*lines[:_MOST], *([f"… and {len(lines) - _MOST} more (--json)"] if len(lines) > _MOST else [])]
    for number, line in enumerate(shown):
        yield f"{f'{label}:' if number == 0 else '':<{_LABEL}} {line}"


def _place(item: Item) -> str:
    return ", ".join(filter(None, (item["source"], item["path"]))) or "given by the application"


def _enabled(item: Item) -> str:
    answer = "yes" if item["enabled"] else "no"
    return f"{answer}: {item['enabled_by']}"


def _start(start: Item) -> str:
    if start["wave"] is None:
        return str(start["why"])
    beside = f", beside {_names(start['beside'])}" if start["beside"] else ""
    return f"wave {start['wave']} of {start['waves']}{beside}: {start['why']}"


def _starts_after(one: Item) -> str:
    there = f"wave {one['wave']}" if one["wave"] else "in no wave"
    status = f"{one['status']}, {there}" if one["status"] else "not installed"
    decides = ", decides the place" if one["decides"] else ""
    return f"after {one['plugin_id']}{one['version_spec']} ({_TIES[one['tie']]}; {status}{decides})"


def _dependent(one: Item) -> str:
    through = f", by {' → '.join(one['chain'])}" if len(one["chain"]) > 2 else ""
    return f"{one['plugin_id']} ({_TIES[one['tie']]}{through}; {one['status']})"


def _links(key: str, arrow: str, links: Sequence[Item]) -> list[str]:
    """A line for each other side."""
    return [f"{_names(names)} {arrow} {_names(others) or 'nobody'}" for others, names in _by_side(key, links)]


def _by_side(key: str, links: Sequence[Item]) -> list[tuple[tuple[str, ...], list[str]]]:
    """Who is on the other side → names of what has just these there."""
    found: dict[tuple[str, ...], list[str]] = {}
    for link in links:
        found.setdefault(tuple(link["others"]), []).append(link[key])
    return list(found.items())


def _link(name: str, arrow: str, link: Item) -> str:
    return f"{name} {arrow} {_names(link['others']) or 'nobody'}"


def _losses(item: Item) -> Iterator[str]:
    """What breaks where the plugin goes."""
    lost = [one["plugin_id"] for one in item["needed_by"] if one["tie"] == "dependency"]
    if lost:
        yield f"{_names(lost)} cannot run"
    for others, names in _by_side("capability", _only(item["provides"])):
        yield f"{_names(others)}: requests of {_names(names)} are not answered"
    for others, names in _by_side("pattern", _only(item["publishes"])):
        yield f"{_names(others)}: no more {_names(names)}"


def _only(links: Sequence[Item]) -> list[Item]:
    """Those whose other side nobody else serves."""
    return [link for link in links if link["is_only"] and link["others"]]


def _names(names: Sequence[str]) -> str:
    """As many as fit beside what else a line tells, and how many more."""
    shown = list(names[:1])
    for name in names[1:]:
        if len(", ".join([*shown, name])) > _NAMES:
            break
        shown.append(name)
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more
