"""GitHub's webhooks as events: a plugin with a route of its own.

Point a webhook of GitHub (content type `application/json`) at `POST /plugins/webhooks/github`. What is
signed with the secret is published as `github.<event>`, the whole body in `payload`; the delivery's id
is the event's id, so what GitHub delivers twice is one event. The key is the repository's full name,
else the organization's login: what happens in one repository is handled in order.

The secret is the configuration `secret`. Where there is none, one is made and kept in the plugin's data
folder, and a log line says where.
"""

import hashlib
import hmac
import logging
import secrets
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Request
from pydantic import BaseModel, Field, JsonValue, create_model
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from plugbus import BasePlugin, Event, IWebPlugin, StaticMount

from .names import EVENT_NAMES

logger = logging.getLogger(__name__)


class GitHubEvent(Event):
    """What all of GitHub's webhooks have in common."""

    action: str | None = None
    """What happened to the subject, e.g. `opened`; many webhooks have none."""
    repository: str | None = None
    """Full name, `owner/name`."""
    organization: str | None = None
    """Login of the organization."""
    sender: str | None = None
    """Login of whoever did it."""
    payload: dict[str, JsonValue]
    """The whole body."""


def _event_class(name: str) -> type[GitHubEvent]:
    return create_model(
        "GitHub" + name.title().replace("_", ""),
        __base__=GitHubEvent,
        __module__=__name__,
        __doc__=f"GitHub sent the webhook `{name}`.",
        __cls_kwargs__={"type": f"github.{name}"},
    )


EVENTS: Mapping[str, type[GitHubEvent]] = {name: _event_class(name) for name in EVENT_NAMES}
"""Name in `X-GitHub-Event` → event class."""


class Settings(BaseModel, extra="forbid"):
    """The plugin's configuration."""

    secret: str = ""
    max_body_bytes: int = Field(gt=0)


class Accepted(BaseModel):
    """The delivery was taken."""

    id: str
    type: str
    duplicate: bool
    """It had been taken before, and is not published again."""


_OBJECT = {"application/json": {"schema": {"type": "object"}}}
_DESCRIBED = {"requestBody": {"required": True, "content": _OBJECT}}


class Webhooks(BasePlugin, IWebPlugin):
    """Takes in GitHub's webhooks and publishes each as a typed event."""

    secret: bytes
    max_body_bytes: int

    async def initialize(self) -> None:
        settings = self.read_config(Settings)
        self.max_body_bytes = settings.max_body_bytes
        self.secret = (settings.secret or own_secret(self.context.data_dir / "secret")).encode()

    async def get_api_router(self) -> APIRouter:
        router = APIRouter()
        router.post("/github", status_code=HTTPStatus.ACCEPTED, openapi_extra=_DESCRIBED)(self.receive)
        return router

    async def get_static_mounts(self) -> Sequence[StaticMount]:
        return ()

    async def receive(
        self,
        request: Request,
        x_github_event: Annotated[str, Header()] = "",
        x_github_delivery: Annotated[str, Header()] = "",
        x_hub_signature_256: Annotated[str, Header()] = "",
    ) -> Accepted:
        """Take one delivery of GitHub. What is refused is answered with a problem document."""
        body = await read_body(request, self.max_body_bytes)
        check_signature(self.secret, body, x_hub_signature_256)
        if not x_github_delivery:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "X-GitHub-Delivery is missing: send the id in it")
        event = make_event(x_github_event, body)
        key = event.repository or event.organization
        receipt = await self.context.publish(event, id=x_github_delivery, key=key)
        return Accepted(id=receipt.id, type=event.__event_type__, duplicate=receipt.duplicate)


def own_secret(file: Path) -> str:
    """The secret in `file`, readable by its owner only; made at the first start."""
    if file.exists() and (kept := file.read_text()):
        return kept
    made = secrets.token_hex(32)
    file.touch(mode=0o600)
    file.write_text(made)
    logger.warning("no secret is configured, so one was made: give GitHub what is in %s", file)
    return made


async def read_body(request: Request, limit: int) -> bytes:
    """The raw body; reading stops where it is larger than `limit` bytes."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "the body ended too early: deliver it again") from None
    return bytes(body)


def _too_large(limit: int) -> HTTPException:
    detail = f"the body is larger than {limit} bytes: no event may carry more than 1 MiB"
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def check_signature(secret: bytes, body: bytes, signature: str) -> None:
    """Refuse a body that is not signed with `secret`, in the same time wherever the signatures differ."""
    expected = "sha256=" + hmac.digest(secret, body, hashlib.sha256).hex()
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        detail = "X-Hub-Signature-256 does not fit the body: give GitHub the secret of this plugin"
        raise HTTPException(HTTPStatus.FORBIDDEN, detail)


def make_event(name: str, text: bytes) -> GitHubEvent:
    """The event `name` of a body."""
    if name not in EVENTS:
        detail = f"X-GitHub-Event is {name[:80]!r}, which is not known here: choose other events at GitHub"
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
    try:
        return _event_of(EVENTS[name], from_json(text, allow_inf_nan=False))
    except ValueError as error:
        detail = f"the body is no JSON object ({error}): choose the content type application/json at GitHub"
        raise HTTPException(HTTPStatus.BAD_REQUEST, detail) from None


def _event_of(model: type[GitHubEvent], payload: Any) -> GitHubEvent:
    if not isinstance(payload, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 - bad input, as all that is wrong with a body
    event = model(
        action=_text(payload, "action"),
        repository=_text(payload, "repository", "full_name"),
        organization=_text(payload, "organization", "login"),
        sender=_text(payload, "sender", "login"),
        payload=payload,
    )
    # What is nested too deep or is too large a number would reach no handler: it is refused here.
    if from_json(event.model_dump_json())["payload"] != payload:
        raise ValueError("a number is out of range")
    return event


def _text(value: Any, *path: str) -> str | None:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
