"""What the check sends, and what it asks: webhooks as GitHub sends them, and the trace of one of them.

    deliver FILE COUNT COMMAND URL...   post COUNT webhooks to the URLs in turn, and write the ids of those
                                        that were confirmed into FILE, after which they are called;
                                        halfway, run the shell COMMAND
    crossing FILE URL                   a webhook whose trace has spans of several replicas, and that trace
    spans URL COUNT                     how many spans a backend has at that address, once it has so many

TOKEN and SECRET come from the environment. Only the standard library is used: this runs on the machine, not
in the image.
"""

import hashlib
import hmac
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

BODIES = Path(__file__).resolve().parents[2] / "tests" / "data" / "github"
DEADLINE = 60.0
"""Seconds after which something that is waited for is a failure."""

T = TypeVar("T")


class WaitedInVainError(Exception):
    """Its text says for what."""


def main(command: str, *words: str) -> str:
    if command == "deliver":
        file, count, half_time, *urls = words
        return deliver(Path(file), int(count), half_time, urls)
    if command == "crossing":
        file, url = words
        ids = Path(file).read_text(encoding="utf-8").split()
        return until(lambda: crossing(ids, url), "a trace with spans of several replicas")
    url, least = words
    return str(until(lambda: spans(url, int(least)), f"{least} spans at {url}"))


def deliver(file: Path, count: int, half_time: str, urls: list[str]) -> str:
    """Each is repeated with its id, at the next address, until one confirms it."""
    bodies = sorted(BODIES.glob("*__*.json"))
    repeated = 0
    with file.open("w", encoding="utf-8") as confirmed:
        for number in range(count):
            if number == count // 2:
                subprocess.run(half_time, shell=True, check=True)  # noqa: S602 - what check.sh says
            tries = 0

            def is_confirmed(number: int = number) -> bool:
                nonlocal tries
                tries += 1
                return post(
                    urls[(number + tries) % len(urls)], f"{file.name}-{number}", bodies[number % len(bodies)]
                )

            until(is_confirmed, f"somebody to confirm webhook {number}")
            repeated += tries > 1
            confirmed.write(f"{file.name}-{number}\n")
    return f"{count} webhooks confirmed, {repeated} of them after a repetition"


def post(url: str, delivery: str, body: Path) -> bool:
    """Whether the webhook was taken; not, if nobody answers, or nobody can take it now."""
    content = body.read_bytes()
    signature = hmac.new(os.environ["SECRET"].encode(), content, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": body.name.partition("__")[0],
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": f"sha256={signature}",
    }
    try:
        status, text = ask("POST", f"{url}/plugins/webhooks/github", content, headers)
    except (OSError, http.client.HTTPException):
        return False
    if status < 500 and status != http.HTTPStatus.ACCEPTED:
        raise WaitedInVainError(f"a confirmation; the answer was {status}: {text[:300]}")
    return status == http.HTTPStatus.ACCEPTED


def crossing(ids: list[str], url: str) -> str:
    """The newest first: what a killed replica kept is gone."""
    for event_id in reversed(ids):
        status, text = ask("GET", f"{url}/admin/traces/{event_id}", None, _bearer())
        records = json.loads(text) if status == http.HTTPStatus.OK else []
        firsts = [record["steps"][0] for record in records if record["steps"]]
        if len(firsts) > 1:
            return f"{event_id} {firsts[0]['trace_id']}"
    return ""


def spans(url: str, least: int) -> int:
    status, text = ask("GET", url, None, {})
    found = text.count('"startTimeUnixNano"') if status == http.HTTPStatus.OK else 0
    return found if found >= least else 0


def ask(method: str, url: str, content: bytes | None, headers: dict[str, str]) -> tuple[int, str]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        connection.request(method, address.path, content, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def _bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {os.environ['TOKEN']}"}


def until(found: Callable[[], T], what: str) -> T:
    """What `found` returns, as soon as it is something."""
    end = time.monotonic() + DEADLINE
    while not (answer := found()):
        if time.monotonic() > end:
            raise WaitedInVainError(what)
        time.sleep(0.1)
    return answer


if __name__ == "__main__":
    try:
        print(main(*sys.argv[1:]))  # noqa: T201 - a command prints
    except WaitedInVainError as error:
        sys.exit(f"waited in vain for {error}")
