"""The closer look: passages of the best segments, scored like segments, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npukv
from npukv.relevance.answer import answer_from
from npukv.relevance.cut import Segment, cut
from npukv.relevance.passages import OVERLAP, PARTS, lying_in, score_passages
from npukv.relevance.pick import merge
from npukv.relevance.second_look import FEWEST, TIMES
from npukv.text import tokenize

QUESTION = "Who went up?"


@given(st.integers(1, 400), st.integers(1, 60), st.data())
def test_passages_lie_in_the_segments_and_each_segment_has_some(tokens: int, length: int, data: Any) -> None:
    segments = cut(tokens, length, data.draw(st.integers(0, length - 1)))
    chosen = data.draw(st.sets(st.sampled_from(segments), min_size=1))
    spans = merge([Segment(0, start, end) for start, end in chosen])
    size = min(max(1, length // PARTS), tokens)
    windows = cut(tokens, size, size // OVERLAP)
    found = lying_in(np.array([start for start, _ in windows]), size, spans).tolist()
    held = {token for start, end in spans for token in range(start, end)}
    assert found == [i for i, (start, _) in enumerate(windows) if start + size // 2 in held]
    for start, end in chosen:
        assert any(start <= windows[i][0] + size // 2 < end for i in found)


@pytest.mark.parametrize(("length", "overlap", "measure"), [(24, 4, "certainty+question+words"), (36, 0, "first")])
def test_passages_of_the_best_segments_have_the_scores_they_have_alone(
    llama: Any, text: str, length: int, overlap: int, measure: str
) -> None:
    tokens = tokenize(llama.tokenizer, text)
    scores = npukv.score_segments(llama, tokens, QUESTION, segment=length, overlap=overlap, measure=measure)
    budget = 2 * length
    found = score_passages(llama, tokens, scores, budget)
    passage = length // PARTS
    alone = npukv.score_segments(llama, tokens, QUESTION, segment=passage, overlap=passage // OVERLAP, measure=measure)
    looked = np.flatnonzero(np.isfinite(found.values))
    assert [(s.start, s.end) for s in found.segments] == [(s.start, s.end) for s in alone.segments]
    np.testing.assert_allclose(found.values[looked], alone.values[looked], atol=1e-4)
    best = scores.ranking()[: max(FEWEST, TIMES * 2)]
    assert len(best) < len(scores)
    inside = np.zeros(len(tokens), dtype=bool)
    for i in best:
        inside[scores.segments[int(i)].start : scores.segments[int(i)].end] = True
    assert looked.tolist() == [s.index for s in found.segments if inside[s.start + passage // 2]]


def test_passages_of_what_a_shortlist_left_out_are_left_out(llama: Any, text: str) -> None:
    tokens = tokenize(llama.tokenizer, text)
    options: dict[str, Any] = {"segment": 30, "overlap": 0, "mode": "words", "shortlist": 2}
    scores = npukv.score_segments(llama, tokens, QUESTION, **options)
    found = score_passages(llama, tokens, scores, 200)
    chosen = np.flatnonzero(np.isfinite(found.values))
    middles = {(found.segments[int(i)].start + 30 // PARTS // 2) // 30 for i in chosen}
    assert middles == set(np.flatnonzero(np.isfinite(scores.values)).tolist())


def test_answers_from_the_best_passages_in_the_texts_order(llama: Any, text: str) -> None:
    tokens = tokenize(llama.tokenizer, text)
    options: dict[str, Any] = {"keep": "passages", "max_new_tokens": 8}
    said = npukv.answer(llama, tokens, QUESTION, segment=40, overlap=8, **options)
    assert said.scores is not None and len(said.scores.segments) == said.tokens["segments"]
    room = llama.context - said.tokens["key_context"]
    found = score_passages(llama, tokens, said.scores, llama.context - 8 - len(_prompt(llama)))
    places = [next(s.index for s in found.segments if s.char_start == part.start) for part in said.segments]
    assert places == sorted(places) and len(places) > llama.context // 40
    assert sorted(places) == sorted(found.ranking()[: len(places)].tolist())
    assert [part.score for part in said.segments] == pytest.approx(found.values[places].tolist(), abs=1e-4)
    assert 8 <= room < 8 + 40 // PARTS  # no further passage fits
    again = answer_from(llama, tokens, said.scores, **options)
    assert (again.text, [part.start for part in again.segments]) == (said.text, [p.start for p in said.segments])


def test_of_the_passages_those_within_a_margin_of_the_best(llama: Any, text: str) -> None:
    tokens = tokenize(llama.tokenizer, text)
    options: dict[str, Any] = {"segment": 40, "overlap": 8, "max_new_tokens": 8}
    many = npukv.answer(llama, tokens, QUESTION, keep="passages", **options).segments
    scores = sorted(part.score for part in many if part.score is not None)
    margin = (scores[1] + scores[2]) / 2 - scores[0]  # between the second and the third
    few = npukv.answer(llama, tokens, QUESTION, keep=f"passages:{margin:.6f}", **options).segments
    assert sorted(part.score for part in few if part.score is not None) == scores[:2] != scores
    assert {part.start for part in few} < {part.start for part in many}


def _prompt(lm: Any) -> Any:
    from npukv.prompt import build_prompt

    return build_prompt(lm.tokenizer, QUESTION)
