"""Scores and answers by several ranks: the same bits as by one, whatever is killed, full or too small."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npukv
from npukv.errors import RunError
from npukv.parallel.ranks import Ranks
from npukv.relevance import score as module

QUESTIONS = ["Who went up?", "What is the name of the place, then?"]
OPTIONS: dict[str, Any] = {"segment": 40, "overlap": 10, "horizon": 3, "batch": 4}


def bits(scores: Any) -> list[bytes]:
    return [part for one in scores for part in (one.entropies.tobytes(), one.measured.question.tobytes())]


def rows_on_disk(folder: Path) -> Counter:
    """How often each (question, segment) was scored, over all journals."""
    found: Counter = Counter()
    for path in folder.glob("scores-*.sqlite"):
        with sqlite3.connect(path) as database:
            found.update(database.execute("SELECT question, segment FROM score").fetchall())
    return found


def scoring(lm: Any, text: str, questions: list[str], run: Path | None, **options: Any) -> Callable[[Ranks], Any]:
    def work(ranks: Ranks) -> Any:
        scores = npukv.score_segments(lm, text, questions, run=run, ranks=ranks, **OPTIONS | options)
        return bits(scores), [one.scored for one in scores]

    return work


@pytest.mark.parametrize("questions", [QUESTIONS[:1], QUESTIONS])
@pytest.mark.parametrize("keep", [True, False])
def test_the_same_bits_for_any_number_of_ranks(
    llama: Any, text: str, tmp_path: Path, start: Callable[..., Any], questions: list[str], keep: bool
) -> None:
    expected = npukv.score_segments(llama, text, questions, **OPTIONS)
    for size in (2, 3, 4):
        run = tmp_path / str(size) if keep else None
        for found, fresh in start(size, scoring(llama, text, questions, run)).wait():
            assert found == bits(expected)
            assert fresh == [len(expected[0])] * len(questions)
        if run is not None:
            assert len(list(run.glob("scores-*.sqlite"))) == size
            counted = rows_on_disk(run)
            assert len(counted) == len(expected[0]) * len(questions)
            assert set(counted.values()) == {1}


@pytest.mark.parametrize(("keep", "twice"), [(2, False), (2, True), ("passages", False)])
def test_the_same_answer_on_every_rank(
    llama: Any, text: str, start: Callable[..., Any], keep: int | str, twice: bool
) -> None:
    options: dict[str, Any] = {**OPTIONS, "max_new_tokens": 8, "keep": keep, "second_look": twice}
    expected = npukv.answer(llama, text, QUESTIONS[0], **options)
    said: list[str] = []

    def work(ranks: Ranks) -> Any:
        given = npukv.answer(llama, text, QUESTIONS[0], ranks=ranks, stream=said.append, **options)
        short = npukv.answer(llama, text[:100], QUESTIONS[0], ranks=ranks, **options)
        return given.text, given.segments, given.tokens, bits([given.scores]), len(said), short.text

    short = npukv.answer(llama, text[:100], QUESTIONS[0], **options)
    for rank, (answer, segments, tokens, scores, pieces, whole) in enumerate(start(3, work).wait()):
        assert (answer, segments, tokens) == (expected.text, expected.segments, expected.tokens)
        assert scores == bits([expected.scores])
        assert bool(pieces) == (rank == 0)
        assert whole == short.text


def killing(real: Any, batches: int) -> Any:
    """measure_batch that kills its process after so many batches."""
    count = 0

    def measure(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count > batches:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    return measure


@pytest.mark.parametrize("seed", range(3))
def test_killed_and_resumed_by_other_numbers_of_ranks(
    llama: Any, text: str, tmp_path: Path, start: Callable[..., Any], seed: int
) -> None:
    """Ranks are killed again and again; at last a run gets through. Nothing is lost, nothing scored twice."""
    rng = random.Random(seed)
    expected = npukv.score_segments(llama, text, QUESTIONS, **OPTIONS)
    kept = 0
    for _ in range(3):
        size, dying, batches = rng.randint(2, 4), 0, rng.randint(0, 4)
        dying = rng.randrange(size)

        def work(ranks: Ranks, dying: int = dying, batches: int = batches) -> Any:
            if ranks.rank == dying:
                module.measure_batch = killing(module.measure_batch, batches)
            return scoring(llama, text, QUESTIONS, tmp_path)(ranks)

        team = start(size, work, patience=1.0)
        found = team.wait()
        assert found[dying] is None or not isinstance(found[dying], BaseException)
        counted = rows_on_disk(tmp_path)
        assert set(counted.values()) <= {1}
        assert len(counted) >= kept
        kept = len(counted)
    size = rng.randint(1, 4)
    if size == 1:
        scores = npukv.score_segments(llama, text, QUESTIONS, run=tmp_path, **OPTIONS)
        results = [(bits(scores), [one.scored for one in scores])]
    else:
        results = start(size, scoring(llama, text, QUESTIONS, tmp_path)).wait()
    for found, fresh in results:
        assert found == bits(expected)
        assert sum(fresh) == 2 * len(expected[0]) - kept
    assert set(rows_on_disk(tmp_path).values()) == {1}
    assert len(rows_on_disk(tmp_path)) == 2 * len(expected[0])


def test_a_full_disk_on_one_rank(llama: Any, text: str, tmp_path: Path, start: Callable[..., Any]) -> None:
    from npukv.relevance.journal import Journal

    options: dict[str, Any] = {"segment": 10, "overlap": 0, "horizon": 2, "batch": 16}
    expected = npukv.score_segments(llama, text, QUESTIONS[:1], **options)
    real = Journal._prepare

    def prepare(self: Journal) -> None:
        real(self)
        self._db.execute("PRAGMA max_page_count = 5")

    def work(ranks: Ranks) -> Any:
        if ranks.rank == 1:
            Journal._prepare = prepare  # type: ignore[method-assign]  # in this process alone
        return scoring(llama, text, QUESTIONS[:1], tmp_path, **options)(ranks)

    first, full = start(2, work, patience=1.0).wait()
    assert isinstance(full, RunError)
    assert "rank 1: " in str(full)
    assert "full; free some space and run again" in str(full)
    assert isinstance(first, RunError)
    kept = len(rows_on_disk(tmp_path))
    assert 0 < kept < len(expected[0])
    for found, fresh in start(2, scoring(llama, text, QUESTIONS[:1], tmp_path, **options)).wait():
        assert found == bits(expected)
        assert fresh == [len(expected[0]) - kept]


def test_a_card_out_of_memory_takes_smaller_batches(
    llama: Any, text: str, tmp_path: Path, start: Callable[..., Any]
) -> None:
    expected = npukv.score_segments(llama, text, QUESTIONS[:1], **OPTIONS)

    def work(ranks: Ranks) -> Any:
        real = module.measure_batch

        def tight(lm: Any, segments: np.ndarray, *rest: Any) -> Any:
            if len(segments) > 1:
                raise MemoryError
            return real(lm, segments, *rest)

        if ranks.rank == 1:
            module.measure_batch = tight
        scores = npukv.score_segments(llama, text, QUESTIONS[:1], run=tmp_path, ranks=ranks, **OPTIONS)
        return scores[0].values

    found = start(2, work).wait()
    assert np.array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], expected[0].values, atol=1e-3)
    assert set(rows_on_disk(tmp_path).values()) == {1}


def test_one_bar_for_all(llama: Any, text: str, start: Callable[..., Any]) -> None:
    def work(ranks: Ranks) -> Any:
        told: list[tuple[str, int, int]] = []
        npukv.score_segments(llama, text, QUESTIONS, ranks=ranks, progress=lambda *at: told.append(at), **OPTIONS)
        return told

    first, *others = start(3, work).wait()
    assert others == [[], []]
    tokens = len(llama.encode(text))
    scored = [done for stage, done, total in first if stage == "score" and total == tokens]
    assert scored == sorted(scored)
    assert scored[-1] == tokens
    assert ("tokenise", len(text), len(text)) in first


@pytest.mark.parametrize("keep", [True, False])
def test_the_same_sketch_and_shortlist_for_any_number_of_ranks(
    llama: Any, text: str, tmp_path: Path, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    from npukv.relevance import sketch

    monkeypatch.setattr(sketch, "WINDOW", 64)
    monkeypatch.setattr(sketch, "PART", 4)
    options: dict[str, Any] = {"mode": "sketch", "shortlist": 9}
    expected = npukv.score_segments(llama, text, QUESTIONS, **OPTIONS | options)
    for size in (2, 3):
        folder = tmp_path / str(size)
        work = scoring(llama, text, QUESTIONS, folder if keep else None, **options)
        for found, fresh in start(size, work).wait():
            assert found == bits(expected)
            assert fresh == [9, 9]
        if keep:
            parts = sorted(path.name for path in folder.glob("tokens-*/sketch-*/codes-*"))
            assert len(parts) == -(-len(llama.encode(text)) // 256)
            assert not any(name.endswith("partial") for name in parts)
