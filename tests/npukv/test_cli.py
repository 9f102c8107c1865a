"""The command line, in this process: what is printed where, and with which exit status."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from npukv import cli
from npukv.relevance.journal import Journal

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """run("ask", ...) -> (exit status, standard output, standard error)."""

    def run(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["npukv", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def model(chains: Any) -> Path:
    """Answers "the LORD." to everything."""
    return chains.save({": the LORD.\n And": 9.0})


@pytest.fixture
def book(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "book.txt"
    path.write_bytes(text.encode())
    return path


def options(model: Path | str) -> list[str]:
    return ["-q", "Who went up?", "--model", str(model), "--device", "cpu", "--dtype", "float32"]


def test_answer_on_stdout_and_the_rest_on_stderr(run: Run, model: Path, book: Path) -> None:
    code, out, err = run("ask", book, *options(model), "--keep", 2)
    assert code == 0
    assert out.strip() == "the LORD."
    assert "tokens in" in err
    assert err.count(f"{book} characters") == 2  # the segments it rests on, and where they are


def test_text_that_fits_is_said_to_be_read_whole(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "short.md").write_text("In Egypt.")
    code, out, err = run("ask", tmp_path / "short.md", *options(model))
    assert (code, out.strip()) == (0, "the LORD.")
    assert "read whole: " in err


def test_segments_of_a_text_that_fits_can_be_chosen_too(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "short.md").write_text("In Egypt. " * 12)
    code, _, err = run("ask", tmp_path / "short.md", *options(model), "--no-whole", "--segment", 20, "--overlap", 2)
    assert code == 0
    assert "read whole" not in err
    assert "segments, scored in" in err


def test_json_is_one_object(run: Run, model: Path, book: Path, text: str) -> None:
    code, out, _ = run("ask", book, *options(model), "--json", "--segment", 40, "--overlap", 4, "--keep", 2)
    assert code == 0
    assert out.count("\n") == 1
    given = json.loads(out)
    assert set(given) == {"answer", "segments", "tokens", "seconds", "device", "model"}
    assert given["answer"] == "the LORD."
    assert (given["device"], given["model"]) == ("cpu", str(model))
    assert set(given["tokens"]) == {"text", "segments", "key_context", "answer"}
    assert set(given["seconds"]) == {"tokenise", "score", "generate"}
    assert len(given["segments"]) == 2
    for part in given["segments"]:
        assert set(part) == {"start", "end", "file", "file_start", "score"}
        assert 0 <= part["start"] == part["file_start"] < part["end"] <= len(text)
        assert part["file"] == str(book)
        assert part["score"] > 0
    code, out, _ = run("ask", "-", *options(model), "--json", stdin=b"In Egypt.")
    assert json.loads(out)["segments"] == [{"start": 0, "end": 9, "file": "<stdin>", "file_start": 0, "score": None}]


def test_several_files_and_standard_input(run: Run, model: Path, book: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "b.md").write_text("second " * 100)
    code, out, _ = run(
        "ask", book, "-", tmp_path / "b.md", *options(model), "--json", "--keep", "fill", "--segment", 9,
        stdin=b"typed " * 9,
    )  # fmt: skip
    assert code == 0
    whole = text + "\n\n" + "typed " * 9 + "\n\n" + "second " * 100
    contents = {str(book): text, "<stdin>": "typed " * 9, str(tmp_path / "b.md"): "second " * 100}
    for part in json.loads(out)["segments"]:
        here = contents[part["file"]][part["file_start"] :][:5]
        assert whole[part["start"] :].startswith(here)


@pytest.mark.parametrize(
    "more",
    [
        ["--keep", "1", "--neighbours", "1", "--keep-head"],
        ["--measure", "first"],
        ["--measure", "question", "--horizon", "2"],
        ["--keep", "margin:0.5", "--batch", "2"],
        ["--answer-prefix", "Went up:"],
    ],
)
def test_options_are_accepted(run: Run, model: Path, book: Path, more: list[str]) -> None:
    code, out, err = run("ask", book, *options(model), *more)
    assert (code, out.strip()) == (0, "the LORD."), err


def test_the_question_stands_ahead_unless_told_otherwise(run: Run, model: Path, book: Path) -> None:
    """It is read once more, and nothing else changes."""
    read = []
    for more in ([], ["--ahead"], ["--no-ahead"]):
        code, out, err = run("ask", book, *options(model), "--json", *more)
        assert code == 0, err
        read.append(json.loads(out)["tokens"]["key_context"])
    assert read[0] == read[1] > read[2]


def test_no_answer_is_exit_status_one(run: Run, chains: Any, book: Path) -> None:
    silent = chains.save({":\n the": 9.0})
    code, out, err = run("ask", book, *options(silent))
    assert code == 1
    assert out.strip() == ""
    assert "npukv: the model gave no answer; try" in err
    code, out, _ = run("ask", book, *options(silent), "--json")
    assert code == 1
    assert json.loads(out)["answer"] == ""


def test_run_directory_resumes(run: Run, model: Path, book: Path, tmp_path: Path) -> None:
    arguments = ["ask", book, *options(model), "--run", tmp_path / "run", "--segment", 40]
    first = run(*arguments)
    again = run(*arguments)
    assert first[:2] == again[:2]
    assert "from an earlier run" not in first[2]
    assert "of them from an earlier run" in again[2]


def test_score_prints_a_line_per_segment(run: Run, model: Path, book: Path, tmp_path: Path, text: str) -> None:
    plot = tmp_path / "a.png"
    code, out, err = run("score", book, *options(model), "--segment", 40, "--overlap", 0, "--plot", plot)
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["segment"] for line in lines] == list(range(len(lines)))
    assert set(lines[0]) == {
        "start", "end", "file", "file_start", "segment", "score", "words",
        "certainty+question+words", "certainty+question", "certainty", "question", "first",
    }  # fmt: skip
    assert (lines[0]["start"], lines[-1]["end"]) == (0, len(text))
    assert all(line["score"] == line["certainty+question+words"] for line in lines)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert f"drawn to {plot}" in err


def test_score_of_a_measure(run: Run, model: Path, book: Path) -> None:
    _, out, _ = run("score", book, *options(model), "--measure", "first")
    assert all(line["score"] == line["first"] for line in map(json.loads, out.splitlines()))


def test_score_resumes_with_every_line(run: Run, model: Path, book: Path, tmp_path: Path) -> None:
    arguments = ["score", book, *options(model), "--run", tmp_path / "run"]
    assert run(*arguments)[1] == run(*arguments)[1] != ""


def test_sample_hides_sentences_where_it_says(run: Run, tmp_path: Path, bible: str) -> None:
    path = tmp_path / "sample.txt"
    sentences = [f"The favourite word of {name} is lantern." for name in ("heron", "walnut", "otter", "maple")]
    hidden = [word for sentence in sentences for word in ("--hide", sentence)]
    code, out, err = run("sample", path, *hidden, "--seed", 3)
    assert (code, out) == (0, "")
    text = path.read_text(encoding="utf-8")
    assert len(text) == len(bible) + sum(len(sentence) + 1 for sentence in sentences)
    for sentence in sentences:
        (line,) = [line for line in err.splitlines() if line.endswith(sentence)]
        place = int(line.removeprefix("hidden at character ").partition(":")[0].replace(",", ""))
        assert text[place:].startswith(sentence)
    assert run("sample", path)[0] == 0
    assert path.read_text(encoding="utf-8") == bible


def test_info_is_json(run: Run) -> None:
    code, out, _ = run("info")
    assert code == 0
    assert json.loads(out)["devices"]["cpu"]["available"] is True


def without_weights(model: Path) -> Path:
    (model / "model.safetensors").unlink()
    return model


def pickled(model: Path) -> Path:
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(tensors, model / "pytorch_model.bin")
    return model


def not_a_number(model: Path) -> Path:
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    return model


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_weights, "has no weights; expected"),
        (pickled, "only pickled weights (pytorch_model.bin)"),
        (not_a_number, "logits are not numbers"),
    ],
)
@pytest.mark.parametrize("command", ["ask", "score"])
def test_bad_model(
    run: Run, model: Path, book: Path, tmp_path: Path, spoil: Callable[[Path], Path], message: str, command: str
) -> None:
    spoilt = spoil(shutil.copytree(model, tmp_path / "spoilt"))
    code, out, err = run(command, book, *options(spoilt))
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def bad(name: str, data: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(data)
        return str(folder / name)

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bad("empty.txt", b""), "empty.txt: is empty, expected text"),
        (bad("blank.txt", b" \n"), "blank.txt: is empty, expected text"),
        (bad("image.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), "image.png: is a binary file, expected UTF-8 text"),
        (bad("old.txt", "Größe".encode("latin-1")), "old.txt: is not UTF-8 text"),
        (lambda folder: str(folder / "nothing.txt"), "nothing.txt: no such file"),
        (str, "is a folder, expected a text file"),
        (lambda folder: "-", "-: is empty"),
    ],
)
@pytest.mark.parametrize("command", ["ask", "score"])
def test_bad_file(
    run: Run, model: Path, tmp_path: Path, make: Callable[[Path], str], message: str, command: str
) -> None:
    code, out, err = run(command, make(tmp_path), *options(model))
    assert (code, out) == (2, "")
    assert err.startswith("npukv: ")
    assert message in err
    assert err.count("\n") == 1


LONG = "word " * 400


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["-q", ""], "got an empty question"),
        (["-q", "  "], "got an empty question"),
        (["-q", LONG], "got a question of"),
        (["-q", "Who \udcff?"], "question"),  # bytes that are no UTF-8, as Python passes them on
        (["--segment", "250"], "expected at most"),
        (["--segment", "0"], "got a segment of 0 tokens"),
        (["--segment", "20", "--overlap", "20"], "got an overlap of 20"),
        (["--segment", "many"], "--segment"),
        (["--horizon", "0"], "got a horizon of 0"),
        (["--keep", "best"], "got keep 'best'"),
        (["--keep", "0"], "got keep '0'"),
        (["--measure", "best"], "got measure 'best'"),
        (["--device", "gpu"], "got device 'gpu', expected one of: auto, npu, cuda, cpu"),
        (["--dtype", "int4"], "got dtype 'int4'"),
        (["--model", "nobody/nothing"], "nobody/nothing: cannot be loaded"),
        (["--batch", "0"], "batch"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
@pytest.mark.parametrize("command", ["ask", "score"])
def test_bad_option(run: Run, model: Path, book: Path, wrong: list[str], message: str, command: str) -> None:
    code, out, err = run(command, book, *options(model), *wrong)
    assert (code, out) == (2, "")
    assert message in err
    assert err.splitlines()[-1].startswith("npukv: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "-q", "Who?"], "FILE"),
        (["ask", "book.txt"], "--question"),
        (["nonsense"], "nonsense"),
        (["score", "a.txt", "-q", "Who?", "--plot"], "--plot"),
        (["ask", "a.txt", "-q", "Who?", "--max-new-tokens", "0"], "a.txt"),
    ],
)
def test_bad_command_line(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("npukv: ")


def test_no_new_tokens_are_refused(run: Run, model: Path, book: Path) -> None:
    code, out, err = run("ask", book, *options(model), "--max-new-tokens", 0)
    assert (code, out) == (2, "")
    assert "got 0 new tokens" in err


@pytest.mark.parametrize("plot", ["a.txt", "nowhere/a.png"])
def test_bad_plot_is_refused_before_scoring(run: Run, model: Path, book: Path, tmp_path: Path, plot: str) -> None:
    code, out, err = run("score", book, *options(model), "--plot", tmp_path / plot)
    assert (code, out) == (2, "")
    assert plot.split("/")[-1] in err


def test_passages_are_not_scored_alone(run: Run, model: Path, book: Path, tmp_path: Path) -> None:
    """Marking whole segments in their place would show what nothing was answered from."""
    code, out, err = run("score", book, *options(model), "--keep", "passages", "--run", tmp_path / "run")
    assert (code, out) == (2, "") and not (tmp_path / "run").exists()
    assert "got --keep passages, expected a number, fill or margin:NATS; passages are for npukv ask" in err
    code, out, err = run("ask", book, *options(model), "--keep", "passages")
    assert code == 0 and out.strip()


def test_directory_of_another_run(run: Run, model: Path, book: Path, tmp_path: Path) -> None:
    assert run("ask", book, *options(model), "--run", tmp_path / "run")[0] == 0
    book.write_text("Now another " * 300)
    code, out, err = run("ask", book, *options(model), "--run", tmp_path / "run")
    assert (code, out) == (2, "")
    assert "holds scores of another run (its text differs)" in err


def test_full_disk(run: Run, model: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Journal._prepare

    def prepare(self: Journal) -> None:
        real(self)
        self._db.execute("PRAGMA max_page_count = 5")

    arguments = ["ask", book, *options(model), "--run", tmp_path / "run", "--segment", 9, "--overlap", 0, "--batch", 9]
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_prepare", prepare)
        code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "full; free some space and run again with the same --run" in err
    code, out, err = run(*arguments)
    assert (code, out.strip()) == (0, "the LORD.")
    assert "of them from an earlier run" in err


def test_sample_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    code, out, err = run("sample", tmp_path / "nowhere" / "a.txt")
    assert (code, out) == (2, "")
    assert "cannot be written" in err


def test_help_names_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in ("ask", "score", "eval", "sample", "info"))
    code, out, _ = run("ask", "--help")
    assert code == 0
    for option in ("--question", "--segment", "--overlap", "--keep", "--measure", "--horizon", "--run", "--json"):
        assert option in out
