"""A run directory: nothing is scored twice, nothing is mixed up, nothing is lost."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import npukv
from npukv.errors import ModelError, RunError
from npukv.relevance import score as module
from npukv.relevance.journal import Journal

QUESTIONS = ["Who went up?", "What is the name of the place, then?"]
OPTIONS: dict[str, Any] = {"segment": 50, "overlap": 10, "horizon": 3}


class Interrupted(Exception):
    pass


def interrupt_after(tokens: int) -> Callable[[str, int, int], None]:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "score" and done >= tokens:
            raise Interrupted

    return progress


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(rows, questions) of every batch that went through the model, without what fills it up."""
    went: list[tuple[int, int]] = []
    real = module.measure_batch

    def spy(lm: Any, segments: np.ndarray, prompts: Any, *rest: Any) -> Any:
        went.append((len(np.unique(segments, axis=0)), len(prompts)))
        return real(lm, segments, prompts, *rest)

    monkeypatch.setattr(module, "measure_batch", spy)
    return went


def bits(scores: Any) -> list[bytes]:
    return [part for one in scores for part in (one.entropies.tobytes(), one.measured.question.tobytes())]


def rows_on_disk(folder: Path) -> int:
    with sqlite3.connect(folder / "scores-0.sqlite") as database:
        return database.execute("SELECT count(*) FROM score").fetchone()[0]


@pytest.mark.parametrize("name", ["llama", "mistral-sliding", "gpt2", "chat"])
@pytest.mark.parametrize("questions", [QUESTIONS[:1], QUESTIONS])
@pytest.mark.parametrize("batch", [6, None])
def test_resumed_is_as_uninterrupted(
    load_tiny: Callable[[str], Any],
    text: str,
    tmp_path: Path,
    measured: list[tuple[int, int]],
    name: str,
    questions: list[str],
    batch: int | None,
) -> None:
    lm = load_tiny(name)
    lm.device.batch_tokens = 800  # so that the size found from free memory is several batches
    try:
        expected = npukv.score_segments(lm, text, questions, batch=batch, **OPTIONS)
        in_all = sum(rows for rows, _ in measured)
        measured.clear()
        with pytest.raises(Interrupted):
            npukv.score_segments(
                lm, text, questions, batch=batch, run=tmp_path, progress=interrupt_after(700), **OPTIONS
            )
        before = sum(rows for rows, _ in measured)
        assert 0 < before < in_all
        assert rows_on_disk(tmp_path) == before * len(questions)
        measured.clear()
        resumed = npukv.score_segments(lm, text, questions, batch=batch, run=tmp_path, **OPTIONS)
    finally:
        del lm.device.batch_tokens
    assert sum(rows for rows, _ in measured) == in_all - before
    assert [scores.scored for scores in resumed] == [in_all - before] * len(questions)
    assert bits(resumed) == bits(expected)
    assert rows_on_disk(tmp_path) == in_all * len(questions)


def test_a_finished_run_is_not_scored_again(
    llama: Any, text: str, tmp_path: Path, measured: list[tuple[int, int]]
) -> None:
    first = npukv.score_segments(llama, text, QUESTIONS[0], run=tmp_path, **OPTIONS)
    measured.clear()
    told: list[int] = []
    again = npukv.score_segments(
        llama, text, QUESTIONS[0], run=tmp_path, progress=lambda stage, done, total: told.append(done), **OPTIONS
    )
    assert measured == []
    assert again.scored == 0
    assert bits([again]) == bits([first])
    assert told[-1] == len(llama.encode(text))


def test_another_measure_of_the_same_passes_costs_nothing(
    llama: Any, text: str, tmp_path: Path, measured: list[tuple[int, int]]
) -> None:
    first = npukv.score_segments(llama, text, QUESTIONS[0], run=tmp_path, **OPTIONS)
    measured.clear()
    other = npukv.score_segments(llama, text, QUESTIONS[0], run=tmp_path, measure="certainty", **OPTIONS)
    assert measured == []
    assert np.array_equal(other.values, first.entropy)


def test_a_second_question_is_kept_apart(
    llama: Any, text: str, tmp_path: Path, measured: list[tuple[int, int]]
) -> None:
    alone = [npukv.score_segments(llama, text, question, **OPTIONS) for question in QUESTIONS]
    kept = [npukv.score_segments(llama, text, question, run=tmp_path, **OPTIONS) for question in QUESTIONS]
    assert bits(kept) == bits(alone)
    measured.clear()
    again = [npukv.score_segments(llama, text, question, run=tmp_path, **OPTIONS) for question in QUESTIONS]
    assert measured == []
    assert bits(again) == bits(alone)


def test_questions_that_miss_different_segments(llama: Any, text: str, tmp_path: Path) -> None:
    """A first pair stopped early; then one of it goes on with a newcomer, in batches that cross the old ones."""
    pair = [QUESTIONS[0], "Why?"]
    with pytest.raises(Interrupted):
        npukv.score_segments(llama, text, QUESTIONS, run=tmp_path, batch=4, progress=interrupt_after(250), **OPTIONS)
    assert rows_on_disk(tmp_path) > 0
    found = npukv.score_segments(llama, text, pair, run=tmp_path, batch=7, **OPTIONS)
    for scores, question in zip(found, pair, strict=True):
        expected = npukv.score_segments(llama, text, question, **OPTIONS)
        np.testing.assert_allclose(scores.question, expected.question, atol=1e-4)
        np.testing.assert_allclose(scores.first, expected.first, atol=1e-4)


def test_memory_that_runs_out_between_two_questions_loses_nothing(
    llama: Any, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, and the second half of a batch does not fit: what its first half gave must still arrive."""
    pair = [QUESTIONS[0], "Why?"]
    with pytest.raises(Interrupted):
        npukv.score_segments(llama, text, QUESTIONS, run=tmp_path, batch=4, progress=interrupt_after(250), **OPTIONS)
    assert rows_on_disk(tmp_path) == 8 * 2
    real, went = module.measure_batch, []

    def tight(lm: Any, segments: np.ndarray, *rest: Any) -> Any:
        went.append(len(np.unique(segments, axis=0)))
        if len(went) == 3:
            raise MemoryError
        return real(lm, segments, *rest)

    monkeypatch.setattr(module, "measure_batch", tight)
    found = npukv.score_segments(llama, text, pair, run=tmp_path, batch=7, **OPTIONS)
    assert went[:3] == [7, 6, 7]  # the newcomer's first seven; then the six that are new to both, and its seven
    for scores in found:
        assert np.isfinite(scores.first).all()
        assert np.isfinite(scores.question).all()


@pytest.mark.parametrize("change", ["segment", "overlap", "horizon", "text", "model", "dtype"])
def test_a_directory_of_another_run_is_refused(
    llama: Any, load_tiny: Callable[[str], Any], text: str, tmp_path: Path, change: str, measured: list[tuple[int, int]]
) -> None:
    kept = npukv.score_segments(llama, text, QUESTIONS[0], run=tmp_path, **OPTIONS)
    measured.clear()
    lm, given, options = llama, text, dict(OPTIONS)
    if change == "text":
        given = text.replace("the", "thy", 1)
    elif change == "model":
        lm = load_tiny("mistral")
    elif change == "dtype":
        lm = npukv.load(llama.name, device="cpu", dtype="bfloat16")
    else:
        options[change] -= 1
    named = {"text": "text", "model": "model", "dtype": "model"}.get(change, "settings")
    with pytest.raises(RunError, match=f"holds scores of another run .its {named} differs.*choose another --run"):
        npukv.score_segments(lm, given, QUESTIONS[0], run=tmp_path, **options)
    assert measured == []
    assert bits([npukv.score_segments(llama, text, QUESTIONS[0], run=tmp_path, **OPTIONS)]) == bits([kept])


def test_a_moved_model_and_directory_go_on(
    llama: Any, text: str, tmp_path: Path, measured: list[tuple[int, int]]
) -> None:
    npukv.score_segments(llama, text, QUESTIONS[0], run=tmp_path / "run", **OPTIONS)
    measured.clear()
    shutil.move(tmp_path / "run", tmp_path / "moved")
    elsewhere = npukv.load(shutil.copytree(llama.name, tmp_path / "model"), device="cpu", dtype="float32")
    npukv.score_segments(elsewhere, text, QUESTIONS[0], run=tmp_path / "moved", **OPTIONS)
    assert measured == []


def limit_pages(monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
    real = Journal._prepare

    def prepare(self: Journal) -> None:
        real(self)
        self._db.execute(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr(Journal, "_prepare", prepare)


def test_a_full_disk_stops_the_run_and_keeps_it(llama: Any, text: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"segment": 10, "overlap": 0, "horizon": 2, "batch": 16}
    expected = npukv.score_segments(llama, text, QUESTIONS[0], **options)
    with pytest.MonkeyPatch.context() as patch:
        limit_pages(patch, 5)
        with pytest.raises(RunError, match=r"full; free some space and run again with the same --run"):
            npukv.score_segments(llama, text, QUESTIONS[0], run=tmp_path, **options)
    kept = rows_on_disk(tmp_path)
    assert 0 < kept < len(expected)
    assert kept % 16 == 0  # whole batches
    resumed = npukv.score_segments(llama, text, QUESTIONS[0], run=tmp_path, **options)
    assert resumed.scored == len(expected) - kept
    assert bits([resumed]) == bits([expected])


def test_scores_before_a_damaged_one_are_kept(chains: Any, tmp_path: Path) -> None:
    """A model that overflows on one token of the text: what came before it stays."""
    lm = chains.load({": the": 2.0})
    (bad,) = lm.encode("~")
    with torch.no_grad():
        lm.model.model.embed_tokens.weight[bad] = float("nan")
        lm.model.model.layers[0].self_attn.o_proj.weight.fill_(1e-3)  # so that it spreads
    text = "a b c d e f g h i j k l m n o p " * 4 + "~ a b c"
    with pytest.raises(ModelError, match=r"segment at or after number [1-9]"):
        npukv.score_segments(lm, text, "Why?", segment=16, overlap=0, batch=2, run=tmp_path)
    assert rows_on_disk(tmp_path) >= 4
