"""``npukv eval`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from npukv.errors import InputError
from npukv.evaluation.cli import eval_command

APP = typer.Typer()
APP.command()(eval_command)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(APP, list(arguments), catch_exceptions=False)


def test_a_small_suite(save_model: Any, text: str, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(text * 20)
    done = run(
        *("--model", str(save_model("llama")), "--device", "cpu", "--text", str(tmp_path / "book.txt")),
        *("--tasks", "needle-*,two-facts", "--methods", "full,last,bm25,xl3m:first,xl3m,oracle", "--lengths", "256,1k"),
        *("--n", "2", "--split", "train", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "report.html")),
    )
    assert done.exit_code == 0, done.output
    assert "needle-place" in done.output and "bits per byte" in done.output
    figures = json.loads((tmp_path / "report.json").read_text())
    assert len(figures["samples"]) == 2 * (4 * 6 + 5 * 5) and figures["text"] == "book.txt"
    too_few = [each for each in figures["skipped"] if "too few" in each["reason"]]
    assert [(each["task"], each["length"]) for each in too_few] == [("two-facts", 256)]
    assert figures["perplexity"]["bits_per_byte"] > 0
    assert figures["suite"]["n"] == 2 and figures["split"] == "train"
    page = (tmp_path / "report.html").read_text()
    assert "book.txt" in page and "<svg" in page
    assert not list(tmp_path.glob("*.partial"))


def test_the_bundled_text_is_the_default(save_model: Any, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    model = str(save_model("llama"))
    done = run(
        "--model",
        model,
        "--tasks",
        "key-values",
        "--methods",
        "last",
        "--lengths",
        "300",
        "--n",
        "1",
        "--out",
        str(out),
    )
    assert done.exit_code == 0 and "King James Bible" in out.read_text()


def test_list() -> None:
    done = run("--list")
    assert "ruler-niah_multikey_3" in done.output and "xl3m:measure:keep" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "nothing"], "expected one of: needle-number"),
        (["--methods", "magic"], "expected one of: full"),
        (["--lengths", "long"], "expected tokens such as"),
        (["--out", "report.txt"], r"ends in \.html"),
        (["--out", "no/such/folder/report.html"], "does not exist"),
        (["--text", "missing.txt"], "no such file"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_bad_input_is_refused(
    arguments: list[str], message: str, save_model: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=message) as caught:
        run("--model", str(save_model("llama")), *arguments)
    assert isinstance(caught.value, InputError) or "abacus" in message
    assert not list(tmp_path.iterdir())


def test_unknown_split(save_model: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="split 'test' is unknown"):
        run(
            "--model",
            str(save_model("llama")),
            "--split",
            "test",
            "--lengths",
            "600",
            "--n",
            "1",
            "--out",
            str(tmp_path / "r.html"),
        )
