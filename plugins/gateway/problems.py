"""Errors as RFC 9457 problem documents: one exception to raise, one mapping of everybody else's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from http.client import responses as phrases
from typing import Any
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from pydantic import JsonValue
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from contracts import errors
from contracts.errors import PlugbusError, ProviderFailed

MEDIA_TYPE = "application/problem+json"

# By the name of the class: what a provider raised is known by its names alone. The order of a class's
# names (itself, then its bases) decides, so a base stands for all that derive from it.
_STATUS: Mapping[str, int] = {
    "PermissionDeniedError": 403,
    "PluginNotFound": 404,
    "DeadLetterNotFound": 404,
    "GroupNotFound": 404,
    "EventTypeNotFound": 404,
    "NoProvider": 404,
    "PluginBusy": 409,
    "PluginStateError": 409,
    "DependencyError": 409,
    "GroupConflict": 409,
    "StateChanged": 412,
    "PayloadTooLarge": 413,
    "InvalidEvent": 422,
    "InvalidPattern": 422,
    "InvalidOption": 422,
    "ValidationError": 422,
    "ProviderFailed": 502,
    "CallRefused": 502,
    "BusFull": 503,
    "BusClosed": 503,
    "ProviderLost": 503,
    "PluginNotReady": 503,
    "PluginActivationFailed": 503,
    "CallTimeout": 504,
    "PublishUnknown": 504,
}
_RETRY_AFTER = {"Retry-After": "1"}
_WITHOUT_BODY = (204, 304)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


class Problem(Exception):
    """An answer that is an error.

    `code` names the kind and never changes; `where` is a place that only those who operate are told;
    `extensions` are added as members of the document.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        fix: str = "",
        where: str = "",
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.fix = fix
        self.where = where
        self.headers = {
            **(_RETRY_AFTER if status == HTTPStatus.SERVICE_UNAVAILABLE else {}),
            **(headers or {}),
        }
        self.extensions = dict(extensions or {})

    def document(self, instance: str, *, to_operator: bool = False) -> dict[str, Any]:
        """The members of RFC 9457, then ours. `instance` is a path as ASGI has it."""
        members = {
            "type": f"/problems/{self.code}",
            "title": self.code.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "instance": reference(instance),
        }
        ours = {"fix": self.fix, "where": self.where if to_operator else ""}
        return {**members, **{name: text for name, text in ours.items() if text}, **self.extensions}

    def response(self, instance: str, *, to_operator: bool = False) -> Response:
        if self.status in _WITHOUT_BODY:
            return Response(None, self.status, self.headers)
        document = self.document(instance, to_operator=to_operator)
        return JSONResponse(document, self.status, self.headers, MEDIA_TYPE)


def reference(path: str) -> str:
    """A decoded path as the URI reference (RFC 3986) that leads to it."""
    if not path.startswith("/"):  # `*`, or a whole URI as HTTP proxies get it: its colon is no scheme here
        return quote(path, safe="/!$&'()*+,;=@~", errors="replace")
    dot = "/." if path.startswith("//") else ""  # else its first part would be a host
    return dot + quote(path, safe="/!$&'()*+,;=:@~", errors="replace")


def problem_of(error: Exception) -> Problem:
    """The problem that `error` is; what nobody foresaw is a 500 that tells nothing of the inside."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, ProviderFailed):
        return _of_provider(error)
    if isinstance(error, PlugbusError):
        return _of_plugbus(error)
    return Problem(500, "internal-error", "the server failed while it answered; its log says why")


def _of_http(error: HTTPException) -> Problem:
    phrase = phrases.get(error.status_code, f"Status {error.status_code}")
    code = phrase.lower().replace(" ", "-").replace("'", "")
    detail = error.detail if isinstance(error.detail, str) else phrase
    more = None if isinstance(error.detail, str) else {"errors": error.detail}
    return Problem(error.status_code, code, detail, headers=error.headers, extensions=more)


def _of_validation(error: RequestValidationError) -> Problem:
    found = list(invalid_fields(error.errors()))
    return Problem(422, "invalid-request", _first(found), extensions={"errors": found})


def _of_provider(error: ProviderFailed) -> Problem:
    info = error.info
    names = [name.rpartition(".")[2] for name in (info.type, *info.bases)]
    known = next((name for name in names if name in _STATUS), "ProviderFailed")
    status, code = _STATUS[known], _code(names[0], known)
    detail = error.message if code == ProviderFailed.code else info.message
    where = info.place if status == _STATUS["ProviderFailed"] else ""  # else it is a line of the kernel
    return Problem(status, code, detail, fix=info.fix or error.fix, where=where)


def _of_plugbus(error: PlugbusError) -> Problem:
    names = [base.__name__ for base in type(error).__mro__]
    status = next((_STATUS[name] for name in names if name in _STATUS), 500)
    listed: Sequence[str] = getattr(error, "errors", ())
    more = {"errors": [{"detail": text} for text in listed]} if listed else None
    return Problem(status, error.code, error.message, fix=error.fix, where=error.where, extensions=more)


def _code(*names: str) -> str:
    """The code of the first of `names` that is one of our errors."""
    for name in names:
        known = getattr(errors, name, None)
        if isinstance(known, type) and issubclass(known, PlugbusError):
            return known.code
    return "invalid-request"


def invalid_fields(found: Iterable[Any]) -> Iterable[dict[str, JsonValue]]:
    """Pydantic's errors as `errors` members: where (a JSON pointer) and what was expected."""
    for item in found:
        place, *path = [str(part) for part in item["loc"]] or ["body"]
        pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
        yield {"in": place, "pointer": pointer, "detail": item["msg"]}


def _first(found: Sequence[Mapping[str, JsonValue]]) -> str:
    if not found:
        return "the request does not fit"
    return f"{found[0]['in']} {found[0]['pointer'] or '(whole)'}: {found[0]['detail']}"


def install_problems(app: Starlette, *, to_operator: bool = False) -> None:
    """Have every error of `app` answered with a problem document, with places if operators ask."""

    async def answer(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        if problem.status == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = _allowed(app, request.scope, problem.headers.get("Allow", ""))
            problem.headers["Allow"] = ", ".join(sorted(allowed))
        return problem.response(request.scope["path"], to_operator=to_operator)

    for kind in (Problem, PlugbusError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, answer)


def _allowed(app: Starlette, scope: Scope, named: str) -> set[str]:
    """Every method that the address takes: the router has `named` those of the first route that fits it."""
    found = set(named.split(", ")) - {""}
    if isinstance(scope.get("endpoint"), StaticFiles):
        found |= {"GET", "HEAD"}
    routes = [route for route in app.router.routes if not isinstance(route, Mount)]  # they fit every method
    for method in _METHODS:
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes):
            found.add(method)
    return found


PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 300, "maximum": 599},
        "detail": {"type": "string"},
        "instance": {"type": "string", "format": "uri-reference"},
        "fix": {"type": "string"},
        "where": {"type": "string"},
        "errors": {"type": "array", "items": {}},
    },
}
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem document (RFC 9457).",
        "content": {MEDIA_TYPE: {"schema": PROBLEM_SCHEMA}},
    }
}
"""Documents the errors of a route, in place of the shape that FastAPI would describe."""
