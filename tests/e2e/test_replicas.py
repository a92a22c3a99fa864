"""Two kernels that share one Redis, as an operator runs them: webhooks to either, and somebody is killed."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fault_tools.servers import Server, free_port

PLUGBUS = "import plugbus; plugbus.main()"
DEADLINE = 60.0
SECRET = "example-secret"
REPOSITORIES = 8
"""One in each partition, so that whoever has a share of those has one of these."""
DELIVERIES = 20
"""To each repository."""
BODY = json.loads((Path(__file__).resolve().parents[1] / "data/github/workflow_run__failed.json").read_text())

LEDGER = '''
import os
from plugbus import BasePlugin, Event, PluginEvent, on

class Run(Event, type="github.workflow_run"):
    """A workflow of a repository has run."""
    repository: str | None

class Ledger(BasePlugin, plugin_id="ledger", version="1.0.0", security_level="trusted"):
    """Writes down what it handles, where the test can read it whoever dies."""

    async def initialize(self) -> None:
        self.file = os.open(os.environ["LEDGER"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    @on(concurrency=4)
    async def note(self, event: Run, meta: PluginEvent) -> None:
        os.write(self.file, f"{os.getpid()} {meta.id} {event.repository}\\n".encode())
'''


class Kernel:
    """`plugbus run` with a state folder of its own."""

    def __init__(self, folder: Path, url: str, ledger: Path) -> None:
        self.port = free_port()
        self.folder = folder
        folder.mkdir()
        (folder / "ledger.py").write_text(LEDGER)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PLUGBUS_")}
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-c", PLUGBUS, "run", "--bus", url, "--port", str(self.port),
             "--plugins", str(folder / "ledger.py")],
            cwd=folder, stdout=self.log, stderr=subprocess.STDOUT,
            env={
                **kept, "PLUGBUS_STATE_DIR": str(folder / "state"), "PLUGBUS_BUS__LIMITS__LEASE": "2",
                "PLUGBUS_PLUGINS__WEBHOOKS__ENABLED": "true",
                "PLUGBUS_PLUGINS__WEBHOOKS__CONFIG__SECRET": SECRET, "LEDGER": str(ledger),
            },
        )  # fmt: skip

    def until_ready(self) -> None:
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/readyz", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        pytest.fail(f"it is not ready\n{self.said()}")

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


class Sender:
    """GitHub, for one repository: delivers one after the other, each again until somebody has taken it."""

    def __init__(self, number: int, ports: list[int]) -> None:
        self.name = f"ada/engine{number}"
        self.ports = ports
        self.taken: list[str] = []
        """Ids that were answered with 2xx, in this order."""
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        end = time.monotonic() + DEADLINE
        with httpx.Client(trust_env=False, timeout=10) as client:
            for number in range(DELIVERIES):
                body = json.dumps({**BODY, "repository": {"full_name": self.name}}).encode()
                signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
                headers = {
                    "Content-Type": "application/json", "X-GitHub-Event": "workflow_run",
                    "X-GitHub-Delivery": f"{self.name}#{number}",
                    "X-Hub-Signature-256": f"sha256={signature}",
                }  # fmt: skip
                attempt = number
                while time.monotonic() < end and not self.deliver(client, attempt, body, headers):
                    attempt += 1

    def deliver(self, client: httpx.Client, attempt: int, body: bytes, headers: dict[str, str]) -> bool:
        port = self.ports[attempt % len(self.ports)]
        try:
            answer = client.post(
                f"http://127.0.0.1:{port}/plugins/webhooks/github", content=body, headers=headers
            )
        except httpx.TransportError:
            time.sleep(0.02)
            return False
        if not answer.is_success:
            return False
        self.taken.append(headers["X-GitHub-Delivery"])
        return True


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def kernels(tmp_path: Path, server: Server, ledger: Path) -> Iterator[list[Kernel]]:
    made = [Kernel(tmp_path / name, server.url, ledger) for name in ("one", "two")]
    try:
        for kernel in made:
            kernel.until_ready()
        yield made
    finally:
        for kernel in made:
            kernel.end()


@pytest.mark.parametrize("victim", ["a kernel", "redis"])
def test_nothing_that_was_taken_is_lost_or_out_of_order(
    kernels: list[Kernel], server: Server, ledger: Path, victim: str
) -> None:
    """Both share the work; `kill -9` in the middle of posting loses and reorders none that got a 2xx."""
    senders = [Sender(number, [kernel.port for kernel in kernels]) for number in range(REPOSITORIES)]
    for sender in senders:
        sender.thread.start()
    until(lambda: sum(len(sender.taken) for sender in senders) > REPOSITORIES * DELIVERIES / 3)
    if victim == "redis":
        server.kill()
        server.start()
    else:
        kernels[0].process.send_signal(signal.SIGKILL)
    for sender in senders:
        sender.thread.join()
    assert [len(sender.taken) for sender in senders] == [DELIVERIES] * REPOSITORIES, kernels[1].said()
    until(lambda: set().union(*(sender.taken for sender in senders)) <= {id for _, id, _ in rows(ledger)})
    first = defaultdict[str, list[str]](list)
    for _, id, repository in rows(ledger):
        if id not in first[repository]:
            first[repository].append(id)
    assert {sender.name: sender.taken for sender in senders} == first
    assert len({process for process, _, _ in rows(ledger)}) == 2, "they do not share the work"


def rows(ledger: Path) -> list[list[str]]:
    return [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []


def until(fact: Any) -> None:
    """Wait for a fact of other processes; there is nothing to await but what they leave."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if fact():
            return
        time.sleep(0.02)
    pytest.fail("waited in vain")
