"""How the benchmarks measure: every case in a fresh process, all cases once a round, medians of rounds.

Machines drift by a factor of two between runs, so nothing is judged but ratios of medians from
interleaved rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

Result = dict[str, float]


def interleave(script: Path, cases: Sequence[str], rounds: int, seconds: float) -> dict[str, Result]:
    """The median of each figure of `all_rounds`."""
    found = all_rounds(script, cases, rounds, seconds)
    return {case: medians(results) for case, results in found.items()}


def all_rounds(script: Path, cases: Sequence[str], rounds: int, seconds: float) -> dict[str, list[Result]]:
    """Run `script --case CASE` for each case, round by round."""
    found: dict[str, list[Result]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            found[case].append(_one(script, case, seconds))
    return found


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _one(script: Path, case: str, seconds: float) -> Result:
    command = [sys.executable, str(script), "--case", case, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603 - ourselves
    if done.returncode:
        raise SystemExit(f"case {case} failed:\n{done.stderr}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def medians(results: list[Result]) -> Result:
    return {name: statistics.median(result[name] for result in results) for name in results[0]}
