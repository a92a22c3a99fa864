"""What finding and resolving 1,000 plugins costs: `python tests/benchmarks/discovery.py`.

Every case in a fresh process, all cases once a round; the files are in the page cache, imports do not count.
Processor time, which is what the clock tells where nothing else runs.
Each plugin is a folder with a manifest and its code, and depends on another one. *Bare* reads the same JSON
manifests with `scandir` and `json.loads`, and neither checks nor hashes anything.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rounds import Result, interleave, table

from contracts.bus import Features
from kernel import manifest_index
from kernel.discovery import Discovery, PluginDiscovery
from kernel.manifest_index import ManifestIndex
from kernel.resolver import DependencyResolver

CODE = "from plugbus import BasePlugin\n\n\nclass Main(BasePlugin):\n    pass\n"
Write = Callable[[dict[str, Any]], dict[str, str]]


def _toml(said: dict[str, Any]) -> dict[str, str]:
    handler = json.dumps(said["subscribes"]["watch"])
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items() if not isinstance(value, dict)]
    lines += [f"subscribes = {{ watch = {handler} }}", "[default_configuration]", "limit = 3"]
    return {"plugin.toml": "\n".join(lines), "main.py": CODE}


def _yaml(said: dict[str, Any]) -> dict[str, str]:
    lines = [f"{key}: {json.dumps(value)}" for key, value in said.items()]
    return {"plugin.yaml": "\n".join(lines), "main.py": CODE}


def _json(said: dict[str, Any]) -> dict[str, str]:
    return {"plugin.json": json.dumps(said, indent=2), "main.py": CODE}


def _class(said: dict[str, Any]) -> dict[str, str]:
    keywords = ", ".join(f"{key}={value!r}" for key, value in said.items() if key != "entry_point")
    return {"plugin.py": CODE.replace("(BasePlugin)", f"(BasePlugin, {keywords})")}


CASES: dict[str, Write] = {
    "bare": _json, "index": _json, "json": _json, "toml": _toml, "yaml": _yaml, "class line": _class,
}  # fmt: skip
GOALS = {"index": 30, "json": 100, "toml": 100}
"""Milliseconds in which everything is found and resolved."""


def said(number: int) -> dict[str, Any]:
    """The manifest of one of the plugins."""
    return {
        "plugin_id": f"plugin_{number:04}",
        "name": f"Plugin {number}",
        "version": "1.2.0",
        "description": "One of many.",
        "entry_point": "main:Main",
        "security_level": "trusted",
        "required_permissions": ["read_data"],
        "dependencies": [f"plugin_{number // 10:04}>=1.0"] if number >= 10 else [],
        "subscribes": {"watch": [f"bench.made_{number // 10}"]},
        "publishes": [f"bench.made_{number}"],
        "provides": [f"bench.do_{number}"],
        "default_configuration": {"limit": 3},
    }


def make(folder: Path, count: int, write: Write) -> None:
    for number in range(count):
        place = folder / f"plugin_{number:04}"
        place.mkdir()
        for name, content in write(said(number)).items():
            (place / name).write_text(content)


def measure(case: str, count: int) -> Result:
    with tempfile.TemporaryDirectory() as temporary:
        folder, file = Path(temporary, "plugins"), Path(temporary, "manifests.json")
        folder.mkdir()
        make(folder, count, CASES[case])
        if case == "bare":
            return {"found": _timed(lambda: _bare(folder))[0], "resolved": 0.0}
        if case == "index":
            manifest_index.TICK = -(10**12)  # the files are as old as they would be in earnest
            _look(folder, file)
        found_in, found = _timed(lambda: _look(folder, file if case == "index" else None))
        resolved_in, order = _timed(lambda: _resolve(found))
        if len(order) != count:
            raise SystemExit(f"{len(order)} of {count} were resolved: {found.refused[:1]}")
        return {"found": found_in, "resolved": resolved_in}


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of the processor, and the outcome."""
    began = time.process_time()
    outcome = run()
    return (time.process_time() - began) * 1_000, outcome


def _bare(folder: Path) -> list[Any]:
    with os.scandir(folder) as entries:
        return [json.loads(Path(entry.path, "plugin.json").read_bytes()) for entry in entries]


def _look(folder: Path, file: Path | None) -> Discovery:
    index = ManifestIndex(file, "1", logging.getLogger()) if file else None
    found = PluginDiscovery(index).discover_from_directory(folder)
    if index is not None:
        index.save()
    return found


def _resolve(found: Discovery) -> tuple[str, ...]:
    features = Features(persistent=False, shared=False)
    metadatas = [one.metadata for one in found.found]
    return DependencyResolver().resolve(metadatas, plugbus_version="1.0", bus_features=features).order


def report(found: dict[str, Result]) -> str:
    bare = found["bare"]["found"]
    rows = []
    for case, result in found.items():
        both = result["found"] + result["resolved"]
        goal = f"{GOALS[case]} ms" if case in GOALS else ""
        figures = (f"{value:.0f} ms" for value in (result["found"], result["resolved"], both))
        rows.append([case, *figures, f"{both / bare:.1f}", goal])
    return table(["manifests", "found", "resolved", "both", "of bare", "at most"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--case", choices=CASES, help="one case, one round, as JSON")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=1_000, help="plugins, with --case")
    chosen = parser.parse_args()
    if chosen.case:
        print(json.dumps(measure(chosen.case, chosen.count)))
    else:
        print(report(interleave(Path(__file__), list(CASES), chosen.rounds, chosen.seconds)))


if __name__ == "__main__":
    main()
