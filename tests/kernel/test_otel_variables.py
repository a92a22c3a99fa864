"""OpenTelemetry's variables: what cannot be used is said once, and the default holds."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from kernel import otel_variables
from kernel.otel_variables import leave_out_unusable

log = logging.getLogger("plugbus.test")


@pytest.mark.parametrize(
    ("name", "value", "is_kept"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x", False),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "-1", False),
        ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "1.5", False),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", " 128 ", True),
        ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "unset", True),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "", True),
        ("OTEL_SERVICE_NAME", "x", True),
    ],
)
def test_a_limit_is_a_number(name: str, value: str, is_kept: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Or nothing, as its specification has it; others are not looked at."""
    environ = {name: value}
    leave_out_unusable(environ, log)
    assert environ == ({name: value} if is_kept else {})
    said = [] if is_kept else [f"{name} is {value!r} and passed over; fix: a number from 0 on, or unset"]
    assert caplog.messages == said


@pytest.mark.parametrize(
    ("given", "left", "named"),
    [
        ("tracecontext, baggage", "tracecontext, baggage", []),
        ("tracecontext,nope, baggage", "tracecontext, baggage", ["nope"]),
        ("nope,worse", "", ["nope", "worse"]),
        ("none,nope", "none,nope", []),
        ("broken", "", ["broken"]),
    ],
)
def test_a_propagator_is_installed(
    given: str, left: str, named: list[str],
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The others stay; without any, OpenTelemetry takes its default."""
    real, broken = otel_variables.entry_points, EntryPoint("broken", "not_there:Nothing", "")

    def found(group: str, name: str) -> object:
        return [broken] if name == "broken" else real(group=group, name=name)

    monkeypatch.setattr(otel_variables, "entry_points", found)
    environ = {"OTEL_PROPAGATORS": given}
    leave_out_unusable(environ, log)
    assert environ["OTEL_PROPAGATORS"] == left
    assert [message.split("'")[1] for message in caplog.messages] == named


def test_a_kernel_goes_on_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway serves, flows are traced; each variable is one line."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "OTEL_PROPAGATORS": "nope",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "x",
        "PLUGBUS_PLUGINS__TELEMETRY__ENABLED": "true",
        "PLUGBUS_STATE_DIR": str(tmp_path / "state"),
    }.items():
        monkeypatch.setenv(name, value)
    with subprocess.Popen(
        [sys.executable, "-c", "import plugbus; plugbus.main()", "run", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as kernel:  # fmt: skip
        assert kernel.stdout is not None
        printed = ""
        while "/docs" not in printed and (line := kernel.stdout.readline()):
            printed += line
        kernel.terminate()
        _, err = kernel.communicate(timeout=30)
    assert kernel.returncode == 0, err
    assert "/docs" in printed, printed + err
    warnings = [line for line in err.splitlines() if "OTEL_" in line]
    assert len(warnings) == 2, err
    assert "failed" not in err, err
