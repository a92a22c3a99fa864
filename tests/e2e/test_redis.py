"""A kernel and its Redis as an operator meets them: late, gone, wrong, not installed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fault_tools.servers import Server, free_port

from bus.redis_streams.scripts import names, script
from kernel.settings import Settings
from kernel.testing import Harness, MockPlugin
from plugbus import BasePlugin, Event, on

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
        """The line. A kernel that does not say it in time is killed, and that ends the waiting."""
        assert self.process.stdout is not None
        guard = threading.Timer(DEADLINE, self.process.kill)
        guard.start()
        try:
            for line in self.process.stdout:
                self.said.append(line.rstrip())
                if text in line:
                    return line
        finally:
            guard.cancel()
            guard.join()
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
        assert (gone["type"], gone["bus"]) == ("/problems/not-ready", "unreachable")
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


def test_a_redis_that_is_stopped_while_a_kernel_works_is_told_of_once(tmp_path: Path, server: Server) -> None:
    """At most eight lines for one outage, with cause and fix once; it goes on by itself, and says that."""
    server.start()
    with kernel(tmp_path, "--bus", server.url) as running:
        running.until_it_says("/docs")
        running.until_ready_is(200)
        before = len(running.said)
        server.stop()
        gone = running.until_it_says("Redis cannot be reached")
        running.until_ready_is(503)
        until_tried(server.address, times=4)
        server.start()
        back = running.until_it_says("answers again")
        running.until_ready_is(200)
        assert publish(tmp_path).returncode == 0
        running.stop()
    address = f"redis://:••••@127.0.0.1:{server.port}/0"
    told = running.said[before:]
    assert len(told) <= 8, told
    assert gone.count(address) == back.count(address) == 1
    for text in ("cannot be reached", "fix: ", "answers again"):
        assert sum(text in line for line in told) == 1, told
    assert "fix: start it" in gone
    assert "s3cret" not in "\n".join(told)
    assert "Traceback" not in "\n".join(told)


def publish(folder: Path) -> subprocess.CompletedProcess[str]:
    """An event, by the running kernel."""
    return run(folder, "event", "publish", "post.parcel", "n=1")


def until_tried(address: tuple[str, int], *, times: int) -> None:
    """Return when somebody has tried so often to connect to a server that is down; each finds it closed."""
    with socket.create_server(address) as listener:
        listener.settimeout(DEADLINE)
        for _ in range(times):
            listener.accept()[0].close()


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


def test_the_doctor_counts_the_scripts_that_redis_has(tmp_path: Path, server: Server) -> None:
    """N of M loaded: those of this Plugbus that the server knows just then, and of how many."""
    server.start()
    opened = loaded_scripts(tmp_path, server)  # some are loaded by whoever opens a bus: its own survey
    ours = [script(name) for name in names()]
    exist = server.command("SCRIPT", "EXISTS", *(one.sha for one in ours))
    assert opened == (sum(exist), len(ours))
    assert 0 < sum(exist) < len(ours)
    for one in ours:
        server.command("SCRIPT", "LOAD", one.text)
    assert loaded_scripts(tmp_path, server) == (len(ours), len(ours))
    server.command("SCRIPT", "FLUSH")
    assert loaded_scripts(tmp_path, server) == opened


def loaded_scripts(folder: Path, server: Server) -> tuple[int, int]:
    """As the doctor tells it, in its line for people and in its details."""
    done = run(folder, "doctor", "--port", "0", "--bus", server.url, "--json")
    items = json.loads(done.stdout)["items"]
    [told] = [item["details"]["details"]["scripts"] for item in items if item["name"] == "bus"]
    [line] = [item["text"] for item in items if item["name"] == "bus facts"]
    assert f"scripts: {told}" in line
    found = re.fullmatch(r"(\d+) of (\d+) loaded", told)
    assert found is not None, told
    return int(found[1]), int(found[2])


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


async def test_a_lazy_plugin_stays_until_what_woke_it_has_come(harness: Harness) -> None:
    """Also where starting it, and handing its group over, takes longer than it may be idle."""
    seen: list[int] = []

    class Brief(
        BasePlugin, plugin_id="brief", version="1.0.0", security_level="trusted", activation="lazy",
        idle_timeout=0.01, subscribes={"take": ["post.parcel"]},
    ):  # fmt: skip
        async def start(self) -> None:
            await asyncio.sleep(0.1)

        @on
        async def take(self, event: Parcel) -> None:
            seen.append(event.n)

    await harness.load(Brief)
    for n in range(3):
        await harness.publish(Parcel(n=n), key="k")
        await harness.quiet()
    assert seen == [0, 1, 2]


LATER = """
from plugbus import BasePlugin, Event, on

class Parcel(Event, type="post.parcel"):
    n: int

class Later(BasePlugin, plugin_id="later", version="1.0.0", security_level="trusted", activation="lazy",
            subscribes={"take": ["post.parcel"], "all": ["post.parcel"]}):
    @on(start="new")
    async def take(self, event: Parcel) -> None: ...

    @on(name="all")
    async def take_all(self, event: Parcel) -> None: ...
"""


class Later(
    BasePlugin, plugin_id="later", version="1.0.0", security_level="trusted", activation="lazy",
    subscribes={"take": ["post.parcel"], "all": ["post.parcel"]},
):  # fmt: skip
    @on(start="new")
    async def take(self, event: Parcel) -> None: ...

    @on(name="all")
    async def take_all(self, event: Parcel) -> None: ...


@pytest.mark.parametrize("form", ["class", "file"])
async def test_a_lazy_handler_of_new_events_begins_when_its_plugin_is_there(
    tmp_path: Path, harness_bus: str, form: str
) -> None:
    """Not at the oldest event, nor at its first load: what came between is handled."""
    url = harness_bus if harness_bus != "memory://" else "memory://later"
    (tmp_path / "later.py").write_text(LATER)
    async with Harness(tmp_path / "first", bus=url) as first:
        await first.publish(Parcel(n=1), key="k")
        second = Harness(tmp_path / "second", settings=Settings(bus=first.manager.settings.bus))
        await second.manager.register_plugin(Later if form == "class" else tmp_path / "later.py")
        async with second:
            await first.publish(Parcel(n=2), key="k")
            await second.quiet()
            numbers = {
                name: [one.event.data for one in second.handled(f"later.{name}")] for name in ("take", "all")
            }
            assert numbers == {"take": [{"n": 2}], "all": [{"n": 1}, {"n": 2}]}


async def test_each_test_begins_with_nothing(harness: Harness) -> None:
    """Nothing of another test is there, on either bus."""
    assert harness.published(Parcel) == []
    assert await harness.bus.groups() == []
    assert [topic.topic for topic in await harness.bus.topics() if topic.topic == "post"] == []
