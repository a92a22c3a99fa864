"""What importing costs, beside pydantic: `python tests/benchmarks/imports.py`.

Every case in a fresh interpreter, all cases once a round, compiled code in place. `import pydantic` alone
loads little of it: whoever makes one model of it, in a program with asyncio, pays for the second row.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rounds import table

ROOT = Path(__file__).resolve().parents[2]
CASES = {
    "import pydantic": "import pydantic",
    "one pydantic model, asyncio": "import asyncio, pydantic\nclass M(pydantic.BaseModel):\n    x: int",
    "import contracts": "import contracts",
    "import bus.memory": "import bus.memory",
    "import kernel.manager": "import kernel.manager",
    "import kernel.manager, bus.memory": "import kernel.manager, bus.memory",
}
_TIMED = "import time\n_began = time.perf_counter()\n{}\nprint(time.perf_counter() - _began)"


def seconds(statement: str, compiled: str) -> float:
    """What `statement` takes in a fresh interpreter; `compiled` is the folder of its bytecode."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(  # noqa: S603 - our own interpreter and our own statement
        [sys.executable, "-c", _TIMED.format(statement)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
    )
    return float(done.stdout)


def measure(rounds: int) -> dict[str, float]:
    """The median of each case, in seconds; a first round compiles and is not counted."""
    found: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as compiled:
        for turn in range(rounds + 1):
            for name, statement in CASES.items():
                took = seconds(statement, compiled)
                if turn:
                    found[name].append(took)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    found = measure(parser.parse_args().rounds)
    pydantic, model = list(found.values())[:2]
    rows = [
        (name, f"{took * 1_000:.0f} ms", f"{took / pydantic:.2f}", f"{took / model:.2f}")
        for name, took in found.items()
    ]
    print(table(("case", "median", "of import pydantic", "of one model, asyncio"), rows))


if __name__ == "__main__":
    main()
