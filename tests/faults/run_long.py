"""The long run: `python tests/faults/run_long.py`. A million events, sixty kills; others: `--help`."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from fault_tools.servers import ServerFailed, binaries, binary
from long_run.children import RunFailed
from long_run.plan import Plan
from long_run.run import carry_out


def main() -> int:
    options = _options()
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    plan = Plan(
        seed=seed, events=options.events, keys=options.keys, replica_kills=options.replica_kills,
        server_kills=options.server_kills, failing=options.failing,
    )  # fmt: skip
    print(f"seed {seed}: repeat it with --seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="long-run-"))
    faststream = options.faststream if options.system == "faststream" else None
    is_kept = True
    try:
        result, text = carry_out(plan, binary(options.server), folder, faststream)
        print(text)
        is_kept = options.keep or bool(result.problems())
    except (RunFailed, ServerFailed) as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        if is_kept:
            print(f"the journals are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)
    return bool(result.problems())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    standard = Plan(seed=0)
    parser.add_argument("--seed", type=int, help="of items, kills and pauses (default: by chance)")
    parser.add_argument("--events", type=int, default=standard.events)
    parser.add_argument("--keys", type=int, default=standard.keys)
    parser.add_argument("--replica-kills", type=int, default=standard.replica_kills)
    parser.add_argument("--server-kills", type=int, default=standard.server_kills)
    parser.add_argument(
        "--failing", type=int, default=0, help="of so many items one fails once (default: none)"
    )
    labels = [label for label, _ in binaries()]
    parser.add_argument("--server", choices=labels, default=labels[-1], help="version of redis-server")
    parser.add_argument("--system", choices=("plugbus", "faststream"), default="plugbus")
    parser.add_argument("--faststream", type=Path, help="python of an environment with faststream[redis]")
    parser.add_argument("--keep", action="store_true", help="keep the journals of a run that went well")
    options = parser.parse_args()
    if options.system == "faststream" and not (options.faststream and options.faststream.is_file()):
        parser.error(
            "--system faststream needs --faststream PYTHON, the python of an environment that has it"
        )
    return options


if __name__ == "__main__":
    sys.exit(main())
