"""Folders of files, with the refusals of the gateway."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

_OF_RANGES = {
    400: "the header Range cannot be read: bytes=0-499 are the first 500",
    416: "the file ends before the range begins",
}


class Files(StaticFiles):
    """A folder that refuses a range as it does everything else, by an error that becomes a problem document.

    Starlette answers these two by itself, as plain text. A page of the folder's own (`404.html`) stays one.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def judged(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in _OF_RANGES:
                status = message["status"]
                raise HTTPException(status, _OF_RANGES[status], dict(_length(message["headers"])))
            await send(message)

        await super().__call__(scope, receive, judged)


def _length(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[str, str]]:
    """What a 416 says of the length of the file."""
    return [("Content-Range", value.decode()) for name, value in headers if name == b"content-range"]
