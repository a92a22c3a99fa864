"""What plugins answer to a request before it is routed."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from contracts.web import RequestChain, RequestInfo, ResponseInfo

Scope = MutableMapping[str, Any]

_FOR_OPERATORS = ("/admin", "/livez", "/readyz", "/metrics")
"""No plugin locks the operator out, or reads the operator's token."""
_TOKEN = frozenset({b"authorization"})
_LOGIN = frozenset({b"authorization", b"cookie"})


async def answered_first(requests: RequestChain, path: str, scope: Scope, send: Any) -> bool:
    """Whether a plugin has answered; `path` is that below the root path."""
    if scope["type"] == "lifespan" or f"{path}/".startswith(tuple(f"{own}/" for own in _FOR_OPERATORS)):
        return False
    # The token of whoever publishes is not for plugins; theirs is.
    hidden = frozenset() if path.startswith("/plugins/") else _TOKEN
    return await _is_answered(requests, request_info(path, scope, hidden), scope, send)


async def answered_for_application(requests: RequestChain, path: str, scope: Scope, send: Any) -> bool:
    """The same for a route of the application around it, whose users log in there and not at plugins."""
    return bool(requests) and await _is_answered(requests, request_info(path, scope, _LOGIN), scope, send)


async def _is_answered(requests: RequestChain, request: RequestInfo, scope: Scope, send: Any) -> bool:
    answer = await requests.first_answer(request)
    if answer is None:
        return False
    if scope["type"] == "http":
        await _send(answer, scope["method"], send)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
    return True


def request_info(path: str, scope: Scope, hidden: frozenset[bytes]) -> RequestInfo:
    """The request as data, without the `hidden` headers."""
    client = scope.get("client")
    return RequestInfo(
        method=scope.get("method", "GET"),
        path=path,
        query=scope.get("query_string", b"").decode("latin-1"),
        headers=tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name not in hidden
        ),
        client=client[0] if client else "",
    )


async def _send(answer: ResponseInfo, method: str, send: Any) -> None:
    body = answer.body.encode()
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    given = {name for name, _ in headers}
    headers = [pair for pair in headers if pair[0] not in (b"content-length", b"transfer-encoding")]
    if answer.status in (204, 205, 304):  # RFC 9110: they have no content
        body = b""
    if answer.status not in (204, 304):
        headers.append((b"content-length", str(len(body)).encode()))
        if b"content-type" not in given:
            headers.append((b"content-type", b"text/plain; charset=utf-8"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
