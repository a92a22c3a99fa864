"""What schemathesis loads: our check of every refusal, and how some calls are made."""

from __future__ import annotations

import hashlib
import hmac
import io
import os
from collections.abc import Callable
from typing import Any

import requests
import schemathesis
from problem import judge
from schemathesis import Case, CheckContext, HookContext, Response
from urllib3 import HTTPResponse

NEEDED = frozenset({"gateway", "webhooks"})
"""Must not be stopped in the middle: the edge itself, and the plugin whose route is called."""


@schemathesis.check
def refusal_is_a_problem_document(context: CheckContext, response: Response, case: Case) -> None:
    headers = {name.lower(): values[0] for name, values in response.headers.items()}
    judge(response.status_code, headers, response.content, method=str(response.request.method))


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Nothing is left out: what would end the run, or would never end, is called in another way."""
    if case.path == "/admin/plugins/{plugin_id}/stop" and case.path_parameters.get("plugin_id") in NEEDED:
        case.path_parameters["plugin_id"] = "alerts"
    if case.path == "/admin/capabilities/{name}" and case.path_parameters.get("name") == "kernel.plugin.stop":
        case.path_parameters["name"] = "kernel.plugin.show"  # a query of the same form
    if case.path == "/events/stream":
        kwargs["hooks"] = {"response": leave_a_stream}
    if case.path == "/plugins/webhooks/github":
        kwargs["auth"] = as_github(os.environ["PLUGBUS_WEBHOOKS_SECRET"])


def leave_a_stream(response: requests.Response, **_: Any) -> None:
    """Read the first piece of a stream, which has no end, and leave. Refusals are read whole."""
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        first = response.raw.read1(65_536)
        response.raw.close()
        response.raw = HTTPResponse(io.BytesIO(first), headers=response.raw.headers, preload_content=False)


def as_github(secret: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Adds what GitHub always sends where a case leaves it out; without a signature nothing else is read."""

    def signed(request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        raw = body.encode() if isinstance(body, str) else body
        digest = hmac.digest(secret.encode(), raw, hashlib.sha256)
        request.headers.setdefault("X-Hub-Signature-256", f"sha256={digest.hex()}")
        request.headers.setdefault("X-GitHub-Event", "push")
        request.headers.setdefault("X-GitHub-Delivery", "1")
        return request

    return signed
