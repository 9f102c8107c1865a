"""Scoring as a whole: order, options, memory that runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npukv
from npukv.errors import InputError, NpukvError
from npukv.relevance import score as module
from npukv.relevance.plan import make_plan
from npukv.relevance.score import as_tokens, score_plan, stream_scores
from npukv.text import tokenize

QUESTION = "Who went up?"


@contextmanager
def measuring(before: Callable[[int, list[int]], None]) -> Iterator[list[list[int]]]:
    """Calls `before(rows, questions asked)` in front of each batch; yields the list of [rows, questions] that went."""
    went: list[list[int]] = []
    real = module.measure_batch

    def spy(lm: Any, segments: np.ndarray, prompts: Any, *rest: Any) -> Any:
        before(len(segments), [len(prompts)])
        measured = real(lm, segments, prompts, *rest)
        went.append([len(segments), len(prompts)])
        return measured

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "measure_batch", spy)
        yield went


def room_for(rows: int, error: BaseException) -> Callable[[int, list[int]], None]:
    def check(asked: int, _: list[int]) -> None:
        if asked > rows:
            raise error

    return check


def assert_same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found.question, expected.question, atol=1e-4)
    np.testing.assert_allclose(found.first, expected.first, atol=1e-4)


def test_scores_are_in_the_texts_order(llama: Any, text: str) -> None:
    scores = npukv.score_segments(llama, text, QUESTION, segment=50, overlap=10, batch=7)
    starts = [segment.start for segment in scores.segments]
    assert starts == sorted(starts)
    assert [segment.index for segment in scores.segments] == list(range(len(scores)))
    assert scores.entropies.shape == (len(scores), 8)
    assert scores.scored == len(scores)
    assert scores.asked == QUESTION
    assert scores.seconds > 0
    ids = llama.encode(text)
    for segment in scores.segments:
        assert text[segment.char_start : segment.char_end] == llama.decode(ids[segment.start : segment.end])


def test_text_or_its_tokens(llama: Any, text: str) -> None:
    tokens = tokenize(llama.tokenizer, text)
    one, other = (npukv.score_segments(llama, given, QUESTION, horizon=1) for given in (text, tokens))
    assert np.array_equal(one.values, other.values)


def test_a_list_of_one_question_is_a_list_of_one(llama: Any, text: str) -> None:
    (scores,) = npukv.score_segments(llama, text[:600], [QUESTION], horizon=1)
    assert scores.asked == QUESTION


@pytest.mark.parametrize("empty", ["", " "[:0]])
def test_empty_text_is_refused(llama: Any, empty: str) -> None:
    with pytest.raises(InputError, match="got an empty text, expected words"):
        npukv.score_segments(llama, empty, QUESTION)


def test_text_shorter_than_a_segment_is_one(llama: Any) -> None:
    scores = npukv.score_segments(llama, "In Egypt.", QUESTION)
    assert [(s.char_start, s.char_end) for s in scores.segments] == [(0, 9)]


def test_answer_prefix_changes_the_scores(llama: Any, text: str) -> None:
    plain = npukv.score_segments(llama, text[:900], QUESTION)
    prefixed = npukv.score_segments(llama, text[:900], QUESTION, answer_prefix="Up went")
    assert np.abs(plain.values - prefixed.values).min() > 1e-6


def test_refused_before_the_model_runs(llama: Any, text: str) -> None:
    ran: list[int] = []
    hook = llama.model.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        for options in ({"segment": 255}, {"overlap": -1}, {"horizon": 0}, {"measure": "x"}):
            with pytest.raises(InputError):
                npukv.score_segments(llama, text, QUESTION, **options)
        with pytest.raises(InputError):
            npukv.score_segments(llama, text, " ")
    finally:
        hook.remove()
    assert not ran


def test_streamed_as_they_come(llama: Any, text: str) -> None:
    plan = make_plan(llama, as_tokens(llama, text), (QUESTION, "Why?"), segment=50, horizon=2)
    with measuring(lambda *_: None) as went:
        stream = stream_scores(llama, plan, batch=5)
        assert went == []
        first = next(stream)
        assert went == [[5, 2]]
        parts = [first, *stream]
    for question in range(2):
        rows = [row for part in parts if part.question == question for row in part.segments]
        assert rows == list(range(len(plan.segments)))
    assert not any(part.resumed for part in parts)


def test_progress_counts_tokens_to_the_end(llama: Any, text: str) -> None:
    told: list[tuple[str, int, int]] = []
    npukv.score_segments(llama, text, QUESTION, segment=50, batch=4, horizon=1, progress=lambda *at: told.append(at))
    count = len(llama.encode(text))
    assert told[0] == ("tokenise", len(text), len(text))
    scored = [at for at in told if at[0] == "score"]
    assert [done for _, done, _ in scored] == sorted({done for _, done, _ in scored})
    assert scored[-1] == ("score", count, count)
    assert len(scored) > 5


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_batch_is_as_asked(llama: Any, text: str, batch: int) -> None:
    with measuring(lambda *_: None) as went:
        scores = npukv.score_segments(llama, text, QUESTION, segment=50, batch=batch, horizon=1)
    rows = min(batch, len(scores))
    assert went == [[rows, 1]] * -(-len(scores) // rows)  # the last is filled up


def test_batches_are_alike_and_some_segments_go_in_batches_of_all(llama: Any, text: str) -> None:
    plan = make_plan(llama, as_tokens(llama, text), (QUESTION,), segment=50, horizon=2)
    some, count = np.array([2, 3, 11]), len(plan.segments)
    with measuring(lambda *_: None) as went, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "batch_size", lambda *_: count // 2 + 1)
        [every] = score_plan(llama, plan)
        [alone] = score_plan(llama, plan, only=some)
        [filled] = score_plan(llama, plan, only=some, as_all=True)
    assert went == [[-(-count // 2), 1], [-(-count // 2), 1], [3, 1], [-(-count // 2), 1]]
    for name in ("entropies", "question"):
        exact = getattr(every, name)[some]
        assert getattr(filled, name)[some].tobytes() == exact.tobytes()  # to the bit
        np.testing.assert_allclose(getattr(alone, name)[some], exact, atol=1e-4)


def test_a_shortlist_leaves_the_directory_no_small_batches(llama: Any, text: str, tmp_path: Path) -> None:
    plan = make_plan(llama, as_tokens(llama, text), (QUESTION,), segment=50, horizon=2)
    with measuring(lambda *_: None) as went, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "batch_size", lambda *_: 8)
        score_plan(llama, plan, only=np.array([2, 3, 11]), run=tmp_path)
        score_plan(llama, plan, run=tmp_path)
    count = len(plan.segments)
    assert [rows for rows, _ in went] == [3, *[-(-count // -(-count // 8))] * -(-count // 8)]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to")]
)
def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered(
    llama: Any, text: str, tmp_path: Path, error: BaseException
) -> None:
    options: dict[str, Any] = {"segment": 50, "horizon": 2}
    expected = npukv.score_segments(llama, text, QUESTION, **options)
    tried: list[int] = []

    def check(rows: int, questions: list[int]) -> None:
        tried.append(rows)
        room_for(3, error)(rows, questions)

    with measuring(check) as went:
        scores = npukv.score_segments(llama, text, QUESTION, batch=16, run=tmp_path, **options)
    assert tried[:4] == [16, 8, 4, 2]
    assert max(tried[4:]) == 2
    assert sum(rows for rows, _ in went) == -(-len(scores) // 2) * 2
    assert_same(scores, expected)
    with measuring(lambda *_: None) as went:
        npukv.score_segments(llama, text, "Why?", run=tmp_path, **options)
    assert max(rows for rows, _ in went) == 2  # the directory remembers


def test_one_row_that_does_not_fit_is_an_error(llama: Any, text: str) -> None:
    with (
        measuring(room_for(0, MemoryError())) as went,
        pytest.raises((MemoryError, NpukvError)),
    ):
        npukv.score_segments(llama, text, QUESTION, batch=4)
    assert went == []


def test_other_errors_are_not_taken_for_memory(llama: Any, text: str) -> None:
    tried: list[int] = []
    with (
        measuring(
            lambda rows, _: tried.append(rows) or room_for(0, RuntimeError("shapes cannot be multiplied"))(rows, _)
        ),
        pytest.raises(RuntimeError, match="multiplied"),
    ):
        npukv.score_segments(llama, text, QUESTION, batch=4)
    assert tried == [4]
