"""What the checks of `deploy/` share: the files, read as Compose and a builder read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TOKEN = {"PLUGBUS_TOKEN": "a-token"}

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}|(?P<wrong>.?))"
)


class Missing(Exception):
    """A variable that must be set is not; the text is what Compose prints."""


class Variable(NamedTuple):
    """One `${NAME…}` of compose.yaml."""

    name: str
    default: str


def variables() -> Iterator[Variable]:
    """Each variable that compose.yaml reads, with its default."""
    for found in _VARIABLE.finditer((DEPLOY / "compose.yaml").read_text(encoding="utf-8")):
        if found["name"]:
            yield Variable(found["name"], found["rest"] if found["kind"] == "-" else "")


def interpolated(value: Any, environ: Mapping[str, str]) -> Any:
    """`value` with its variables filled in as Compose does it; keys of mappings are left alone."""
    if isinstance(value, dict):
        return {key: interpolated(item, environ) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, environ) for item in value]
    return _VARIABLE.sub(lambda found: _filled(found, environ), value) if isinstance(value, str) else value


def _filled(found: re.Match[str], environ: Mapping[str, str]) -> str:
    if found["escaped"]:
        return "$"
    if not found["name"]:
        raise ValueError(f"not a variable that these checks can read: {found[0]!r}")
    if value := environ.get(found["name"], ""):
        return value
    if found["kind"] == "?":
        raise Missing(f"required variable {found['name']} is missing a value: {found['rest']}")
    return found["rest"] or ""


def compose(environ: Mapping[str, str] = TOKEN) -> dict[str, Any]:
    """compose.yaml as Compose understands it with these variables."""
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    read: dict[str, Any] = interpolated(yaml.safe_load(text), environ)
    return read


def service(name: str, environ: Mapping[str, str] = TOKEN) -> dict[str, Any]:
    found: dict[str, Any] = compose(environ)["services"][name]
    return found


def seconds(text: str) -> int:
    """A duration that is written in seconds, as ours all are."""
    return int(text.removesuffix("s"))


def options(words: list[str]) -> dict[str, str]:
    """`--name value` pairs."""
    return {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}


class Instruction(NamedTuple):
    """One line of the Dockerfile, continuation lines joined."""

    word: str
    rest: str

    @property
    def words(self) -> list[str]:
        """Its arguments; those of the exec form are what the array says."""
        return json.loads(self.rest) if self.rest.startswith("[") else self.rest.split()


def stages() -> list[list[Instruction]]:
    """The Dockerfile's stages, each beginning with its FROM; what precedes the first comes first."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: list[list[Instruction]] = [[]]
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            if word == "FROM":
                found.append([])
            found[-1].append(Instruction(word, rest.strip()))
    return found


def final(word: str) -> Instruction:
    """The one instruction of that name in the last stage."""
    [found] = [instruction for instruction in stages()[-1] if instruction.word == word]
    return found


def image_environment() -> dict[str, str]:
    """The variables that every container of the image has."""
    return dict(re.findall(r"(\w+)=(\S+)", final("ENV").rest))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that no settings file of this machine is found."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def specification() -> Draft202012Validator:
    """The Compose Specification."""
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)
