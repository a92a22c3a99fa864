"""One flow, from the web request to the last handler, as the backend and `plugbus trace show` see it."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from conventions import not_in_force
from expected import Row, Same, rows_of
from fault_tools.servers import Server, free_port
from receiver import Exported, Receiver

from contracts.tracing import SCHEMA

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
        self.port, self.folder, self.name = free_port(), folder, folder.name
        self.broker = broker_of(bus)
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
            "OTEL_SERVICE_NAME": self.name, "PLUGBUS_REPLICA": f"{self.name}-1",
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


def end_all(kernels: list[Kernel]) -> None:
    """Then the receiver has got everything."""
    for kernel in kernels:
        kernel.end()


def broker_of(bus: str) -> dict[str, str | int]:
    """What spans say of where it listens."""
    parts = urlsplit(bus)
    if parts.scheme == "memory":
        return {}
    assert parts.hostname
    assert parts.port
    return {"server.address": parts.hostname, "server.port": parts.port}


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


def table_of(kernels: list[Kernel], system: str) -> dict[str, Row]:
    """The whole flow, a row for each span: its name, kind, what it is below, who makes it, what it says."""
    front, back = kernels[0].name, kernels[-1].name
    server = kernels[0].broker

    def event(type: str, id: str | Same, source: str) -> dict[str, Any]:
        return {
            "messaging.system": system, **server,
            "messaging.destination.name": type.partition(".")[0],
            "messaging.destination.partition.id": Same(r"\d+"),
            "messaging.message.id": id,
            "messaging.message.conversation_id": "delivery-1",
            "cloudevents.event_type": type, "cloudevents.event_source": source, "cloudevents.event_id": id,
        }  # fmt: skip

    run = event("github.workflow_run", "delivery-1", "/plugins/webhooks")
    found = event("triage.found", Same("[0-9a-f]{32}"), "/plugins/triage")
    done = event("fixer.done", Same("[0-9a-f]{32}"), "/plugins/fixer")

    def publish(on: str) -> dict[str, Any]:
        return {
            "messaging.operation.name": "publish", "messaging.operation.type": "send",
            "messaging.client.id": f"{on}-1",
        }  # fmt: skip

    def process(on: str, group: str) -> dict[str, Any]:
        return {
            "messaging.operation.name": "process", "messaging.operation.type": "process",
            "messaging.client.id": f"{on}-1", "messaging.consumer.group.name": group,
        }  # fmt: skip

    http = {
        "http.request.method": "POST", "http.route": "/plugins/webhooks/github",
        "http.response.status_code": 202, "url.path": "/plugins/webhooks/github", "url.scheme": "http",
        "server.address": "127.0.0.1", "server.port": kernels[0].port, "client.address": "127.0.0.1",
    }  # fmt: skip
    call = {"rpc.system.name": "plugbus", "rpc.method": "price.ask"}
    pricing = {**call, "plugbus.plugin.id": "pricer"}
    again, second = {"plugbus.outcome": "retry"}, {"plugbus.attempt": 2}
    raised = {
        "exception.type": "ConnectionError", "exception.message": "not now",
        "exception.stacktrace": Same("Traceback .*ConnectionError: not now\n"),
    }  # fmt: skip
    fix = {**found, **process(back, "fixer.fix")}
    return {
        "request": Row("POST /plugins/webhooks/github", "server", "caller", front, http),
        "run": Row("publish github", "producer", "request", front, {**run, **publish(front)}),
        "look": Row("process github", "consumer", "run", front,
                    {**run, **process(front, "triage.look")}, links=("run",)),
        "found": Row("publish triage", "producer", "look", front, {**found, **publish(front)}),
        "fix": Row("process triage", "consumer", "found", back,
                   {**fix, **again}, links=("found",), events=(("exception", raised),)),
        "fix 2": Row("process triage", "consumer", "found", back, {**fix, **second}, links=("found",)),
        "ask": Row("price.ask", "client", "fix 2", back, call),
        "price": Row("price.ask", "server", "ask", back, pricing),
        "done": Row("publish fixer", "producer", "fix 2", back, {**done, **publish(back)}),
        "close": Row("process fixer", "consumer", "done", back,
                     {**done, **process(back, "pricer.close")}, links=("done",)),
    }  # fmt: skip


def test_a_webhook_is_one_trace_through_plugins_retry_and_call(
    kernels: list[Kernel], receiver: Receiver, system: str
) -> None:
    """Every span says exactly what its row says and hangs where it says; nothing else is in the trace."""
    answer = kernels[0].post({"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"})
    assert answer.is_success, answer.text

    def whole() -> list[Exported]:
        return [span for span in receiver.spans if span.trace_id == TRACE]

    table = table_of(kernels, system)
    until(lambda: len(whole()) >= len(table))
    end_all(kernels)
    spans = whole()
    found = rows_of(spans, table, outside=SPAN)
    assert found.keys() == table.keys()
    for key, row in table.items():
        assert vars(found[key]) == vars(row), key
    assert {(span.scope, span.schema_url, span.state) for span in spans} == {("plugbus", SCHEMA, "vendor=1")}
    for kernel in kernels:
        resources = [span.resource for span in spans if span.resource["service.name"] == kernel.name]
        one = Same("[0-9a-f-]{36}")
        assert resources == [resource_of(kernel.name, one)] * len(resources)


def test_what_is_sent_speaks_the_words_of_the_conventions(kernels: list[Kernel], receiver: Receiver) -> None:
    """All of it, also what starting and stopping plugins says: nothing unknown, nothing given up."""
    assert kernels[0].post({}).is_success
    until(lambda: receiver.named("process fixer"))
    end_all(kernels)
    said = {name for span in receiver.spans for name in span.attributes}
    said |= {name for span in receiver.spans for _, attributes in span.events for name in attributes}
    said |= {name for span in receiver.spans for name in span.resource}
    assert not_in_force(said) == set()
    assert {"messaging.system", "rpc.method", "http.route", "exception.type", "service.name"} <= said


def test_each_kernel_counts_what_it_has_sent_and_handled(
    kernels: list[Kernel], receiver: Receiver, system: str
) -> None:
    """The same at `/metrics` and by OTLP, at the latest when it ends."""
    assert kernels[0].post({}).is_success
    until(lambda: receiver.named("process fixer"))
    scraped = {kernel.name: kernel.ask("/metrics").text for kernel in kernels}
    end_all(kernels)
    front, back = kernels[0].name, kernels[-1].name
    last = {export[0].resource["service.name"]: export for export in receiver.measured}
    handled = {
        (service, point.attributes["messaging.consumer.group.name"], point.attributes.get("error.type")):
        point.value
        for service, points in last.items()
        for point in points
        if point.name == "messaging.process.duration" and point.attributes["messaging.system"] == system
    }  # fmt: skip
    ours = {key: count for key, count in handled.items() if not key[1].startswith(("audit.", "gateway."))}
    assert ours == {
        (front, "triage.look", None): 1, (back, "fixer.fix", "ConnectionError"): 1,
        (back, "fixer.fix", None): 1, (back, "pricer.close", None): 1,
    }  # fmt: skip
    sent = {
        (service, point.attributes["messaging.destination.name"]): point.value
        for service, points in last.items()
        for point in points
        if point.name == "messaging.client.sent.messages"
    }
    assert {key: count for key, count in sent.items() if key[1] in ("github", "triage", "fixer")} == {
        (front, "github"): 1, (front, "triage"): 1, (back, "fixer"): 1,
    }  # fmt: skip
    group = 'messaging_consumer_group_name="fixer.fix"'
    assert f'plugbus_attempts_failed_total{{{group},plugbus_outcome="retry"}} 1' in scraped[back]
    for text in scraped.values():  # what holds for the bus as a whole, each of them tells
        assert f"plugbus_group_handled_total{{{group}}} 1" in text


@pytest.mark.parametrize(
    "name", ["messaging.operation", "messaging.destination", "messaging.kafka.consumer.group",
             "messaging.key", "messaging.message_id", "rpc.system", "http.status_code"],
)  # fmt: skip
def test_words_that_the_conventions_have_given_up_are_found(name: str) -> None:
    assert not_in_force([name, "messaging.system", "plugbus.attempt"]) == {name}


def test_the_command_shows_what_the_backend_got(
    kernels: list[Kernel], receiver: Receiver, system: str
) -> None:
    """From any kernel, by the trace or by an event in it."""
    assert kernels[0].post({"traceparent": f"00-{TRACE}-{SPAN}-01"}).is_success
    table = table_of(kernels, system)
    until(lambda: len([span for span in receiver.spans if span.trace_id == TRACE]) >= len(table))
    spans = [span for span in receiver.spans if span.trace_id == TRACE]
    records = until(lambda: (told := kernels[0].ask(f"/admin/traces/{TRACE}")).is_success and told.json())
    steps = [step for record in records for step in record["steps"]]
    assert {step["span_id"] for step in steps} == {span.span_id for span in spans}
    shown = kernels[-1].command("trace", "show", "delivery-1")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(f"trace {TRACE}")
    assert sum(" ms  " in line for line in lines) == len(table)
    assert any(
        "process triage triage.found fixer.fix" in line and "retry: ConnectionError" in line for line in lines
    )


def resource_of(service: str, instance: Same) -> dict[str, Any]:
    return {
        "service.name": service, "service.instance.id": instance, "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry", "telemetry.sdk.version": version("opentelemetry-sdk"),
    }  # fmt: skip


def test_what_is_not_known_or_not_sampled_is_said(kernels: list[Kernel], receiver: Receiver) -> None:
    kernel = kernels[0]
    assert kernel.post({"traceparent": f"00-{TRACE}-{SPAN}-00"}).is_success
    answer = kernel.ask(f"/admin/traces/{TRACE}")
    assert answer.status_code == 404
    assert answer.json()["type"] == "/problems/trace-not-found"
    shown = kernel.command("trace", "show", "nobody-knows")
    assert shown.returncode != 0
    assert "not sampled" in shown.stderr
