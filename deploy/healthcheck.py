"""Whether the kernel in this container can take work: exit code 0 if so, 1 with the reason if not.

Asks `/readyz` at the address that the gateway wrote into the state folder, so it follows a changed
port. The token is sent along because the reasons are told to known tokens only; what is printed is
shown by `docker inspect`. Only the standard library is used: this runs every few seconds.
"""

import http.client
import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT = 5.0
"""Seconds for the answer; less than the health check's own, so that the reason gets out."""


def main() -> int:
    """Print the verdict, and return the exit code for it."""
    folder = Path(os.environ.get("PLUGBUS_STATE_DIR", "/var/lib/plugbus"))
    try:
        status, text = ask(read_url(folder), token(folder))
    except ValueError as error:  # its text may hold the token: a header with a line end is shown in it
        print(f"no answer: {type(error).__name__}")  # noqa: T201 - a command prints
        return 1
    except (OSError, KeyError, http.client.HTTPException) as error:
        print(f"no answer: {error!r}")  # noqa: T201
        return 1
    print(text)  # noqa: T201
    return 0 if status == http.HTTPStatus.OK else 1


def read_url(folder: Path) -> str:
    """Where the gateway listens, as it has said itself; missing until it does."""
    return str(json.loads((folder / "endpoint.json").read_text(encoding="utf-8"))["url"])


def token(folder: Path) -> str:
    """The configured token, else that of the configured file, else the one made at first start, else none."""
    file = Path(os.environ.get("PLUGBUS_TOKEN_FILE") or folder / "token")
    kept = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    return os.environ.get("PLUGBUS_TOKEN") or kept


def ask(url: str, bearer: str) -> tuple[int, str]:
    """Status and body of `/readyz`."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/readyz", headers={"Authorization": f"Bearer {bearer}"} if bearer else {})
        answer = connection.getresponse()
        return answer.status, answer.read(4_096).decode(errors="replace")
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
