"""Processor time of one event on the Redis bus: `python tests/benchmarks/bus_redis_cpu.py`.

Ours and the server's, for a machine that others use at the same time: there, rates tell more about them.
Each round is a fresh process with a server of its own; what is shown is the least of all rounds. `--against
FOLDER` measures another checkout of the repository as well, in the same rounds by turns.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from redis_bench import servers
from rounds import Result, table

HERE = Path(__file__).resolve()
WARM_UP = 1_000
"""Events before what is measured."""
CASES = {
    "burst": (10_000, "100 publishers, handled"),
    "single": (2_500, "one awaiting publisher, nobody handles"),
    "drain": (30_000, "a backlog, handled"),
}
"""How many events are measured of each, and what it is."""
PARTITIONS = (1, 2, 8)


async def measure(case: str, partitions: int, url: str) -> Result:
    """Microseconds of both sides for one event."""
    from redis_bench.load import Handled
    from redis_bench.measures import settle_down
    from redis_bench.ours import Ours

    from contracts.bus import BusLimits

    side, handled = Ours(url, 200, BusLimits(partitions=partitions)), Handled()
    count, total = CASES[case][0], CASES[case][0] + WARM_UP
    await side.open()
    await side.declare()
    if case == "burst":
        await side.consume(handled)
    await side.produce(total if case == "drain" else WARM_UP)
    settle_down()
    before = time.process_time(), _server_time(url)
    if case == "single":
        for _ in range(count):
            await side.publish()
    else:
        reached = handled.expect(total - handled.count)
        await (side.consume(handled) if case == "drain" else side.produce(count))
        await reached
    used = time.process_time() - before[0], _server_time(url) - before[1]
    await side.check(total, None if case == "single" else total)
    await side.close()
    share = 1e6 / (total if case == "drain" else count)
    return {"ours": used[0] * share, "server": used[1] * share}


def _server_time(url: str) -> float:
    """Seconds that its main thread has used."""
    import redis

    with redis.Redis.from_url(url) as client:
        told = client.info("cpu")
    used: float = told["used_cpu_user_main_thread"] + told["used_cpu_sys_main_thread"]
    return used


def one_round(folder: Path, case: str, partitions: int, server: str) -> Result:
    """In a process of its own, with the packages of `folder`."""
    with servers.running(server, "off") as url:
        command = [sys.executable, str(HERE), "--case", case, str(partitions), url]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    if done.returncode:
        sys.exit(f"{case} with {partitions} partitions failed in {folder}:\n{done.stderr[-2000:]}")
    found: Result = json.loads(done.stdout)
    return found


def compare(folders: list[Path], rounds: int, server: str) -> None:
    rows = []
    for case, partitions in itertools.product(CASES, PARTITIONS):
        found: dict[Path, list[Result]] = {folder: [] for folder in folders}
        for _, folder in itertools.product(range(rounds), folders):
            found[folder].append(one_round(folder, case, partitions, server))
        for folder, results in found.items():
            ours, theirs = (min(result[name] for result in results) for name in ("ours", "server"))
            figures = (f"{ours:.1f}", f"{theirs:.1f}", f"{ours + theirs:.1f}")
            rows.append((CASES[case][1], str(partitions), folder.name, *figures))
    print(table(("what", "partitions", "checkout", "ours, µs", "the server, µs", "together"), rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout, measured by turns")
    parser.add_argument("--server", default=servers.newest_server(), metavar="PATH", help="redis-server")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        case, partitions, url = given.case
        print(json.dumps(asyncio.run(measure(case, int(partitions), url))))
        return
    if given.server is None or servers.version_of(given.server) == (0,):
        found = given.server or "none is in the search path"
        sys.exit(f"no redis-server: {found}\n  fix: install one, or --server PATH")
    if given.against and not (given.against / "bus").is_dir():
        sys.exit(f"{given.against} is no checkout: it has no folder bus\n  fix: name its top folder")
    folders = [HERE.parents[2], *([given.against.resolve()] if given.against else [])]
    compare(folders, max(1, given.rounds), given.server)


if __name__ == "__main__":
    main()
