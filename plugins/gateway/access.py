"""Who may ask, and how much of a body is read: what every route of ours stands behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal, TypeVar

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, JsonValue, ValidationError
from starlette.requests import ClientDisconnect, Request

from contracts.web import EdgeContext

from .json_text import parse_json
from .problems import Problem, invalid_fields

Right = Literal["read", "publish", "operate", "admin"]
M = TypeVar("M", bound=BaseModel)

_bearer = HTTPBearer(
    scheme_name="token",
    description="The token that was made at first start (in the state folder), or one that is configured.",
    auto_error=False,
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


class Access:
    """The rights of bearer tokens, as dependencies of routes."""

    def __init__(self, context: EdgeContext) -> None:
        self._context = context

    def holds(self, credentials: HTTPAuthorizationCredentials | None, right: Right) -> bool:
        return credentials is not None and right in self._context.rights(credentials.credentials)

    def needs(self, right: Right) -> Callable[[Credentials], Awaitable[None]]:
        """A dependency that answers 401 without a known token, and 403 where it lacks `right`."""

        async def check(credentials: Credentials = None) -> None:
            if credentials is None:
                raise _unknown("the request carries no bearer token", "Bearer")
            rights = self._context.rights(credentials.credentials)
            if not rights:
                raise _unknown("the bearer token is not known here", 'Bearer error="invalid_token"')
            if right not in rights:
                challenge = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{right}"'}
                raise Problem(403, "right-missing", f"the token lacks the right {right!r}", headers=challenge)

        return check


def _unknown(detail: str, challenge: str) -> Problem:
    return Problem(
        401,
        "token-required",
        detail,
        fix="send Authorization: Bearer <token>; the token was made at first start, in the state folder",
        headers={"WWW-Authenticate": challenge},
    )


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; 413 as soon as it is known to be longer than `limit` bytes.

    Routes read their bodies by themselves, after the token was checked: a stranger's body is never read.
    """
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:19]) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
    except ClientDisconnect:  # nobody hears the answer; but it is no failure of ours, to be logged as one
        raise Problem(400, "body-cut-short", "the body ended too early: send it again") from None
    return bytes(body)


async def read_object(request: Request, limit: int, *, may_be_empty: bool = False) -> dict[str, JsonValue]:
    """The body as a JSON object, no body as an empty one where it may be left out; 400 for anything else."""
    return _object(await read_body(request, limit), may_be_empty=may_be_empty)


def _object(body: bytes, *, may_be_empty: bool) -> dict[str, JsonValue]:
    value = {} if may_be_empty and not body else parse_json(body)
    if not isinstance(value, dict):
        raise Problem(400, "malformed-json", "the body is not a JSON object", fix="send an object, like {}")
    return value


async def read_model(request: Request, model: type[M], limit: int, *, may_be_empty: bool = False) -> M:
    """The body as a `model`; 422 with each field that does not fit.

    JSON has types of its own, so nothing is converted: `"7"` and `true` are no numbers.
    """
    body = await read_body(request, limit)
    _object(body, may_be_empty=may_be_empty)
    try:
        return model.model_validate_json(body or b"{}", strict=True)
    except ValidationError as error:
        found = list(invalid_fields({**each, "loc": ("body", *each["loc"])} for each in error.errors()))
        raise Problem(
            422,
            "invalid-request",
            f"{found[0]['pointer']}: {found[0]['detail']}",
            extensions={"errors": found},
        ) from None


def _too_large(limit: int) -> Problem:
    detail = f"the body is longer than {limit} bytes"
    return Problem(413, "payload-too-large", detail, extensions={"limit": limit})
