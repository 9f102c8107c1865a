"""Progress goes to standard error, as a bar or as lines."""

from __future__ import annotations

import sys

import pytest

from npukv.progress import ProgressReport


def test_a_log_gets_a_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressReport() as report:
        report("tokenise", 5, 5)
        for done in (100, 200, 300):
            report("score", done, 300)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("score: 300 of 300 (100%)")


def test_a_log_gets_lines_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 11.0, 12.0, 22.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with ProgressReport() as report:
        for done in (1000, 1400, 2100, 2200, 3200):
            report("score", done, 5200)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "score: 2,100 of 5,200 (40%) 100 tokens/s, 31 s left",
        "score: 3,200 of 5,200 (62%) 100 tokens/s, 20 s left",
    ]


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressReport() as report:
        report("tokenise", 10, 10)
        report("score", 150, 300)
        report("score", 300, 300)
    out, err = capsys.readouterr()
    assert out == ""
    assert "score" in err
    assert "100%" in err
