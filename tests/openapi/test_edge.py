"""The HTTP edge of a real kernel against its own OpenAPI document and RFC 9457; see README.md."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from edge import Edge, judged, kernel
from problem import judge


def test_the_edge_keeps_its_document_and_refuses_with_problems(
    tmp_path: Path, thoroughness: list[str]
) -> None:
    """Every operation, in every phase: no answer that the document does not know, no refusal that is no
    problem document."""
    with kernel(tmp_path) as edge:
        give_up_some(edge)
        report, text = judged(edge.url, edge.token, tmp_path, *thoroughness)
    print(text)
    assert (report["failures"], report["errors"], report["filtered"]) == ([], [], 0), text
    assert report["stop_reason"] == "completed"
    assert {name: phase["status"] for name, phase in report["phases"].items()} == dict.fromkeys(
        ("examples", "coverage", "fuzzing", "stateful"), "success"
    )
    assert report["operations"]["tested"] == report["operations"]["total"] >= 28


def give_up_some(edge: Edge) -> None:
    """Dead letters, so that there are ids to ask for."""
    with edge.client() as client:
        for number in range(20):
            time = "2026-01-02T03:04:05Z"
            event = {"id": str(number), "source": "/shop", "type": "github.push", "time": time}
            letter = {
                "id": f"given-up-{number}", "group": "alerts.watch", "plugin_id": "alerts", "generation": 1,
                "reason": "attempts", "attempts": 3, "first_at": time, "last_at": time, "envelope": event,
            }  # fmt: skip
            found = client.post("/admin/dead-letters/import", json={"letters": [letter]})
            assert found.json() == {"count": 1}, found.text


def refusal(answer: httpx.Response) -> int:
    judge(answer.status_code, answer.headers, answer.content, method=answer.request.method)
    return answer.status_code


def test_what_ends_the_run_is_refused_with_problems_too(tmp_path: Path) -> None:
    """Stopping the gateway without a token, by another method or name, or at all; the route of a stopped
    plugin."""
    with kernel(tmp_path) as edge, edge.client() as client:
        stop = "/admin/plugins/gateway/stop"
        assert refusal(client.post(stop, headers={"Authorization": "Bearer wrong"})) == 401
        assert refusal(client.post(stop, headers={"Authorization": "Basic wrong"})) == 401
        assert refusal(client.get(stop)) == 405
        assert refusal(client.post("/admin/plugins/gatewy/stop")) == 404
        assert client.post("/admin/plugins/webhooks/stop").json()["outcome"] == "done"
        assert refusal(client.post("/plugins/webhooks/github", json={})) == 503
        assert refusal(client.post(stop)) == 409


# --- that a refusal of another form is found ------------------------------------------------------------


@contextmanager
def another_server() -> Iterator[str]:
    """Describes one operation, and refuses it as FastAPI does by default."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = {
                "openapi": "3.1.0",
                "info": {"title": "another", "version": "1"},
                "paths": {"/thing": {"get": {"responses": {"default": {"description": "Anything."}}}}},
            }
            known = self.path == "/openapi.json"
            body = json.dumps(document if known else {"detail": "Not Found"}).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_refusal_of_another_form_is_found(tmp_path: Path) -> None:
    """The check is run by schemathesis, and tells what it has found."""
    with another_server() as url:
        report, text = judged(url, "", tmp_path, "--generation-deterministic", "--phases", "fuzzing")
    assert "refusal_is_a_problem_document" in json.dumps(report["failures"]), text


PROBLEM = {"type": "/problems/x", "title": "X", "status": 404, "detail": "no x", "instance": "/x"}
TYPE = {"content-type": "application/problem+json"}


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (404, {"content-type": "application/json"}, PROBLEM),
        (404, {}, PROBLEM),
        (404, TYPE, {"detail": "Not Found"}),
        (404, TYPE, [PROBLEM]),
        (400, TYPE, PROBLEM),
        (404, TYPE, {**PROBLEM, "status": "404"}),
        (404, TYPE, {**PROBLEM, "type": "/problems/a b"}),
        (404, TYPE, {**PROBLEM, "instance": "//[x"}),
        (404, TYPE, {**PROBLEM, "instance": "/%zz"}),
        (404, TYPE, {**PROBLEM, "detail": {"why": "no x"}}),
        (401, TYPE, {**PROBLEM, "status": 401}),
        (405, TYPE, {**PROBLEM, "status": 405}),
        (307, {}, None),
    ],
)
def test_what_is_no_problem_document_is_told_apart(status: int, headers: dict[str, str], body: Any) -> None:
    """Another media type, status, form or URI reference; 401 without a challenge, 405 without Allow, a
    redirect to nowhere."""
    judge(404, TYPE, json.dumps(PROBLEM).encode())
    with pytest.raises(AssertionError):
        judge(status, headers, b"" if body is None else json.dumps(body).encode())
