"""``npukv generate`` as a user types it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from npukv import cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """run("generate", ...) -> (exit status, standard output, standard error)."""

    def run(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["npukv", "generate", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def says(chains: Any) -> Path:
    """Answers "the LORD." to everything, then goes on with other lines."""
    return chains.save({": the LORD.\n And": 9.0})


@pytest.fixture
def short(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "short.txt"
    path.write_text(text[:300])
    return path


def options(model: Path | str) -> list[str]:
    return ["--model", str(model), "--device", "cpu", "--dtype", "float32"]


CACHES = [("full",), ("clustered", "--keep", "0.5"), ("clustered", "--budget", "80"), ("hashed", "--budget", "40")]


@pytest.mark.parametrize("cache", CACHES)
def test_an_answer_and_what_the_cache_held(run: Run, says: Path, short: Path, cache: tuple[str, ...]) -> None:
    code, out, err = run(short, "-q", "Who went up?", *options(says), "--cache", *cache)
    assert (code, out) == (0, " the LORD.\n")
    assert f"cache: {cache[0]}" in err and "tokens seen" in err and "iB" in err


def test_a_prompt_is_gone_on_with_beyond_the_line(run: Run, says: Path) -> None:
    code, out, _ = run("--prompt", "He said:", *options(says), "--max-new-tokens", 6)
    assert code == 0
    assert out.startswith(" the LORD.\n And")


def test_standard_input(run: Run, says: Path) -> None:
    code, out, _ = run("-", "-q", "Who?", *options(says), stdin=b"In Egypt.")
    assert (code, out) == (0, " the LORD.\n")


def test_json_is_one_object(run: Run, says: Path, short: Path) -> None:
    code, out, _ = run(short, "-q", "Who?", *options(says), "--json", "--cache", "clustered", "--keep", 0.5)
    assert (code, out.count("\n")) == (0, 1)
    given = json.loads(out)
    assert set(given) == {"text", "tokens", "cache", "seconds", "device", "model"}
    assert given["text"] == "the LORD."
    assert (given["cache"]["name"], given["cache"]["amount"]) == ("clustered", 0.5)
    assert given["cache"]["physical_tokens"] < given["cache"]["logical_tokens"]
    assert given["tokens"]["input"] + given["tokens"]["generated"] - 1 == given["cache"]["logical_tokens"]


@pytest.mark.parametrize("question", [True, False])
def test_the_text_is_what_the_model_itself_generates(
    run: Run, load_tiny: Any, short: Path, question: bool, text: str
) -> None:
    lm = load_tiny("llama")
    words = "\nQuestion: Who?\nAnswer:" if question else " And he"
    ids = [lm.tokenizer.bos_token_id, *lm.encode(text[:300]), *lm.encode(words)]
    x = torch.tensor([ids])
    said = lm.model.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=12, do_sample=False)
    expected = lm.decode(said[0, len(ids) :])
    given = ["-q", "Who?"] if question else ["--prompt", " And he"]
    code, out, _ = run(short, *given, *options(lm.name), "--max-new-tokens", 12, "--json")
    assert code == 0
    assert json.loads(out)["text"] == (expected.partition("\n")[0] if question else expected).strip()


def test_a_text_beyond_the_context_is_refused_with_the_remedy(run: Run, says: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "long.txt").write_text(text)
    code, out, err = run(tmp_path / "long.txt", "-q", "Who?", *options(says))
    assert (code, out) == (2, "")
    assert "expected at most 256 together" in err and "npukv ask" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-q", "Who?"], "nothing to read"),
        ([], "nothing to read"),
        (["missing.txt", "-q", "Who?"], "no such file"),
        (["--prompt", "a", "-q", "b"], "expected one of them"),
        (["--prompt", "a", "--answer-prefix", "b"], "without --question"),
        (["--prompt", "a", "--cache", "tiny"], "expected one of: full, clustered, hashed"),
        (["--prompt", "a", "--keep", "0.5"], "keeps everything; leave it out"),
        (["--prompt", "a", "--cache", "clustered", "--keep", "2"], "at most 1"),
        (["--prompt", "a", "--cache", "hashed", "--budget", "0"], "at least 1"),
        (["--prompt", "a", "--cache", "clustered", "--keep", "0.5", "--budget", "9"], "expected one of them"),
        (["--prompt", "a", "--max-new-tokens", "0"], "--max-new-tokens"),
    ],
)
def test_bad_input_is_refused(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments, "--device", "cpu")
    assert (code, out) == (2, "")
    assert message in err
