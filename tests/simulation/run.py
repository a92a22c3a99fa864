"""Seeds from the command line: `run.py --seeds 100000`, `run.py --seed 17` (with its whole trace)."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time

from bus_simulation.mutants import MUTANTS, planted
from bus_simulation.runs import failures, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many (default 1,000)")
    parser.add_argument("--first", type=int, default=0, help="where to begin (default 0)")
    parser.add_argument("--seed", type=int, help="this one alone, with its whole trace")
    parser.add_argument("--digests", action="store_true", help="print what each run comes to")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="with a planted mistake")
    options = parser.parse_args()
    with planted(options.mutant) if options.mutant else contextlib.nullcontext():
        return _one(options.seed) if options.seed is not None else _many(options)


def _one(seed: int) -> int:
    result = run(seed)
    print(result.report(lines=None))
    return bool(result.problems)


def _many(options: argparse.Namespace) -> int:
    seeds = range(options.first, options.first + options.seeds)
    if options.digests:
        for seed in seeds:
            print(run(seed).digest)
        return 0
    began, found = time.perf_counter(), []
    for result in failures(seeds):
        found.append(result.seed)
        print(result.report(), end="\n\n")
    print(f"{len(seeds):,} seeds in {time.perf_counter() - began:.1f} s, failed: {found or 'none'}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
