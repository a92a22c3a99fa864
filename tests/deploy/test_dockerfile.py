"""The Dockerfile: stages, user, sources, entry point."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatch
from typing import Any

from packaging.specifiers import SpecifierSet

from kernel.cli import execute

from .conftest import DEPLOY, ROOT, final, image_environment, service, stages

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def copied() -> list[str]:
    """What is copied from the build context, stage by stage."""
    return [
        source.removeprefix("./")
        for stage in stages()
        for instruction in stage
        if instruction.word == "COPY" and not instruction.rest.startswith("--from")
        for source in instruction.words[:-1]
    ]


def ran(stage: int) -> str:
    return "\n".join(instruction.rest for instruction in stages()[stage] if instruction.word == "RUN")


def test_the_base_image_is_one_argument_for_all_stages() -> None:
    """Its default has a version, and a Python that the project allows."""
    [argument], *built = stages()
    name, _, default = argument.rest.partition("=")
    assert argument.word == "ARG"
    assert len(built) >= 2
    assert {stage[0].words[0] for stage in built} == {f"${{{name}}}"}
    assert default == service("kernel")["build"]["args"][name]
    version = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+", default)
    assert version is not None
    assert version[1] in SpecifierSet(PROJECT["project"]["requires-python"])


def test_the_last_stage_takes_the_environment_and_no_tools() -> None:
    """What built the wheel stays behind; nothing is installed afterwards."""
    taken = [i.words for i in stages()[-1] if i.word == "COPY" and i.rest.startswith("--from")]
    assert taken == [["--from=build", "/opt/plugbus", "/opt/plugbus"]]
    assert not re.search(r"\b(pip|apt-get|apk|curl|wget)\b", ran(-1))
    assert "--without-pip" in ran(1)


def test_the_wheel_is_built_from_all_that_it_contains() -> None:
    """Each source exists, and each that pyproject.toml puts into the wheel is copied."""
    assert [source for source in copied() if not (ROOT / source).exists()] == []
    included = {
        name.removeprefix("/") for name in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["include"]
    }
    needed = included | {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert needed <= set(copied())


def test_the_build_sees_its_sources_and_nothing_else() -> None:
    """What is ignored does not get into the context: no repository, no environment, no secret."""
    text = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    first, *rest = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert first == "*"
    allowed = [line[1:] for line in rest if line.startswith("!")]
    assert sorted(allowed) == sorted(copied())
    secret = ("deploy/.env", ".env", ".git/config", ".venv/bin/python", "tests/deploy/conftest.py")
    assert not [path for path in secret for pattern in allowed if fnmatch(path, f"{pattern}*")]


def test_the_installed_extras_exist() -> None:
    """pip would only warn of one that does not."""
    [extras] = re.findall(r"\.whl\)\[([\w,]+)\]", ran(1))
    assert set(extras.split(",")) == {"redis", "otlp"} <= PROJECT["project"]["optional-dependencies"].keys()


def test_it_runs_as_a_user_with_a_fixed_number() -> None:
    """Not as root, and as a number, which a cluster can check; the state folder is that user's."""
    user, _, group = final("USER").rest.partition(":")
    assert user.isdecimal()
    assert int(user) >= 10_000
    assert f"--uid {user} --gid {group}" in ran(-1)
    assert f"--owner=plugbus --group=plugbus --mode=0700 {final('VOLUME').rest}" in ran(-1)


def test_the_state_folder_is_the_volume() -> None:
    """Token, audit log and plugin data lie where the kernel is told to keep them."""
    assert image_environment()["PLUGBUS_STATE_DIR"] == final("VOLUME").rest


def test_signals_reach_the_kernel() -> None:
    """Entry point and command are arrays, so no shell stands in between; SIGTERM is handled."""
    assert final("ENTRYPOINT").rest.startswith("[")
    assert final("CMD").rest.startswith("[")
    assert final("STOPSIGNAL").rest == "SIGTERM"
    [program] = final("ENTRYPOINT").words
    folder, _, name = program.rpartition("/")
    assert name in PROJECT["project"]["scripts"]
    assert image_environment()["PATH"].startswith(f"{folder}:")
    [command] = final("CMD").words
    assert execute([command, "--help"]) == 0


def test_the_health_check_is_a_program_of_the_image() -> None:
    """Python and a file that is copied; its own time limit lies within that of Docker."""
    from_image, _, form = final("HEALTHCHECK").rest.partition("CMD ")
    python, *_, script = json.loads(form)
    assert python == "/opt/plugbus/bin/python"
    sources = [i.words for i in stages()[-1] if i.word == "COPY"]
    assert ["deploy/healthcheck.py", script] in sources
    limit = re.search(r"--timeout=(\d+)s", from_image)
    own = re.search(
        r"^TIMEOUT = ([\d.]+)$", (DEPLOY / "healthcheck.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert limit is not None
    assert own is not None
    assert float(own[1]) < float(limit[1])
