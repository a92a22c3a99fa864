"""compose.yaml: what it is, what it keeps, how it scales, and what it lets in."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from kernel.settings import Deadlines, Settings, load_settings
from plugins.gateway.config import GatewayConfig, is_loopback
from plugins.webhooks.webhooks import Settings as WebhooksSettings

from .conftest import (
    DEPLOY,
    ROOT,
    TOKEN,
    Missing,
    compose,
    final,
    image_environment,
    options,
    seconds,
    service,
    variables,
)

SERVICES = ("kernel", "redis", "jaeger")
WAVES = 3
"""Plugins stop in waves: the web edge, the others, the audit log."""


def container_environment(**given: str) -> dict[str, str]:
    """All variables that a kernel's container has."""
    environment = service("kernel", TOKEN | given)["environment"]
    return image_environment() | {name: str(value) for name, value in environment.items()}


@pytest.mark.parametrize(
    "environ", [TOKEN, TOKEN | {name: "1" for name, _ in variables() if "PULL" not in name}]
)
def test_it_fits_the_compose_specification(
    specification: Draft202012Validator, environ: dict[str, str]
) -> None:
    """With the defaults, and with every variable set."""
    assert [error.message for error in specification.iter_errors(compose(environ))] == []


def test_the_specification_knows_a_misspelled_key(specification: Draft202012Validator) -> None:
    """Otherwise the check above would say nothing."""
    read = compose()
    read["services"]["kernel"]["read_onyl"] = True
    assert "read_onyl" in next(specification.iter_errors(read)).message


@pytest.mark.parametrize("environ", [{}, {"PLUGBUS_TOKEN": ""}])
def test_without_a_token_it_says_what_to_do(environ: dict[str, str]) -> None:
    """Variable, file and command are named; an untouched copy of .env.example is told the same."""
    with pytest.raises(Missing) as caught:
        compose(environ)
    text = str(caught.value)
    assert text.startswith("required variable PLUGBUS_TOKEN")
    assert all(part in text for part in (".env.example", ".env ", "openssl rand -hex 32"))


# --- the kernels ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("elsewhere")
def test_the_kernel_understands_every_variable() -> None:
    """None is refused, and those without a value leave the settings file and the defaults their say."""
    settings = load_settings(environ=container_environment())
    assert settings.bus.url == "redis://redis:6379/0"
    assert settings.token is not None
    assert settings.token.get_secret_value() == TOKEN["PLUGBUS_TOKEN"]
    assert str(settings.state_dir) == final("VOLUME").rest
    for key in ("bus.namespace", "log_level", "plugins.webhooks.enabled"):
        assert settings.source_of(key) == "default"


@pytest.mark.usefixtures("elsewhere")
def test_the_operators_variables_reach_the_kernel() -> None:
    """Each PLUGBUS_ variable that compose.yaml reads is that setting in the container."""
    given = {
        "PLUGBUS_BUS__URL": "rediss://elsewhere:6380/1",
        "PLUGBUS_BUS__NAMESPACE": "other",
        "PLUGBUS_LOG_LEVEL": "debug",
        "PLUGBUS_PLUGINS__WEBHOOKS__ENABLED": "true",
        "PLUGBUS_PLUGINS__WEBHOOKS__CONFIG__SECRET": "from-github",
        "PLUGBUS_PLUGINS__TELEMETRY__ENABLED": "true",
    }
    assert given.keys() | TOKEN.keys() == {name for name, _ in variables() if name.startswith("PLUGBUS_")}
    settings = load_settings(environ=container_environment(**given))
    assert (settings.bus.url, settings.bus.namespace) == ("rediss://elsewhere:6380/1", "other")
    assert settings.log_level == "debug"
    assert settings.plugins["webhooks"].enabled is True
    assert settings.plugins["telemetry"].enabled is True
    webhooks = _configuration("webhooks", settings)
    assert WebhooksSettings.model_validate(webhooks).secret == "from-github"


@pytest.mark.usefixtures("elsewhere")
def test_the_gateway_listens_where_the_port_is_published() -> None:
    """Beyond the container's loopback, on the port that the image exposes."""
    config = GatewayConfig.read(_configuration("gateway", load_settings(environ=container_environment())))
    [published] = service("kernel")["ports"]
    assert not is_loopback(config.host)
    assert str(config.port) == str(published["target"]) == final("EXPOSE").rest


def _configuration(plugin_id: str, settings: Settings) -> dict[str, Any]:
    manifest = tomllib.loads((ROOT / "plugins" / plugin_id / "plugin.toml").read_text(encoding="utf-8"))
    return {**manifest["default_configuration"], **settings.plugins[plugin_id].config}


def test_a_kernel_can_be_scaled() -> None:
    """No name, port or state folder is fixed that only one container could have."""
    kernel = service("kernel")
    assert "container_name" not in kernel
    [published] = kernel["ports"]
    first, last = map(int, published["published"].split("-"))
    assert last > first
    state = final("VOLUME").rest
    assert [volume for volume in kernel["volumes"] if state in volume] == [state]  # unnamed: one each
    assert int(service("kernel", TOKEN | {"KERNEL_REPLICAS": "3"})["deploy"]["replicas"]) == 3


def test_a_kernel_waits_for_redis_and_all_come_back() -> None:
    """It starts once Redis answers, and every service is restarted unless somebody stopped it."""
    assert service("kernel")["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert service("redis")["healthcheck"]["test"] == ["CMD-SHELL", "redis-cli ping | grep -q '^PONG$'"]
    assert {service(name)["restart"] for name in SERVICES} == {"unless-stopped"}


def test_a_stop_leaves_time_to_drain() -> None:
    """Docker kills no kernel that still keeps its own deadlines, wave after wave."""
    deadlines = Deadlines()
    needed = WAVES * (deadlines.drain + deadlines.stop + deadlines.shutdown)
    assert seconds(service("kernel")["stop_grace_period"]) > needed


def test_the_image_is_built_here_and_never_looked_for() -> None:
    """A name without a registry could be anybody's; the build sees the whole repository."""
    kernel = service("kernel")
    assert kernel["pull_policy"] == "build"
    assert (DEPLOY / kernel["build"]["context"]).resolve() == ROOT
    assert (ROOT / kernel["build"]["dockerfile"]).is_file()


@pytest.mark.usefixtures("elsewhere")
def test_the_folder_of_the_application_is_what_the_kernel_looks_into() -> None:
    """It is mounted, read-only, where the image looks for plugbus.toml; the examples in it are valid."""
    [mounted] = [volume for volume in service("kernel")["volumes"] if ":" in volume]
    source, target, mode = mounted.split(":")
    assert (target, mode) == (final("WORKDIR").rest, "ro")
    file = DEPLOY / source / "plugbus.toml"
    assert load_settings(file=file, environ={}).deadlines == Deadlines()
    text = re.sub(r"^#(?=\[|\w+ = )", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    Path("plugbus.toml").write_text(text, encoding="utf-8")
    examples = load_settings(environ={})
    assert examples.deadlines.drain > Deadlines().drain
    assert examples.plugins["host_monitor"].enabled is True


# --- Redis ---------------------------------------------------------------------------------------------


def test_redis_keeps_what_it_confirmed() -> None:
    """On the disk before the answer, nothing evicted, in a volume that outlives the container."""
    redis = service("redis")
    program, *rest = redis["command"]
    assert program == "redis-server"
    assert options(rest) | {"maxmemory": ""} == {
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory": "",
        "maxmemory-policy": "noeviction",
        "protected-mode": "no",
    }
    assert options(rest)["maxmemory"] not in {"", "0"}
    [volume] = redis["volumes"]
    name, _, target = volume.partition(":")
    assert target == "/data"
    assert name in compose()["volumes"]


def test_only_kernels_reach_redis() -> None:
    """It is not published, and its network leads nowhere else: so it takes them without a password."""
    assert "ports" not in service("redis")
    assert service("redis")["networks"] == ["bus"]
    assert compose()["networks"]["bus"] == {"internal": True}
    assert "bus" in service("kernel")["networks"]


# --- Jaeger --------------------------------------------------------------------------------------------


def test_jaeger_is_there_only_for_those_who_ask() -> None:
    """Only with its profile, and no service waits for it: without it nothing changes."""
    assert {name: found.get("profiles") for name, found in compose()["services"].items()} == {
        "kernel": None,
        "redis": None,
        "jaeger": ["observability"],
    }
    assert "jaeger" not in service("kernel")["depends_on"]
    assert service("kernel")["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == ""


def test_kernels_reach_jaeger_by_the_address_of_the_guide() -> None:
    """It shares a network with them, not that of Redis, and listens there and not on its loopback only."""
    jaeger = service("jaeger")
    assert set(jaeger["networks"]) == {"edge"}
    assert "edge" in service("kernel")["networks"]
    assert jaeger["environment"] == {"JAEGER_LISTEN_HOST": "0.0.0.0"}  # noqa: S104 - the container
    assert "http://jaeger:4318" in (DEPLOY / ".env.example").read_text(encoding="utf-8")


def test_only_the_page_of_jaeger_is_published() -> None:
    """On this machine: it has no login, and what takes spans takes them from anybody."""
    [published] = service("jaeger")["ports"]
    assert (published["host_ip"], published["target"]) == ("127.0.0.1", 16686)


def test_jaeger_is_bounded() -> None:
    """In traces, and in memory where these are large."""
    jaeger = service("jaeger", TOKEN | {"JAEGER_MAX_TRACES": "7", "JAEGER_MEMORY": "64m"})
    [limit] = jaeger["command"]
    assert re.fullmatch(r"--set=extensions\.jaeger_storage\.backends\.\w+\.memory\.max_traces=7", limit)
    assert jaeger["mem_limit"] == "64m"


def test_metrics_are_not_sent_where_nobody_takes_them() -> None:
    """Unless somebody says otherwise."""
    assert service("kernel")["environment"]["OTEL_METRICS_EXPORTER"] == "none"
    asked = service("kernel", TOKEN | {"OTEL_METRICS_EXPORTER": "otlp"})
    assert asked["environment"]["OTEL_METRICS_EXPORTER"] == "otlp"


# --- all of them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_little(name: str) -> None:
    """Not root; nothing but its volumes and /tmp can be written; no capability, and no way to get one."""
    found = service(name)
    assert (found["read_only"], found["init"], found["cap_drop"]) == (True, True, ["ALL"])
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert [line.partition(":")[0] for line in found["tmpfs"]] == ["/tmp"]
    user = final("USER").rest if name == "kernel" else found["user"]
    assert user.partition(":")[0] not in {"", "root", "0"}
    assert not found.keys() & {"privileged", "cap_add", "pid", "ipc", "network_mode", "devices"}


def test_nothing_is_published_beyond_this_machine_unasked() -> None:
    """The default address is the loopback; another one is the operator's decision."""
    [published] = service("kernel")["ports"]
    assert published["host_ip"] == "127.0.0.1"
    [asked] = service("kernel", TOKEN | {"KERNEL_BIND": "192.0.2.1", "KERNEL_PORTS": "80"})["ports"]
    assert (asked["host_ip"], asked["published"]) == ("192.0.2.1", "80")


def test_images_have_a_version() -> None:
    """Not whatever is newest on the day of the start."""
    for name in SERVICES:
        _, _, tag = service(name)["image"].rpartition(":")
        assert tag not in {"", "latest"}
