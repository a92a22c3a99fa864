"""The Redis bus beside redis-py by hand, FastStream and taskiq: `python tests/benchmarks/bus_redis.py`.

It starts a redis-server of its own for every case, on loopback. Typed events of 200 B or 4 KiB, empty
handlers that ask for the model; on the bus's side with every promise in force (id window, fence, sequence,
retry, timeout), 100 publishers that each await their publish; redis-py moves bytes in pipelines. A case
counts only if nothing was lost: all that was published was handled, and nothing is pending.

The peers are no dependencies of the project; they go into an environment of their own:

    python -m venv /tmp/plugbus-peers
    /tmp/plugbus-peers/bin/pip install 'faststream[redis]' taskiq taskiq-redis hiredis

`--without-peers` leaves their rows out. The whole takes about 25 minutes, `--quick` three; `--only` picks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from redis_bench import cases, producers, servers
from redis_bench.cases import Job
from redis_bench.runner import Runner

SCRIPT = Path(__file__).resolve()
PEERS = Path(tempfile.gettempdir()) / "plugbus-peers" / "bin" / "python"
_VERSIONS = (
    "import sys, importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
)


def main() -> None:
    given = _arguments()
    if given.case:
        print(json.dumps(asyncio.run(cases.run(Job.load(given.case), given.url))))
    elif given.produce:
        asyncio.run(producers.obey(cases.side_of(Job.load(given.produce), given.url)))
    elif given.replica:
        from redis_bench import alone

        asyncio.run(alone.replica(given.url, Job.load(given.replica).partitions))
    else:
        benchmark(given)


def benchmark(given: argparse.Namespace) -> None:
    from redis_bench.report import report

    server = given.server or servers.newest_server()
    if server is None or servers.version_of(server) == (0,):
        sys.exit(
            f"no redis-server: {server or 'none is in the search path'}\n  fix: install one, or --server PATH"
        )
    peers = None if given.without_peers else given.peers
    print(_heading(server, peers), end="\n\n")
    amounts = cases.QUICK if given.quick else cases.Amounts()
    there = {"has_peers": peers is not None, "has_benchmark": servers.benchmark(server) is not None}
    repeated, once = (
        [job for job in jobs if _is_wanted(job, given, **there)]
        for jobs in (cases.jobs(amounts), cases.once(amounts))
    )
    if not repeated and not once:
        sys.exit(
            f"no case has the words {given.only}\n  fix: e.g. --only latency; a whole name: {_example()}"
        )
    runner = Runner(SCRIPT, server, peers, given.ours == "memory", time.monotonic() + given.minutes * 60)
    runner.play(repeated, 1 if given.quick else given.rounds)
    runner.play(once, 1)
    print(report(runner.medians()))
    if given.json:
        given.json.write_text(json.dumps(runner.found, indent=1))
    _end(runner)


def _end(runner: Runner) -> None:
    """Say what is missing in the tables; then it is no success."""
    if runner.is_out_of_time:
        print("\nThe time was up: the last round is not complete.")
    for name, why in runner.failed.items():
        print(f"\nfailed: {name}: {why}")
    if runner.failed or runner.is_out_of_time:
        sys.exit(1)


def _is_wanted(job: Job, given: argparse.Namespace, *, has_peers: bool, has_benchmark: bool) -> bool:
    if job.is_peer and not has_peers:
        return False
    if job.measure == "limit" and not has_benchmark:
        return False
    if given.ours == "memory" and (
        job.processes > 1 or job.measure in {"subscriptions", "replicas", "memory"}
    ):
        return False
    words = job.name.split(":")
    return not given.only or any(set(only.split(":")) <= set(words) for only in given.only)


def _example() -> str:
    return cases.jobs(cases.QUICK)[-1].name


def _heading(server: str, peers: Path | None) -> str:
    ours = ", ".join(f"{name} {version(name)}" for name in ("redis", "hiredis", "pydantic"))
    redis = ".".join(map(str, servers.version_of(server)))
    theirs = "no peers"
    if peers is not None:
        names = ("faststream", "taskiq", "taskiq-redis", "redis", "hiredis", "pydantic")
        theirs = f"the peers with {_ask_versions(peers, names)}"
    where = f"{os.cpu_count()} cores, Python {platform.python_version()}, redis-server {redis}"
    return f"{where}; {ours}; {theirs}."


def _ask_versions(peers: Path, names: tuple[str, ...]) -> str:
    command = [str(peers), "-c", _VERSIONS, *names]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        sys.exit(f"the peers are not installed for {peers}\n  fix: {_install(peers)}\n  or: --without-peers")


def _install(peers: Path) -> str:
    folder = peers.parent.parent
    packages = "'faststream[redis]' taskiq taskiq-redis hiredis"
    return f"python -m venv {folder} && {folder}/bin/pip install {packages}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="cases with all these words, e.g. drain or throughput:ours-8:off; may be repeated",
    )
    parser.add_argument("--minutes", type=float, default=45, help="no case is started after that")
    parser.add_argument("--server", metavar="PATH", help="redis-server; without it, the newest that is found")
    parser.add_argument(
        "--peers", type=Path, default=PEERS, metavar="PYTHON", help="interpreter of their environment"
    )
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument(
        "--ours", choices=("redis", "memory"), default="redis", help="memory: to try the benchmark itself"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure of every round")
    for role in ("--case", "--produce", "--replica", "--url"):
        parser.add_argument(role, help=argparse.SUPPRESS)  # how it starts itself
    return parser.parse_args()


if __name__ == "__main__":
    main()
