"""The client of the admin API: finds the kernel, asks it, and turns refusals into what, at and fix."""

import functools
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, Self
from urllib.parse import quote, urlsplit

import typer

from .errors import CommandError, ExitCode
from .output import clean
from .sse import ServerEvent, parse

if TYPE_CHECKING:
    import httpx

P = ParamSpec("P")

TIMEOUT = 30.0
"""Seconds to wait for an answer, where the command does not say."""
STREAM_TIMEOUT = 60.0
"""Seconds without a sign of life (the gateway sends one every few) after which a stream counts as lost."""
_UNKNOWN_HERE_FIX = "give --token or PLUGBUS_TOKEN, or be the user who started the kernel"
_SHOWN = 8
"""Things that are wrong with one request, of which each has a line."""
_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")

CONNECTION: dict[str, Any] = {
    "url": Annotated[str | None, typer.Option("--url", envvar="PLUGBUS_URL", help="Which kernel to ask.")],
    "token": Annotated[str | None, typer.Option("--token", envvar="PLUGBUS_TOKEN", help="Its bearer token.")],
    "state_dir": Annotated[
        Path | None, typer.Option("--state-dir", help="The state folder of the kernel on this machine.")
    ],
    "config": Annotated[Path | None, typer.Option("--config", help="The kernel's plugbus.toml.")],
}
"""Options that every client command has."""


def with_client(command: Callable[Concatenate["Client", P], None]) -> Callable[..., None]:
    """Hand `command` a client, and give it the options that say which kernel to ask."""
    own = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        where = Where(**{name: given.pop(name) for name in CONNECTION})
        with Client(where) as client:
            command(client, **given)  # type: ignore[call-arg]  # the parameters of `command`, by name

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in CONNECTION.items()
    ]
    parameters = [*list(own.parameters.values())[1:], *options]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@dataclass(frozen=True)
class Where:
    """What the operator said about the kernel to ask."""

    url: str | None = None
    token: str | None = None
    state_dir: Path | None = None
    config: Path | None = None

    def find(self) -> tuple[str, str]:
        """URL and token: as given, else from the settings and the state folder."""
        if self.url and self.token:
            return self.url.rstrip("/"), self.token
        from ..settings import load_settings
        from ..state import StateFolder

        overrides = {"state_dir": self.state_dir} if self.state_dir else {}
        settings = load_settings(file=self.config, overrides=overrides)
        folder = StateFolder.locate(settings.state_dir, settings.file)
        try:
            url = (self.url or _running(folder)).rstrip("/")
            configured = None if self.token else settings.configured_token()
            return url, self.token or (
                configured.get_secret_value() if configured else _stored_token(folder, url)
            )
        except PermissionError as error:
            raise _refused(f"the state folder cannot be read: {error.strerror}", str(folder.path)) from None


def _running(folder: Any) -> str:
    if folder.holder() is None:
        raise _no_kernel("no kernel is running here", str(folder.path))
    endpoint = folder.endpoint()
    if endpoint is None:
        why = "the kernel does not listen yet (perhaps it waits for its bus), or has no gateway"
        raise _no_kernel(why, str(folder.path))
    return str(endpoint.url)


def _stored_token(folder: Any, url: str) -> str:
    stored = folder.stored_token()
    if stored is None or urlsplit(url).hostname not in _THIS_MACHINE:
        raise _refused("no token for that kernel is known", url)
    return str(stored)


def _no_kernel(message: str, where: str) -> CommandError:
    return CommandError(
        "no-kernel",
        message,
        where=where,
        fix="plugbus run, or name another kernel with --url and --token",
        exit_code=ExitCode.UNREACHABLE,
    )


def _refused(message: str, where: str) -> CommandError:
    return CommandError(
        "no-token",
        message,
        where=where,
        fix=_UNKNOWN_HERE_FIX,
        exit_code=ExitCode.REFUSED,
    )


class Client:
    """Asks one kernel; connects at the first question. Raises `CommandError` for whatever goes wrong."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self._connected: httpx.Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()

    def forget(self) -> None:
        """Look for the kernel anew at the next question: it may have come back at another address."""
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def get(self, path: str, **parameters: Any) -> Any:
        """The JSON that `path` answers; parameters that are None are left out."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._ask("GET", path, params=given)

    def text(self, path: str) -> str:
        """The text that `path` answers, which is no JSON."""
        with self._errors() as http:
            answer = http.get(path)
        if not answer.is_success:
            raise _problem(answer)
        return answer.text

    def post(
        self,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        wait: float = TIMEOUT,
        **parameters: Any,
    ) -> Any:
        """The JSON that `path` answers to the JSON `body`; `wait`: seconds until the answer must be there."""
        return self._ask(
            "POST",
            path,
            params=parameters,
            content=None if body is None else json.dumps(body).encode(),
            headers={} if body is None else {"Content-Type": content_type},
            timeout=wait,
        )

    def patch(self, path: str, body: Any, *, headers: dict[str, str] | None = None, **parameters: Any) -> Any:
        """The JSON that `path` answers to a JSON `body` that is merged into what is there."""
        return self._write("PATCH", "application/merge-patch+json", path, body, headers, parameters)

    def put(self, path: str, body: Any, *, headers: dict[str, str] | None = None, **parameters: Any) -> Any:
        """The JSON that `path` answers to a JSON `body` that takes the place of what is there."""
        return self._write("PUT", "application/json", path, body, headers, parameters)

    def _write(
        self,
        method: str,
        content_type: str,
        path: str,
        body: Any,
        headers: dict[str, str] | None,
        parameters: dict[str, Any],
    ) -> Any:
        return self._ask(
            method,
            path,
            params=parameters,
            content=json.dumps(body).encode(),
            headers={"Content-Type": content_type, **(headers or {})},
        )

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        with self._errors() as http:
            answer = http.request(method, path, **request)
        if not answer.is_success:
            raise _problem(answer)
        try:
            return answer.json()
        except ValueError:
            raise _stranger(answer) from None

    @contextmanager
    def stream(
        self, path: str, *, last_id: str | None = None, **parameters: Any
    ) -> Iterator[Iterator[ServerEvent]]:
        """The server-sent events of `path`, until the kernel ends the stream; entered once it is open."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        with (
            self._errors() as http,
            http.stream("GET", path, params=parameters, headers=headers, timeout=STREAM_TIMEOUT) as answer,
        ):
            if not answer.is_success:
                answer.read()
                raise _problem(answer)
            yield parse(answer.iter_bytes())

    @contextmanager
    def _errors(self) -> "Iterator[httpx.Client]":
        import httpx

        try:
            yield self._http()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            url = str(self._connected.base_url) if self._connected else ""
            raise _no_kernel(f"cannot reach the kernel: {error or type(error).__name__}", url) from None

    def _http(self) -> "httpx.Client":
        import ssl

        import httpx

        if self._connected is None:
            url, token = self.where.find()
            # No environment: a proxy or a .netrc meant for other sites must not see or replace the token.
            self._connected = httpx.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {token}"},
                timeout=TIMEOUT,
                trust_env=False,
                verify=ssl.create_default_context(),
            )
        return self._connected


def word(text: str) -> str:
    """`text` as one word of a path."""
    return quote(text, safe="")


def _problem(answer: "httpx.Response") -> CommandError:
    """A problem document (RFC 9457) as what, at and fix."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return _stranger(answer)
    title = document.get("title") or answer.reason_phrase
    errors = document.get("errors") or []
    code = clean(
        document.get("code")
        or str(document.get("type", "")).rpartition("/")[2].rpartition(":")[2]
        or "failed"
    )
    return CommandError(
        code,
        clean(document.get("detail") or title),
        where=clean(document.get("where") or f"{answer.request.method} {answer.request.url.path}"),
        fix=_UNKNOWN_HERE_FIX if answer.status_code == 401 else clean(document.get("fix") or ""),
        more=[clean(_detail(error)) for error in errors[:_SHOWN]],
        exit_code=_exit_code(answer.status_code, code),
    )


def _detail(error: Any) -> str:
    if not isinstance(error, dict):
        return str(error)
    place = error.get("pointer") or error.get("in") or ""
    text = str(error.get("detail", error)) + (f" ({error['fix']})" if error.get("fix") else "")
    return f"{place}: {text}" if place else text


def _exit_code(status: int, code: str) -> ExitCode:
    if status in (401, 403):
        return ExitCode.REFUSED
    if code in ("invalid-option", "invalid-pattern"):  # a word of the command line
        return ExitCode.USAGE
    if code == "configuration-refused":
        return ExitCode.CONFIG
    return ExitCode.NOT_FOUND if status == 404 else ExitCode.FAILED


def _stranger(answer: "httpx.Response") -> CommandError:
    return CommandError(
        "not-plugbus",
        f"what answers there ({answer.status_code}) does not speak like a Plugbus kernel",
        where=str(answer.request.url),
        fix="check --url and PLUGBUS_URL",
        exit_code=ExitCode.REFUSED if answer.status_code in (401, 403) else ExitCode.UNREACHABLE,
    )
