"""Tables and lines: for terminals, and for what is behind a pipe."""

import pytest

from kernel.cli.output import say_event, say_table, short


def _table(capsys: pytest.CaptureFixture[str]) -> str:
    say_table(("NAME", "VALUE"), [("[red]a[/red]", "\x1b[31mb"), ("c", None)])
    return capsys.readouterr().out


def test_behind_a_pipe_a_table_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns in line, nothing at the ends, no escapes."""
    assert _table(capsys) == "NAME          VALUE\n[red]a[/red]  \\x1b[31mb\nc\n"


def test_at_a_terminal_data_are_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Square brackets and escapes of the data are shown as they are."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    out = _table(capsys)
    assert "[red]a[/red]" in out
    assert "\\x1b[31mb" in out
    assert "\x1b[31m" not in out


def test_a_terminal_without_abilities_gets_plain_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`TERM=dumb`: no escapes at all."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in _table(capsys)


def test_an_event_takes_one_line_of_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too long is cut, visibly."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    say_event({"type": "a.b", "id": "1"}, '{"text":"' + "x" * 500 + '"}')
    line = capsys.readouterr().out.rstrip("\n")
    assert (len(line), line[:12], line[-1]) == (60, "--:--:--.---", "…")


@pytest.mark.parametrize(("width", "text"), [(5, "abcde"), (4, "abc…"), (1, "…"), (0, "…")])
def test_cut_text_says_that_it_was_cut(width: int, text: str) -> None:
    """Never longer than asked, but for the sign itself."""
    assert short("abcde", width) == text
