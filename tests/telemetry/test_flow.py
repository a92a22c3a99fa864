"""One flow, from the web request to the last handler, as the backend and `plugbus trace show` see it."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fault_tools.servers import Server, free_port
from receiver import Exported, Receiver

PLUGBUS = "import plugbus; plugbus.main()"
DEADLINE = 60.0
SECRET = "example-secret"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BODY = (Path(__file__).resolve().parents[1] / "data/github/workflow_run__failed.json").read_bytes()

TRIAGE = """
from plugbus import BasePlugin, Event, on

class Run(Event, type="github.workflow_run"):
    repository: str | None

class Found(Event, type="triage.found"):
    repository: str

class Triage(BasePlugin, plugin_id="triage", version="1.0.0", security_level="trusted"):
    @on()
    async def look(self, event: Run) -> Found:
        return Found(repository=event.repository or "?")
"""
FIXER = """
import logging
from plugbus import BasePlugin, Event, PluginEvent, Query, RetryPolicy, on

class Found(Event, type="triage.found"):
    repository: str

class Done(Event, type="fixer.done"):
    price: int

class AskPrice(Query[int], capability="price.ask"):
    repository: str

class Fixer(BasePlugin, plugin_id="fixer", version="1.0.0", security_level="trusted"):
    @on(retry=RetryPolicy(attempts=3, first_delay=0.05))
    async def fix(self, event: Found, meta: PluginEvent) -> Done:
        if meta.attempt == 1:
            raise ConnectionError("not now")
        return Done(price=await self.context.request(AskPrice(repository=event.repository)))
"""
PRICER = """
from plugbus import BasePlugin, Event, Query, on, provides

class AskPrice(Query[int], capability="price.ask"):
    repository: str

class Done(Event, type="fixer.done"):
    price: int

class Pricer(BasePlugin, plugin_id="pricer", version="1.0.0", security_level="trusted"):
    @provides
    async def price(self, query: AskPrice) -> int:
        return len(query.repository)

    @on()
    async def close(self, event: Done) -> None:
        pass
"""
FILES = {"triage": TRIAGE, "fixer": FIXER, "pricer": PRICER}


class Kernel:
    """`plugbus run` with some of the plugins, tracing to `endpoint`."""

    def __init__(
        self, folder: Path, bus: str, endpoint: str, plugins: Sequence[str],
        *, webhooks: bool, more: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.port, self.folder = free_port(), folder
        folder.mkdir()
        named = []
        for name in plugins:
            (folder / f"{name}.py").write_text(FILES[name])
            named += ["--plugins", str(folder / f"{name}.py")]
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PLUGBUS_", "OTEL_"))
        }
        self.environment = {
            **kept, "PLUGBUS_STATE_DIR": str(folder / "state"),
            "PLUGBUS_PLUGINS__WEBHOOKS__ENABLED": str(webhooks).lower(),
            "PLUGBUS_PLUGINS__WEBHOOKS__CONFIG__SECRET": SECRET,
            "PLUGBUS_PLUGINS__TELEMETRY__ENABLED": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_SERVICE_NAME": folder.name,
            **(more or {}),
        }  # fmt: skip
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-c", PLUGBUS, "run", "--bus", bus, "--port", str(self.port), *named],
            cwd=folder, stdout=self.log, stderr=subprocess.STDOUT, env=self.environment,
        )  # fmt: skip

    def until_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.said()
            try:
                return httpx.get(f"http://127.0.0.1:{self.port}/readyz", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        until(is_ready)

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def ask(self, path: str) -> httpx.Response:
        token = (self.folder / "state" / "token").read_text().strip()
        return httpx.get(
            f"http://127.0.0.1:{self.port}{path}",
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        )

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-c", PLUGBUS, *words], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, check=False, timeout=DEADLINE,
        )  # fmt: skip

    def post(self, headers: dict[str, str]) -> httpx.Response:
        signature = hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest()
        return httpx.post(
            f"http://127.0.0.1:{self.port}/plugins/webhooks/github", content=BODY, trust_env=False,
            headers={
                "Content-Type": "application/json", "X-GitHub-Event": "workflow_run",
                "X-GitHub-Delivery": "delivery-1", "X-Hub-Signature-256": f"sha256={signature}", **headers,
            },
        )  # fmt: skip

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def until(is_so: Callable[[], Any]) -> Any:
    end = time.monotonic() + DEADLINE
    while not (answer := is_so()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return answer


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def kernels(system: str, tmp_path: Path, receiver: Receiver) -> Iterator[list[Kernel]]:
    """One on the memory bus; two on Redis, of which the second handles what the first takes in."""
    if system == "inmemory":
        kernels = [Kernel(tmp_path / "all", "memory://", receiver.url, list(FILES), webhooks=True)]
        yield from _ready(kernels)
        return
    with Server() as server:
        kernels = [
            Kernel(tmp_path / "front", server.url, receiver.url, ["triage"], webhooks=True),
            Kernel(tmp_path / "back", server.url, receiver.url, ["fixer", "pricer"], webhooks=False),
        ]
        yield from _ready(kernels)


def _ready(kernels: list[Kernel]) -> Iterator[list[Kernel]]:
    try:
        for kernel in kernels:
            kernel.until_ready()
        yield kernels
    finally:
        for kernel in kernels:
            kernel.end()


def test_a_webhook_is_one_trace_through_plugins_retry_and_call(
    kernels: list[Kernel], receiver: Receiver, system: str
) -> None:
    """Every span hangs on what has caused it; nothing else is in the trace; both views tell the same."""
    answer = kernels[0].post({"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"})
    assert answer.is_success, answer.text

    def whole() -> list[Exported]:
        return [span for span in receiver.spans if span.trace_id == TRACE]

    until(lambda: [span for span in whole() if span.name == "process fixer"])
    spans = whole()
    by_name: dict[str, list[Exported]] = {}
    for span in spans:
        by_name.setdefault(span.name, []).append(span)
    [request] = by_name["POST /plugins/webhooks/github"]
    [sent] = by_name["publish github"]
    [triaged] = by_name["process github"]
    [found] = by_name["publish triage"]
    first, second = sorted(
        by_name["process triage"], key=lambda span: span.attributes.get("plugbus.attempt", 1)
    )
    asking, answering = sorted(by_name["price.ask"], key=lambda span: span.kind)
    [done], [closed] = by_name["publish fixer"], by_name["process fixer"]
    assert len(spans) == 10
    assert (request.kind, request.parent_id) == ("server", SPAN)
    assert request.attributes["http.response.status_code"] == answer.status_code
    chain = [(sent, request), (triaged, sent), (found, triaged), (first, found), (second, found),
             (asking, second), (answering, asking), (done, second), (closed, done)]  # fmt: skip
    for below, above in chain:
        assert below.parent_id == above.span_id, (below.name, above.name)
    assert (asking.kind, answering.kind) == ("client", "server")
    assert all(span.kind == "producer" for span in (sent, found, done))
    for process, cause in ((triaged, sent), (first, found), (second, found), (closed, done)):
        assert process.kind == "consumer"
        assert process.links == ((TRACE, cause.span_id),)
        assert process.attributes["messaging.system"] == system
        assert process.attributes["messaging.message.id"] == cause.attributes["messaging.message.id"]
    assert (first.attributes["plugbus.outcome"], second.attributes["plugbus.attempt"]) == ("retry", 2)
    assert not any(span.is_error for span in spans)
    names = {span.resource["service.name"] for span in spans}
    assert names == ({"all"} if system == "inmemory" else {"front", "back"})

    records = until(lambda: (told := kernels[0].ask(f"/admin/traces/{TRACE}")).is_success and told.json())
    steps = [step for record in records for step in record["steps"]]
    assert {step["span_id"] for step in steps} == {span.span_id for span in spans}
    event_id = sent.attributes["messaging.message.id"]
    shown = kernels[-1].command("trace", "show", event_id)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(f"trace {TRACE}")
    assert sum(" ms  " in line for line in lines) == 10
    assert any(
        "process triage triage.found fixer.fix" in line and "retry: ConnectionError" in line for line in lines
    )


def test_what_is_not_known_or_not_sampled_is_said(kernels: list[Kernel], receiver: Receiver) -> None:
    kernel = kernels[0]
    assert kernel.post({"traceparent": f"00-{TRACE}-{SPAN}-00"}).is_success
    answer = kernel.ask(f"/admin/traces/{TRACE}")
    assert answer.status_code == 404
    assert answer.json()["type"] == "/problems/trace-not-found"
    shown = kernel.command("trace", "show", "nobody-knows")
    assert shown.returncode != 0
    assert "not sampled" in shown.stderr
