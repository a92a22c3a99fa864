"""Stands in for Jaeger where its image cannot be had: takes spans by OTLP over HTTP, and gives them back.

Three ports, as Jaeger: 4318 takes, 16686 answers `/api/v3/traces/{id}`, 13133 says that it is there. It shows
that kernels reach what is called `jaeger`, and nothing about Jaeger.
"""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

kept: dict[str, list[dict[str, Any]]] = {}
"""Spans by the id of their trace."""


class Handler(BaseHTTPRequestHandler):
    """All that is answered, whatever the port."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        plain = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        for resource in ExportTraceServiceRequest.FromString(plain).resource_spans:
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                kept.setdefault(span.trace_id.hex(), []).append(MessageToDict(span))
        self._answer(200, b"")

    def do_GET(self) -> None:
        if self.path.startswith("/api/v3/traces/"):
            spans = kept.get(self.path.rpartition("/")[2])
            self._answer(200 if spans else 404, json.dumps(spans).encode())
        else:
            self._answer(200, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the check reads no log of it."""


if __name__ == "__main__":
    servers = [ThreadingHTTPServer(("", port), Handler) for port in (4318, 13133, 16686)]
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()
