"""The command line as a whole: help, mistakes, exit codes, speed of start."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernel.cli import app, plugins
from kernel.state import StateFolder

from .conftest import CannedKernel, Plugbus

HEAVY = ("contracts", "fastapi", "httpx", "pydantic_settings", "rich", "uvicorn")


def test_help_lists_every_noun(plugbus: Plugbus) -> None:
    """`plugbus` alone and `plugbus --help` say the same."""
    ended = plugbus("--help")
    assert ended.code == 0
    assert all(
        word in ended.out
        for word in (
            "run",
            "demo",
            "plugin",
            "event",
            "group",
            "dlq",
            "capability",
            "bus",
            "new",
            "check",
            "version",
        )
    )
    assert plugbus() == ended


def test_each_noun_names_its_commands(plugbus: Plugbus) -> None:
    """`plugbus --help` has room for what there is below each noun, in the order of the noun's own help."""
    nouns = [
        (info.name, info.typer_instance)
        for group in (app, plugins.app)
        for info in group.registered_groups
        if info.typer_instance is not None
    ]
    assert len(nouns) >= 10
    for name, noun in nouns:
        told = str(noun.info.help).rpartition(": ")[2].rstrip(".").split(", ")
        there = [command.name for command in noun.registered_commands]
        assert told == [*there, *(inner.name for inner in noun.registered_groups)], name


def test_help_imports_nothing_heavy() -> None:
    """What a command needs is imported in the command, so that help answers at once."""
    script = (
        "import sys\nfrom kernel.cli import execute\n"
        "for words in (['--help'], ['plugin', '--help'], ['event', 'tail', '--help'],\n"
        "              ['dlq', 'export', '--help'], ['run', '--help'],\n"
        "              ['check', '--help'], ['new', 'plugin', '--help'], ['test', '--help']):\n"
        "    assert execute(words) == 0\n"
        f"print('heavy:', *(name for name in {HEAVY!r} if name in sys.modules))\n"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].strip() == "heavy:"


def test_the_version_is_printed(plugbus: Plugbus) -> None:
    """As text, and as a stable object."""
    assert plugbus("version").out.startswith("plugbus ")
    assert plugbus("version", "--json").json["schema"] == "plugbus.version/1"


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        (("plgin",), "No such command 'plgin'", "did you mean 'plugin'"),
        (("plugin", "lst"), "No such command 'lst'", "did you mean 'list'"),
        (("plugin",), "Missing command", "plugbus plugin --help"),
        (("plugin", "list", "--jsn"), "No such option: --jsn", "did you mean --json"),
        (("plugin", "show"), "Missing argument 'PLUGIN'", "plugbus plugin show --help"),
        (("run", "--port", "99999"), "--port", "plugbus run --help"),
        (
            ("event", "publish", "a.b", "novalue"),
            "'novalue' is not key=value",
            "write each field as key=value",
        ),
        (("event", "publish", "a.b", "x=1", "--data", "{}"), "given twice", "use one of"),
        (("dlq", "redrive"), "which dead letters?", "--all"),
        (("dlq", "discard", "1", "--all"), "which dead letters?", "--all"),
        (("dlq", "discard", "1"), "cannot be undone", "--yes"),
    ],
)
def test_a_wrong_command_line_is_told_what_and_how(
    plugbus: Plugbus, words: tuple[str, ...], what: str, fix: str
) -> None:
    """Exit code 2, at most a screen, no traceback, and nothing on stdout."""
    ended = plugbus(*words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("usage: ")
    assert what in ended.err.splitlines()[0]
    assert fix in ended.err.splitlines()[1]


def _problem(status: int) -> dict[str, Any]:
    return {"type": "/problems/some-code", "title": "T", "status": status, "detail": "what", "fix": "how"}


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 1), (401, 7), (403, 7), (404, 5), (409, 1), (422, 1), (500, 1), (502, 1), (503, 1), (504, 1)],
)
def test_each_refusal_of_the_kernel_has_its_exit_code(
    plugbus: Plugbus, kernel: CannedKernel, status: int, code: int
) -> None:
    """1 failed, 5 not found, 7 refused; the problem document is printed as what, at, fix."""
    kernel.answer("GET /admin/plugins", _problem(status), status)
    ended = plugbus("plugin", "list")
    assert ended.code == code
    fix = "give --token or PLUGBUS_TOKEN, or be the user who started the kernel" if status == 401 else "how"
    assert ended.err.splitlines() == ["some-code: what", "  at:  GET /admin/plugins", f"  fix: {fix}"]


def test_the_fields_of_a_problem_are_listed(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Each of `errors` on a line, the first five of them."""
    errors = [{"in": "body", "pointer": f"/f{number}", "detail": "missing"} for number in range(9)]
    kernel.answer("POST /events", _problem(422) | {"errors": errors}, 422)
    ended = plugbus("event", "publish", "a.b")
    assert ended.err.splitlines()[1:6] == [f"  - /f{number}: missing" for number in range(5)]


def test_no_kernel_is_exit_code_4(plugbus: Plugbus, folder: Path) -> None:
    """The place that was looked at, and how to start one."""
    ended = plugbus("plugin", "list", "--state-dir", "state")
    assert ended.code == 4
    assert ended.err.splitlines() == [
        "no-kernel: no kernel is running here",
        f"  at:  {folder / 'state'}",
        "  fix: plugbus run, or name another kernel with --url and --token",
    ]


def test_an_address_where_nobody_listens_is_exit_code_4(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """A wrong URL, a wrong scheme, a port that is closed."""
    for url in ("http://127.0.0.1:1", "ftp://127.0.0.1", "nonsense"):
        ended = plugbus("plugin", "list", "--url", url)
        assert (ended.code, len(ended.err.splitlines())) == (4, 3)


def test_something_else_that_answers_is_told_apart(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """A web server that is no kernel is not mistaken for one."""
    for status in (200, 500):
        kernel.answer("GET /admin/plugins", "<html>", status)
        ended = plugbus("plugin", "list")
        assert (ended.code, ended.err.startswith("not-plugbus: ")) == (4, True)


def test_a_wrong_setting_is_exit_code_3(plugbus: Plugbus, folder: Path) -> None:
    """Client commands read the settings too, to find the state folder."""
    (folder / "plugbus.toml").write_text("stat_dir = 'x'\n")
    ended = plugbus("plugin", "list")
    assert ended.code == 3
    assert ended.err.splitlines() == [
        "settings: 'stat_dir' is not a setting",
        "  at:  plugbus.toml:1",
        "  fix: did you mean 'state_dir'?",
    ]


def test_ctrl_c_is_exit_code_130(
    plugbus: Plugbus, kernel: CannedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the command was waiting for."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("httpx.Client.request", interrupted)
    assert plugbus("plugin", "list").code == 130


def test_a_defect_of_ours_is_not_hidden(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Only what a user can mend is told without a traceback."""
    kernel.answer("GET /admin/plugins", [{"not": "a plugin"}])
    with pytest.raises(KeyError):
        plugbus("plugin", "list")


def test_the_kernel_of_this_folder_is_found_by_its_state(
    plugbus: Plugbus, kernel: CannedKernel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a `plugbus.toml`, URL and token lie beside it; nothing has to be given."""
    monkeypatch.delenv("PLUGBUS_URL")
    monkeypatch.delenv("PLUGBUS_TOKEN")
    (folder / "plugbus.toml").write_text("")
    state = StateFolder(folder / ".plugbus")
    state.open()
    kernel.token = state.token(None)
    kernel.answer("GET /admin/plugins", [])
    assert "does not listen yet" in plugbus("plugin", "list").err
    state.endpoint_file.write_text(f'{{"url": "{kernel.url}", "pid": 1}}')
    assert plugbus("plugin", "list").code == 0
    state.close()
    assert plugbus("plugin", "list").code == 4


def test_the_token_of_this_machine_is_not_sent_to_another(plugbus: Plugbus, folder: Path) -> None:
    """A kernel elsewhere needs a token that was given for it."""
    state = StateFolder(folder / "state")
    state.open()
    state.token(None)
    ended = plugbus("plugin", "list", "--state-dir", "state", "--url", "http://192.0.2.1:8000")
    assert (ended.code, ended.err.splitlines()[0]) == (7, "no-token: no token for that kernel is known")
    state.close()


def test_proxies_and_netrc_do_not_see_the_token(
    plugbus: Plugbus, kernel: CannedKernel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client goes straight to the kernel, with the token that it was given."""
    (folder / "home").mkdir()
    (folder / "home" / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    kernel.answer("GET /admin/plugins", [])
    assert plugbus("plugin", "list").code == 0
    assert kernel.last.headers["authorization"] == "Bearer right"


def test_a_reader_that_has_seen_enough_is_no_failure(kernel: CannedKernel) -> None:
    """`plugbus event tail | head -1` ends without a word."""
    event = (
        b'event: event\nid: 1\ndata: {"specversion":"1.0","id":"1","source":"/s","type":"a.b","data":{}}\n\n'
    )
    kernel.streams = [[b"retry: 1\n\n", *([event] * 2000)]]
    script = "import sys; from kernel.cli import main; main()"
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", script, "event", "tail"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        assert b"a.b id=1" in tail.stdout.readline()
        tail.stdout.close()
        assert tail.wait() == 0
        assert b"Traceback" not in tail.stderr.read()
