"""An evaluation from start to figures: results, resuming after a kill, what is skipped, the summary and the report."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from npukv.errors import InputError, RunError
from npukv.evaluation import runner
from npukv.evaluation.material import Material
from npukv.evaluation.report import render_report
from npukv.evaluation.results import Results, key
from npukv.evaluation.runner import Suite, evaluate, parse_length, short, spread
from npukv.evaluation.sample import Sample
from npukv.evaluation.summary import cells, selected, summarise
from npukv.evaluation.tasks import TASKS

SUITE = Suite(("needle-number", "key-values"), ("full", "last", "bm25:1", "xl3m:first:1", "oracle"), (256, 1024), 2)


@pytest.fixture(scope="module")
def evaluated(load_tiny: Any, material: Material) -> tuple[Any, Results, list[Any]]:
    lm = load_tiny("llama")
    return lm, *evaluate(lm, material, SUITE)


def test_every_sample_and_method_has_a_result(evaluated: Any) -> None:
    _, results, skipped = evaluated
    wanted = {
        (task, length, i, method)
        for task in SUITE.tasks
        for length in SUITE.lengths
        for i in range(2)
        for method in SUITE.methods
        if method != "full" or length == 256
    }
    assert set(results.records) == wanted
    assert {(entry.task, entry.length, entry.method) for entry in skipped} == {
        (task, 1024, "full") for task in SUITE.tasks
    }
    for record in results.records.values():
        assert 0 <= record["score"] <= 1 and 0 <= record["depth"] < 1
        assert record["read"] + 16 <= 256
        assert (record["rank"] is None) == (record["method"] in ("full", "last", "oracle"))


def test_the_same_again(evaluated: Any, material: Material) -> None:
    lm, results, _ = evaluated
    again, _ = evaluate(lm, material, SUITE)

    def plain(found: Results) -> list[dict[str, Any]]:
        return [{k: v for k, v in record.items() if k != "seconds"} for record in found.records.values()]

    assert plain(again) == plain(results)


def test_right_answers_score_and_wrong_ones_do_not(
    chains: Any, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = chains.load({": 12345.\n": 60.0})  # says this after whatever ends in a colon

    def easy(material: Material, tokens: int, seed: int, depth: float | None) -> Sample:
        answer = ("12345", "999")[seed % 2]
        return Sample("easy", "The number is 12345. " * 3, "Which number?", (answer,), ((0, 20),), max_new_tokens=8)

    monkeypatch.setitem(TASKS, "easy", easy)
    results, _ = evaluate(lm, material, Suite(("easy",), ("full", "oracle"), (256,), 4))
    scores = [record["score"] for record in results.records.values() if record["method"] == "full"]
    assert scores == [1.0, 0.0, 1.0, 0.0]
    (cell, _) = cells(results.records.values())
    assert cell["score"]["mean"] == 0.5 and cell["score"]["n"] == 4


def test_a_run_resumes_and_runs_nothing_twice(llama: Any, material: Material, tmp_path: Path, monkeypatch: Any) -> None:
    suite = Suite(("needle-number",), ("last", "random"), (600,), 3)
    first, _ = evaluate(llama, material, suite, run=tmp_path)
    lines = (tmp_path / "results.jsonl").read_bytes()
    # A kill in the middle of a write: the last line is cut, and everything before it is kept.
    (tmp_path / "results.jsonl").write_bytes(lines[:-20])
    ran = []
    answer = runner.generate_answers
    monkeypatch.setattr(
        runner, "generate_answers", lambda lm, prompts, *a: (ran.extend(prompts), answer(lm, prompts, *a))[1]
    )
    second, _ = evaluate(llama, material, suite, run=tmp_path)
    assert len(ran) == 1
    assert {k: r["output"] for k, r in first.records.items()} == {k: r["output"] for k, r in second.records.items()}
    # A larger suite over the same run adds what is new.
    ran.clear()
    evaluate(llama, material, Suite(("needle-number",), ("last", "random", "oracle"), (600,), 4), run=tmp_path)
    assert len(ran) == 3 + 3


def test_what_does_not_apply_is_remembered(llama: Any, material: Material, tmp_path: Path, monkeypatch: Any) -> None:
    """Long samples are not made again to find out once more that a method does not apply to them."""
    suite = Suite(("needle-number",), ("full", "last"), (600,), 2)
    _, first = evaluate(llama, material, suite, run=tmp_path)
    monkeypatch.setitem(TASKS, "needle-number", lambda *a: pytest.fail("a sample was made again"))
    results, again = evaluate(llama, material, suite, run=tmp_path)
    assert again == first and len(first) == 1 and first[0].method == "full"
    assert {record["method"] for record in results.records.values()} == {"last"}


def test_kill_between_samples(save_model: Any, text: str, tmp_path: Path) -> None:
    """A real kill -9: what was written stays, and the command run again finishes the rest."""
    model, run, out = save_model("llama"), tmp_path / "run", tmp_path / "report.html"
    arguments = ["--model", str(model), "--device", "cpu", "--run", str(run), "--out", str(out), "--no-perplexity"]
    (tmp_path / "book.txt").write_text(text * 5)
    arguments += ["--text", str(tmp_path / "book.txt"), "--split", "train"]
    arguments += ["--tasks", "needle-number,needle-word", "--methods", "xl3m:first:1", "--lengths", "700", "--n", "20"]
    code = "import typer; from npukv.evaluation.cli import eval_command; typer.run(eval_command)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    results = run / "results.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if results.exists() and results.read_bytes().count(b"\n") > 16:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    kept = [json.loads(line) for line in results.read_bytes().splitlines()[1:-1]]
    assert 0 < len(kept) < 40
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    every = [json.loads(line) for line in results.read_text().splitlines()[1:]]
    assert len(every) == 40 and len({key(record) for record in every}) == 40
    assert every[: len(kept)] == kept


def test_another_evaluations_directory_is_refused(llama: Any, material: Material, tmp_path: Path) -> None:
    suite = Suite(("needle-number",), ("last",), (600,), 1)
    evaluate(llama, material, suite, run=tmp_path)
    with pytest.raises(RunError, match=r"another evaluation \(its seed differs\)"):
        evaluate(llama, material, Suite(("needle-number",), ("last",), (600,), 1, seed=5), run=tmp_path)
    (tmp_path / "results.jsonl").write_text("no json\n")
    with pytest.raises(RunError, match="not a file of results"):
        evaluate(llama, material, suite, run=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="choose another"):
        evaluate(llama, material, suite, run=tmp_path / "file")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    results = Results(tmp_path, {"seed": 0})
    results.path = Path("/dev/full")
    with pytest.raises(RunError, match="make room"):
        results.add([{"task": "t", "length": 1, "index": 0, "method": "m"}])
    assert not results.records


def test_what_cannot_be_made_is_skipped_with_its_reason(llama: Any, material: Material) -> None:
    suite = Suite(("ruler-qa_1", "needle-number"), ("last",), (64, 600), 1)
    results, skipped = evaluate(llama, material, suite)
    assert set(results.records) == {("needle-number", 600, 0, "last")}
    reasons = {(entry.task, entry.length): entry.reason for entry in skipped}
    assert "--documents" in reasons["ruler-qa_1", 600] and "too few" in reasons["needle-number", 64]


def test_a_task_too_wide_for_the_model_is_skipped(llama: Any, material: Material) -> None:
    """RULER's needles generate 128 tokens after a long question: more than this context of 256 holds."""
    results, skipped = evaluate(llama, material, Suite(("ruler-niah_multiquery",), ("last",), (2048,), 1))
    assert not results.records and "context of 256" in skipped[0].reason


def test_an_empty_suite_is_refused(llama: Any, material: Material) -> None:
    for suite in (
        Suite(("two-facts",), (), (256,), 1),
        Suite(("two-facts",), ("last",), (), 1),
        Suite(("two-facts",), ("last",), (9,), 0),
    ):
        with pytest.raises(InputError, match="at least 1"):
            evaluate(llama, material, suite)


def test_lengths() -> None:
    assert [parse_length(text) for text in ("2k", "128K", "20m", "3000", " 7 ")] == [2048, 131072, 20_000_000, 3000, 7]
    assert [short(length) for length in (2048, 131072, 20_000_000, 3000)] == ["2K", "128K", "20M", "3000"]
    for text in ("", "k", "2g", "-3", "0", "1.5k"):
        with pytest.raises(InputError, match="expected tokens such as"):
            parse_length(text)


def test_depths_are_spread_evenly() -> None:
    for n in (5, 10, 50):
        depths = sorted(spread(i, seed=3) for i in range(n))
        gaps = [b - a for a, b in zip([depths[-1] - 1, *depths], depths, strict=False)]
        assert max(gaps) < 2.7 / n


def test_summary_and_report(evaluated: Any) -> None:
    lm, results, skipped = evaluated
    records = selected(results.records.values(), SUITE, SUITE.tasks)
    assert len(records) == len(results.records)
    summary = summarise(lm, SUITE, records, skipped, text="<the text>", split="held-out", seconds=3.0)
    assert json.loads(json.dumps(summary))["cells"][0]["task"] == "needle-number"
    assert summary["environment"]["packages"]["torch"] and summary["model"]["context"] == 256
    assert len(summary["cells"]) == 2 * (4 + 5)
    cell = next(c for c in summary["cells"] if c["method"] == "bm25:1" and c["length"] == 1024)
    assert cell["best1"]["n"] == 2 and cell["best1"]["mean"] <= cell["best4"]["mean"] and cell["score"]["n"] == 2
    page = render_report(summary)
    assert page == render_report(summary), "the same figures give the same file"
    assert "&lt;the text&gt;" in page and "<the text>" not in page
    for wanted in (*SUITE.tasks, *SUITE.methods, "1K", summary["model"]["fingerprint"]):
        assert wanted in page
    for title in (
        "Score against length",
        "Where the evidence is ranked",
        "Where the fact lies",
        "Scores",
        "How it was run",
    ):
        assert f"<h2>{title}</h2>" in page
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(pictures) == 1 + 1 + 5  # one of each for the tasks without a family, and a map per method
    for picture in pictures:
        ElementTree.fromstring(picture)
    # Self-contained: nothing is fetched.
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page) and "<script" not in page and "<link" not in page


def test_a_report_without_ranks_or_places(evaluated: Any) -> None:
    lm, results, _ = evaluated
    suite = Suite(("needle-number",), ("last",), (256,), 2)
    records = [record | {"depth": None} for record in selected(results.records.values(), suite, suite.tasks)]
    page = render_report(summarise(lm, suite, records, [], text="t", split="held-out"))
    assert "<svg" not in page and "needle-number" in page
    assert render_report(summarise(lm, suite, [], [], text="t", split="held-out"))
