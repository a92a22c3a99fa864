"""The flow of `test_flow.py`, seen by a backend that is not ours: `python tests/telemetry/see_in_mlflow.py`.

Makes an environment for mlflow (some 850 MB, kept in the folder that is named, or thrown away), starts its
server, two kernels on one Redis that export to it, posts a webhook, reads the trace back by mlflow's API, and
compares it with what the kernels keep: every span, its parent, its links. mlflow does not tell the kind of a
span, nor the resource of each. Ends with 1 where something differs.
"""

from __future__ import annotations

import argparse
import base64
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from fault_tools.servers import Server, free_port
from test_flow import SPAN, TRACE, Kernel

VERSION = "3.17.2"
PATIENCE = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--environment", type=Path, help="where mlflow is, or is to be installed")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        environment = chosen.environment or work / "mlflow"
        install(environment)
        with backend(environment, work) as url, Server() as server:
            headers = {"OTEL_EXPORTER_OTLP_HEADERS": "x-mlflow-experiment-id=0"}
            front = Kernel(work / "front", server.url, url, ["triage"], webhooks=True, more=headers)
            back = Kernel(work / "back", server.url, url, ["fixer", "pricer"], webhooks=False, more=headers)
            try:
                front.until_ready()
                back.until_ready()
                front.post({"traceparent": f"00-{TRACE}-{SPAN}-01"}).raise_for_status()
                return compared(kept(front), lambda: seen(url))
            finally:
                front.end()
                back.end()


def install(environment: Path) -> None:
    if not (environment / "bin" / "mlflow").exists():
        venv.create(environment, with_pip=True)
        command = [environment / "bin" / "pip", "install", "-q", f"mlflow=={VERSION}"]
        subprocess.run(command, check=True)  # noqa: S603 - as named above


@contextmanager
def backend(environment: Path, work: Path) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    store = [
        "--backend-store-uri",
        f"sqlite:///{work}/mlflow.db",
        "--default-artifact-root",
        str(work / "files"),
    ]
    command = [environment / "bin" / "mlflow", "server", "--port", str(port), "--workers", "1", *store]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with (work / "mlflow.log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603 - as named above
            command, cwd=work, env={**os.environ, **quiet}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            until(lambda: answers(f"{url}/health"), lambda: (work / "mlflow.log").read_text()[-2_000:])
            yield url
        finally:
            process.terminate()
            process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


def until(is_so: Any, why: Any = lambda: "") -> Any:
    end = time.monotonic() + PATIENCE
    while not (answer := is_so()):
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain\n{why()}")
        time.sleep(0.2)
    return answer


def kept(kernel: Kernel) -> dict[str, tuple[str, str]]:
    """Span → name and parent, as the kernels keep it, once the last handler has ended."""

    def whole() -> dict[str, tuple[str, str]]:
        answer = kernel.ask(f"/admin/traces/{TRACE}")
        steps = [step for record in answer.json() for step in record["steps"]] if answer.is_success else []
        is_whole = any(step["name"] == "process fixer" for step in steps)
        return {step["span_id"]: (step["name"], step["parent_id"]) for step in steps} if is_whole else {}

    found: dict[str, tuple[str, str]] = until(whole)
    return found


def seen(url: str) -> dict[str, tuple[str, str, list[str]]]:
    """The same and the links, as mlflow has it."""
    answer = httpx.get(
        f"{url}/api/3.0/mlflow/traces/get", params={"trace_id": f"tr-{TRACE}"}, trust_env=False
    )
    spans = answer.json()["trace"]["spans"] if answer.is_success else []
    return {
        _hex(span["span_id"]): (
            span["name"], _hex(span.get("parent_span_id", "")),
            [_hex(link["span_id"]) for link in span.get("links", [])],
        )
        for span in spans
    }  # fmt: skip


def _hex(id: str) -> str:
    """Ids come as hexadecimal digits, or as protobuf's JSON has bytes."""
    return id if len(id) in (0, 16) else base64.b64decode(id).hex()


def compared(ours: dict[str, tuple[str, str]], read: Any) -> int:
    until(lambda: len(read()) >= len(ours), lambda: f"mlflow has {read()}")
    theirs, wrong = read(), 0
    print(f"mlflow {VERSION}: {len(theirs)} spans of trace {TRACE}")
    for span_id, (name, parent) in ours.items():
        told = theirs.get(span_id, ("", "", []))
        is_linked = told[2] == [parent] if name.startswith("process") else not told[2]
        is_right = told[:2] == (name, parent) and is_linked
        wrong += not is_right
        print(f"{'ok' if is_right else 'DIFFERS'}  {name:32} parent {told[1]} links {told[2]}")
    return 1 if wrong or len(theirs) != len(ours) else 0


if __name__ == "__main__":
    sys.exit(main())
