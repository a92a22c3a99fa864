"""README.md and .env.example: what they name is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from jsonschema import Draft202012Validator

from contracts import errors
from kernel.cli import execute
from kernel.settings import Settings, load_settings
from kernel.settings_problems import leaves
from plugins.gateway.access import Access
from plugins.gateway.pages import health_router

from .conftest import DEPLOY, Variable, compose, final, variables

CHECK = DEPLOY / "check.sh"
GUIDE = (DEPLOY / "README.md").read_text(encoding="utf-8")
EXAMPLE = (DEPLOY / ".env.example").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
INLINE = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", GUIDE, flags=re.MULTILINE | re.DOTALL))
SETTINGS = GUIDE.partition("## Settings\n")[2].partition("\n## ")[0]
OURS = ("PLUGBUS_", "KERNEL_", "REDIS_", "JAEGER_", "APP_", "EXTRA_", "PYTHON_IMAGE", "OTEL_")
COMPOSES_OWN = {"COMPOSE_PROFILES"}
"""Variables that Compose reads by itself, without being named in compose.yaml."""


NOT_RUN = {
    "docker compose logs -f kernel": "does not end",
    "PLUGBUS_BUS__URL='rediss://user:password@redis.example.com:6380/0'": "that Redis is the operator's",
    "docker compose up -d --wait --no-deps kernel": "that Redis is the operator's",
    "docker build -f deploy/Dockerfile -t plugbus:local .": "`up` has built it; this name may be taken",
    "docker run --rm --init -p 127.0.0.1:8000:8000 -v plugbus-state:/var/lib/plugbus"
    " -e PLUGBUS_TOKEN -e PLUGBUS_PLUGINS__GATEWAY__CONFIG__HOST=0.0.0.0"
    " -e PLUGBUS_PLUGINS__GATEWAY__CONFIG__ALLOW_REMOTE=true plugbus:local": "does not end",
}
"""Commands of the guide that check.sh does not run, and why."""
IN_ENV = {"COMPOSE_PROFILES=observability", "OTEL_EXPORTER_OTLP_ENDPOINT=http://jaeger:4318"}
"""Lines of the guide that go into `.env`; check.sh takes them from it."""


def lines(blocks: list[str]) -> set[str]:
    """Each command of these blocks as one line, without its comment."""
    joined = "\n".join(blocks).replace("\\\n", "")
    plain = (re.sub(r"(^|\s+)# .*$", "", line) for line in joined.splitlines())
    return {" ".join(line.split()) for line in plain if line.strip()}


def commands() -> Iterator[list[str]]:
    """The words of each `docker …` and `plugbus …` of the guide, up to where a shell would begin another."""
    lines = "\n".join(BLOCKS).replace("\\\n", " ").splitlines() + INLINE
    for line in lines:
        for found in re.findall(r"(?:^|[\s(])((?:docker|plugbus) [^&|;)<#]+)", line):
            yield found.split()


def of_kernel() -> list[list[str]]:
    """The `plugbus …` among them, those inside a container included, each once."""
    found = {" ".join(words).partition("plugbus ")[2] for words in commands() if "plugbus" in words}
    assert len(found) > 5
    return [each.split() for each in sorted(found)]


def assigned(text: str) -> dict[str, str]:
    """The variables of an .env file, commented out or not."""
    return dict(re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", text, re.MULTILINE))


def test_the_example_covers_exactly_what_compose_reads() -> None:
    """Nothing is missing, nothing is there for nobody."""
    assert assigned(EXAMPLE).keys() == {variable.name for variable in variables()} | COMPOSES_OWN


def test_the_example_starts_a_profile_that_there_is() -> None:
    """The line needs no more than its `#` taken away."""
    [profile] = compose()["services"]["jaeger"]["profiles"]
    assert assigned(EXAMPLE)["COMPOSE_PROFILES"] == profile


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("variable", list(variables()), ids=lambda variable: variable.name)
def test_the_example_and_the_guide_show_the_default(variable: Variable) -> None:
    """Of compose.yaml, or of the setting where compose.yaml leaves it to the kernel."""
    default = variable.default or _default_of_the_setting(variable.name)
    shown = assigned(EXAMPLE)[variable.name]
    assert shown == default
    [row] = [
        line
        for line in SETTINGS.splitlines()
        if line.startswith("|") and f"`{variable.name}`" in line.split("|")[1]
    ]
    assert not default or f"`{default}`" in row.split("|")[2]


def _default_of_the_setting(name: str) -> str:
    known = {f"PLUGBUS_{'__'.join(path).upper()}": field for path, _, field in leaves(Settings)}
    by_default = {
        "PLUGBUS_BUS__NAMESPACE": Settings().bus.namespace,
        "PLUGBUS_LOG_LEVEL": Settings().log_level,
        "PLUGBUS_PLUGINS__WEBHOOKS__ENABLED": "false",  # the built-in default of `plugbus run`
        "PLUGBUS_PLUGINS__TELEMETRY__ENABLED": "false",
    }
    assert name not in known or name in by_default or name == "PLUGBUS_TOKEN"
    return by_default.get(name, "")


def test_without_an_answer_the_example_starts_nothing() -> None:
    """The one variable that must be set is there, empty and not commented out."""
    assert re.findall(r"^([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE) == [("PLUGBUS_TOKEN", "")]


def test_every_variable_of_the_guide_is_known(elsewhere: Path) -> None:
    """PLUGBUS_ ones to the kernel, ours beside them to compose.yaml."""
    named = set(re.findall(r"(?<![A-Z_<{])([A-Z][A-Z]*_[A-Z_]*[A-Z])(?![A-Z_<])", GUIDE))
    ours = {name for name in named if name.startswith(OURS)}
    read = {variable.name for variable in variables()}
    assert read <= ours
    beyond = {name for name in ours - read if not name.startswith("OTEL_")}  # those are the SDK's
    assert all(name.startswith("PLUGBUS_") for name in beyond)
    (elsewhere / "value").write_text("redis://host")
    values = {"PLUGBUS_PLUGINS__GATEWAY__CONFIG__ALLOW_REMOTE": "true"}
    load_settings(
        environ={name: "value" if name.endswith("_FILE") else values.get(name, "x") for name in beyond}
    )


def test_every_setting_of_the_guide_exists() -> None:
    """By its dotted key, as in plugbus.toml."""
    known = {".".join(path) for path, _, _ in leaves(Settings)}
    named = {word for word in INLINE if re.fullmatch(r"(bus|deadlines)(\.\w+)+", word)}
    assert named
    assert named - known == set()


@pytest.mark.parametrize("words", of_kernel(), ids=" ".join)
def test_every_command_of_the_guide_exists(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Down to its options: asked for help, the command line still refuses what it does not know."""
    assert execute([*words, "--help"]) == 0, capsys.readouterr().err


def test_the_command_line_refuses_what_it_does_not_know() -> None:
    """Otherwise the check above would say nothing."""
    assert execute(["plugin", "lst", "--help"]) == execute(["plugin", "list", "--jsn", "--help"]) == 2


def test_every_service_and_file_of_the_commands_exists() -> None:
    """`docker compose VERB … SERVICE` names one of ours, `-f` a file of ours."""
    services = set(compose()["services"])
    verbs = {"up", "stop", "start", "exec", "run", "logs", "ps", "port", "cp", "down", "build"}
    for words in commands():
        if words[:2] == ["docker", "compose"] and words[2] in verbs:
            named = [word for word in words[3:] if word in services]
            assert named or words[2] in {"up", "stop", "start", "down"} or "kernel:" in " ".join(words), words
        if words[:2] == ["docker", "build"]:
            assert (DEPLOY.parent / words[words.index("-f") + 1]).is_file()


def test_the_health_addresses_are_served() -> None:
    """Those of the guide's table, and no others, without a token."""
    router = health_router(cast(Any, None), Access(cast(Any, None)))
    served = {getattr(route, "path", "") for route in router.routes}
    assert {word for word in INLINE if re.fullmatch(r"/\w+z", word)} == served


def test_every_error_of_the_guide_exists() -> None:
    """By the name under which an author catches it."""
    named = {word for word in INLINE if re.fullmatch(r"(?:[A-Z][a-z]+){2,}", word)}
    assert {"BusFull", "PublishUnknown"} <= named
    assert [name for name in sorted(named - {"Dockerfile"}) if not hasattr(errors, name)] == []


def test_every_file_of_this_folder_is_explained() -> None:
    """And every link leads somewhere."""
    here = {path.name for path in DEPLOY.iterdir() if path.name not in {"README.md", ".gitignore", ".env"}}
    assert [name for name in sorted(here) if f"`{name}" not in GUIDE] == []
    links = re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", GUIDE)
    assert [link for link in links if not (DEPLOY / link).exists()] == []


def yaml_blocks(key: str) -> list[dict[str, Any]]:
    """The guide's examples in YAML that have this key at the top."""
    read = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL))
    return [block for block in read if key in block]


def test_the_examples_of_an_override_are_compose_files(specification: Draft202012Validator) -> None:
    """What they add is added to a service that there is."""
    blocks = yaml_blocks("services")
    assert blocks
    for block in blocks:
        assert block["services"].keys() <= compose()["services"].keys()
        assert [error.message for error in specification.iter_errors(block)] == []


def test_prometheus_is_shown_the_kernels() -> None:
    """By the name and the port at which they are in their network, with a token from a file."""
    [block] = yaml_blocks("scrape_configs")
    [job] = block["scrape_configs"]
    [found] = job["dns_sd_configs"]
    assert found["names"] == ["kernel"]
    assert str(found["port"]) == final("EXPOSE").rest
    assert job["authorization"].keys() == {"credentials_file"}


def test_every_command_is_run_by_the_check_or_has_a_reason_not_to_be() -> None:
    """check.sh runs them as they stand here, so a guide that is wrong fails it."""
    text = CHECK.read_text(encoding="utf-8")
    run = lines(re.findall(r"^(?:DEADLINE=\d+ )?guide '([^']*)'$", text, re.MULTILINE))
    run |= lines(re.findall(r'^guide "([^"]*)"$', text, re.MULTILINE))
    guide = lines(BLOCKS)
    assert run - guide == set()
    assert guide - run == NOT_RUN.keys() | IN_ENV
    assert all(f"{line.partition('=')[0]}" in text for line in IN_ENV)


def test_the_check_says_when_it_cannot_run(tmp_path: Path) -> None:
    """With exit code 3 and one line, where neither an engine nor what it takes to start one is there."""
    for name in ("bash", "dirname", "env"):
        (tmp_path / name).symlink_to(cast(str, shutil.which(name)))
    done = subprocess.run(  # noqa: S603 - our own script
        [str(CHECK)], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert re.fullmatch(r" +0 s  cannot run here: \w+ is missing\n", done.stdout)


def test_the_check_explains_itself() -> None:
    """Asked for anything, it says what it does, and starts nothing."""
    done = subprocess.run(  # noqa: S603 - our own script
        [str(CHECK), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Exit codes: 0 OK, 1 FAILED, 3" in done.stdout
