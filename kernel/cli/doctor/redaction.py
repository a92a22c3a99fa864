"""Taking secrets out of what leaves the machine: by their name, by their place, and by what they are."""

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from contracts.errors import PlugbusError

from ...configuration.layers import ConfigurationLayers
from ...configuration.live import LiveStore
from ...configuration.secrets import is_secret, leaves
from ...registry import PluginRegistry
from ...settings import Settings
from ...settings_problems import MASK, SECRET_WORD
from ...state import StateFolder
from .check import Check

_SHORTEST = 4
"""Of a secret that is looked for wherever it may stand; a shorter one is known by its key alone."""
_PASSWORD = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/:@\"']*:)[^\s/@\"']+(?=@)")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_PAIR = re.compile(
    r"(?i)([\w-]*(?:secret|token|password|passwd|api_?key|credential)[\w-]*[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&}]+"
)


class Redactor:
    """Masks what it knows to be secret, and what looks like it."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {form for secret in secrets for form in _forms(secret) if len(form) >= _SHORTEST}
        longest_first = sorted(known, key=lambda secret: (-len(secret), secret))
        self._known = re.compile("|".join(map(re.escape, longest_first))) if known else None

    def value(self, value: Any, path: tuple[str, ...] = ()) -> Any:
        """Data for a JSON file; below a key that is named like a secret nothing is shown."""
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(inner, (*path, str(key))) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner, path) for inner in value]
        if value is not None and not isinstance(value, bool) and _is_named_secret(path):
            return MASK
        return self.text(value) if isinstance(value, str) else self._number(value)

    def text(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(MASK, text)
        for pattern in (_PASSWORD, _PAIR):
            text = pattern.sub(rf"\1{MASK}", text)
        return _BEARER.sub(rf"\1 {MASK}", text)

    def check(self, check: Check) -> Check:
        text, fix = self.text(check.text), self.text(check.fix)
        return dataclasses.replace(check, text=text, fix=fix, details=self.value(check.details))

    def _number(self, value: Any) -> Any:
        return MASK if self._known is not None and self._known.fullmatch(str(value)) else value


def redactor_for(settings: Settings | None, registry: PluginRegistry | None) -> Redactor:
    if settings is None or registry is None:  # settings that cannot be read: nothing of them is told
        return Redactor(secrets_of_environment())
    return Redactor(known_secrets(settings, registry))


def _is_named_secret(path: tuple[str, ...]) -> bool:
    return any(SECRET_WORD.search(word) for word in path)


def _forms(secret: str) -> set[str]:
    """As it is, and as it stands in JSON, in a URL, or on lines of its own."""
    import json
    from urllib.parse import quote

    lines = {line.strip() for line in secret.splitlines()}
    forms = {secret, secret.strip(), *lines}
    return forms | {json.dumps(form)[1:-1] for form in forms} | {quote(form, safe="") for form in forms}


def known_secrets(settings: Settings, registry: PluginRegistry) -> Iterator[str]:
    """Everything that this installation is known to keep secret."""
    yield from secrets_of_environment()
    yield from _of_settings(settings)
    folder = StateFolder.locate(settings.state_dir, settings.file)
    layers = ConfigurationLayers(settings, LiveStore(folder.path))
    for record in registry:
        schema = record.metadata.configuration_schema
        try:
            config = layers.effective(record)
        except (PlugbusError, OSError):
            config = {}
        given = [record.metadata.default_configuration, config]
        for path, value in (leaf for table in given for leaf in leaves(table)):
            yield from _of_value(value, hidden=is_secret(path, schema))
        for path in settings.value_files(record.plugin_id, record.metadata.default_configuration):
            found: Any = config
            for word in path:
                found = found.get(word) if isinstance(found, Mapping) else None
            yield from _of_value(found, hidden=True)
    try:
        stored = folder.stored_token()
    except OSError:
        stored = None
    if stored:
        yield stored


def secrets_of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        yield from _of_value(value, hidden=SECRET_WORD.search(name) is not None)


def _of_settings(settings: Settings) -> Iterator[str]:
    try:
        token = settings.configured_token()
    except PlugbusError:
        token = settings.token
    if token is not None:
        yield token.get_secret_value()
    yield from _of_value(settings.bus.url, hidden=False)


def _of_value(value: Any, *, hidden: bool) -> Iterator[str]:
    """The value where it is hidden as a whole, else the passwords of URLs within it."""
    if isinstance(value, list):
        for inner in value:
            yield from _of_value(inner, hidden=hidden)
    elif hidden and value is not None and not isinstance(value, bool):
        yield str(value)
    if isinstance(value, str) and "://" in value:
        try:
            password = urlsplit(value).password
        except ValueError:
            password = None
        if password:
            yield from (password, unquote(password))
        yield from re.findall(r"[?&]password=([^&#\s]+)", value)
