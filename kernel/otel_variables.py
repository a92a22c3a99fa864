"""OpenTelemetry's own variables that would keep whoever imports it from being loaded: said, and left out.

It reads them when it is imported, and raises; the web framework imports it too. Its specification wants what
cannot be used to be passed over with a warning.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, MutableMapping
from importlib.metadata import entry_points

_PROPAGATORS = "OTEL_PROPAGATORS"
_LIMIT = re.compile(
    r"OTEL_(SPAN_|EVENT_|LINK_)?(ATTRIBUTE_COUNT|ATTRIBUTE_VALUE_LENGTH|EVENT_COUNT|LINK_COUNT)_LIMIT"
)


def leave_out_unusable(environ: MutableMapping[str, str], log: logging.Logger) -> None:
    """Take out of `environ` what cannot be used, so that the defaults hold; each is one line in the log."""
    for name, value in list(environ.items()):
        if _LIMIT.fullmatch(name) and not _is_limit(value.strip().lower()):
            del environ[name]
            log.warning("%s is %r and passed over; fix: a number from 0 on, or unset", name, value)
    given = environ.get(_PROPAGATORS, "")
    unusable = dict(_unusable(given))
    for propagator, why in unusable.items():
        log.warning(
            "%s names %r, which is passed over: %s; fix: install the package that has it, or leave it out",
            _PROPAGATORS, propagator, why,
        )  # fmt: skip
    if unusable:
        environ[_PROPAGATORS] = ",".join(
            name for name in given.split(",") if name.strip() and name.strip() not in unusable
        )


def _is_limit(value: str) -> bool:
    return value in ("", "unset") or (value.isascii() and value.isdigit())


def _unusable(given: str) -> Iterator[tuple[str, str]]:
    """Propagators that are not to be had, and why; what is behind `none` is not looked at by anybody."""
    for name in filter(None, map(str.strip, given.split(","))):
        if name.lower() == "none":
            return
        found = next(iter(entry_points(group="opentelemetry_propagator", name=name)), None)
        if found is None:
            yield name, "nothing that is installed has it"
            continue
        try:
            found.load()()
        except Exception as error:  # noqa: BLE001 - whatever it raises, it would raise it later as well
            yield name, f"it cannot be loaded: {error}"
