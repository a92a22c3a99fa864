"""A kernel and its Redis as an operator meets them: late, gone, wrong, not installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fault_tools.servers import Server, free_port

from kernel.testing import Harness, MockPlugin
from plugbus import Event

PLUGBUS = "import plugbus; plugbus.main()"
WITHOUT_REDIS = f"import sys; sys.modules['redis'] = None; {PLUGBUS}"
DEADLINE = 30.0
"""Seconds after which something that was waited for is a failure."""


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PLUGBUS_")}
    return {**kept, "PLUGBUS_STATE_DIR": str(folder / "state"), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


def run(folder: Path, *words: str, code: str = PLUGBUS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", code, *words],
        cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=DEADLINE,
    )  # fmt: skip


class Kernel:
    """`plugbus run` as a process of its own, with everything that it has said."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder = folder
        self.process = process
        self.said: list[str] = []

    def until_it_says(self, text: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            if text in line:
                return line
        pytest.fail(f"it ended without saying {text!r}: {self.said}")

    def ask(self, path: str) -> httpx.Response:
        url = json.loads((self.folder / "state" / "endpoint.json").read_text())["url"]
        token = (self.folder / "state" / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(f"{url}{path}", headers=headers, timeout=DEADLINE, trust_env=False)

    def until_ready_is(self, status: int) -> dict[str, Any]:
        answered: dict[str, Any] = until(
            lambda: answer.json() if (answer := self.ask("/readyz")).status_code == status else None
        )
        return answered

    def stop(self) -> None:
        """SIGTERM, and an end with exit code 0."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        self.said += self.process.stdout.read().splitlines()
        assert self.process.wait(DEADLINE) == 0, self.said


@contextmanager
def kernel(folder: Path, *words: str) -> Iterator[Kernel]:
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", PLUGBUS, "run", "--port", "0", *words],
        cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield Kernel(folder, process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def until(fact: Callable[[], Any]) -> Any:
    """Wait for a fact of another process; there is nothing to await but its answers."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if (found := fact()) is not None:
            return found
        time.sleep(0.02)
    pytest.fail("waited in vain")


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of the test's own, which is down at first."""
    made = Server(config={"requirepass": "s3cret"})
    yield made
    made.close()


# --- late, and gone -------------------------------------------------------------------------------------


def test_a_kernel_waits_for_its_redis_and_goes_on_by_itself(tmp_path: Path, server: Server) -> None:
    """At most eight lines, said once, without the password; then it serves, and says when Redis is gone."""
    with kernel(tmp_path, "--bus", server.url) as running:
        running.until_it_says("trying again")
        told = list(running.said)
        assert len(told) <= 8, told
        assert any(f"127.0.0.1:{server.port}" in line for line in told)
        assert any("fix:" in line for line in told)
        server.start()
        running.until_it_says("connected to")
        running.until_it_says("/docs")
        assert running.said[len(told)] == f"connected to redis://:••••@127.0.0.1:{server.port}/0"
        ready = running.until_ready_is(200)
        assert (ready["status"], ready["bus"], ready["durability"]) == ("ready", "connected", "weak")
        assert any("durability is weak" in note for note in ready["notes"])

        server.kill()
        gone = running.until_ready_is(503)
        assert (gone["status"], gone["bus"]) == ("not_ready", "unreachable")
        assert gone["reasons"][0].startswith("bus: ")
        assert running.ask("/livez").status_code == 200
        shown = run(tmp_path, "bus", "info")
        assert (shown.returncode, "no: it does not answer" in shown.stdout) == (0, True), shown.stderr
        server.start()
        assert running.until_ready_is(200)["bus"] == "connected"
        running.stop()
    text = "\n".join(running.said)
    assert "s3cret" not in text
    assert "Traceback" not in text


def test_a_kernel_that_waits_can_be_stopped(tmp_path: Path) -> None:
    """Exit code 0; the state folder is free again, and while it waits others see why it does not listen."""
    with kernel(tmp_path, "--bus", f"redis://127.0.0.1:{free_port()}") as running:
        running.until_it_says("trying again")
        examined = run(tmp_path, "doctor", "--bus", "memory://", "--json")
        checks = {item["name"]: item for item in json.loads(examined.stdout)["items"]}
        assert checks["kernel"]["status"] == "warning"
        assert "waits for its bus" in checks["kernel"]["text"]
        running.stop()
    assert not (tmp_path / "state" / "endpoint.json").exists()


# --- wrong ----------------------------------------------------------------------------------------------


def test_a_wrong_password_ends_the_start(tmp_path: Path, server: Server) -> None:
    """Waiting would not mend it: exit code 4, with what is wrong and what to do."""
    server.start()
    done = run(tmp_path, "run", "--port", "0", "--bus", f"redis://:wr0ng@127.0.0.1:{server.port}")
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert len(done.stderr.splitlines()) <= 8
    assert "fix:" in done.stderr
    assert "wr0ng" not in done.stderr
    assert "trying again" not in done.stderr


def test_redis_that_is_not_installed_is_told_with_the_command_that_installs_it(tmp_path: Path) -> None:
    """By every command that opens the bus."""
    run_it = run(tmp_path, "run", "--bus", "redis://127.0.0.1", code=WITHOUT_REDIS)
    assert (run_it.returncode, run_it.stdout) == (3, "")
    assert "fix: pip install 'plugbus[redis]'" in run_it.stderr
    assert len(run_it.stderr.splitlines()) <= 4
    doctor = run(tmp_path, "doctor", "--bus", "redis://127.0.0.1", "--port", "0", code=WITHOUT_REDIS)
    assert (doctor.returncode, doctor.stderr) == (1, "")
    [failed] = [line for line in doctor.stdout.splitlines() if line.startswith("failed")]
    assert failed.endswith("fix: pip install 'plugbus[redis]'")


# --- the doctor -----------------------------------------------------------------------------------------


def test_the_doctor_looks_at_redis(tmp_path: Path, server: Server) -> None:
    """Server, round trip, durability; down, it is one failed line; it leaves no replica behind."""
    down = run(tmp_path, "doctor", "--port", "0", "--bus", server.url)
    assert (down.returncode, down.stderr) == (1, "")
    [failed] = [line for line in down.stdout.splitlines() if line.startswith("failed")]
    assert failed.split()[1] == "bus"
    assert f"127.0.0.1:{server.port}" in failed
    assert "s3cret" not in down.stdout
    server.start()
    for _ in range(2):
        up = run(tmp_path, "doctor", "--port", "0", "--bus", server.url, "--json")
        assert (up.returncode, up.stderr) == (0, ""), up.stdout
        checks = {item["name"]: item for item in json.loads(up.stdout)["items"]}
        assert checks["bus"]["details"]["server"].startswith("Redis ")
        assert checks["bus"]["details"]["replicas"] == []
        assert checks["bus"]["details"]["answered_in_ms"] > 0
        assert checks["durability"]["status"] == "warning"


# --- the test kit ---------------------------------------------------------------------------------------


class Parcel(Event, type="post.parcel"):
    """Something to deliver."""

    n: int


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with Server() as made:
        yield made


@pytest.fixture(params=["memory", "redis"])
def harness_bus(request: pytest.FixtureRequest, redis: Server) -> Iterator[str]:
    """Each test runs once on either."""
    yield "memory://" if request.param == "memory" else redis.url
    assert redis.command("DBSIZE") == 0, "keys were left behind"


async def test_a_flow_is_tested_alike(harness: Harness) -> None:
    """What was published, in order of its key; what was handled, after failures too; what died."""
    mock = MockPlugin.make("mock", handles=["post.**"], fails=2)
    await harness.load(mock)
    for n in range(5):
        await harness.publish(Parcel(n=n), key="k")
    await harness.quiet()
    assert harness.published(Parcel) == [Parcel(n=n) for n in range(5)]
    assert [one.event.attempt for one in harness.handled("mock.handle_event")] == [3, 1, 1, 1, 1]
    assert await harness.dead_letters() == []


async def test_each_test_begins_with_nothing(harness: Harness) -> None:
    """Nothing of another test is there, on either bus."""
    assert harness.published(Parcel) == []
    assert await harness.bus.groups() == []
    assert [topic.topic for topic in await harness.bus.topics() if topic.topic == "post"] == []
