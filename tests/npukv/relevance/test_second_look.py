"""The second look at the best segments: what is measured anew, what is not, and when there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import npukv
from npukv.errors import InputError
from npukv.prompt import build_prompt
from npukv.relevance import answer as module
from npukv.relevance.answer import answer_from
from npukv.relevance.cut import Windows
from npukv.relevance.measures import Measured
from npukv.relevance.scores import Scores
from npukv.relevance.second_look import FEWEST, TIMES, best_of, look_again
from npukv.text import tokenize

QUESTION = "Who went up?"
CUT: dict[str, Any] = {"segment": 20, "overlap": 3}


def test_certainty_is_that_of_the_question_ahead_and_behind(lm: Any, text: str) -> None:
    """Against the stock model, one whole sequence at a time."""
    tokens = tokenize(lm.tokenizer, text)
    scores = npukv.score_segments(lm, tokens, QUESTION, horizon=1, **CUT)
    found = look_again(lm, tokens, scores, 1)
    looked = np.flatnonzero(np.isfinite(found.values))
    assert looked.tolist() == sorted(scores.ranking()[:FEWEST].tolist()) and len(looked) < len(scores)
    prompt = build_prompt(lm.tokenizer, QUESTION, ahead=True)
    for i in looked:
        segment = scores.segments[int(i)]
        ids = [*prompt.head, *tokens.ids[segment.start : segment.end].tolist(), *prompt.after]
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids])).logits[0, -1].double()
        entropy = torch.distributions.Categorical(logits=logits).entropy().item()
        assert found.entropy[i] == pytest.approx(entropy, abs=1e-3)
    assert not np.allclose(found.entropy[looked], scores.entropy[looked], atol=1e-3)


def test_what_the_segment_says_of_the_question_and_its_words_stay(llama: Any, text: str) -> None:
    tokens = tokenize(llama.tokenizer, text)
    scores = npukv.score_segments(llama, tokens, QUESTION, **CUT)
    found = look_again(llama, tokens, scores, 1)
    looked = np.flatnonzero(np.isfinite(found.values))
    assert found.asked == scores.asked and found.segments is scores.segments and found.measure == scores.measure
    assert np.array_equal(found.question[looked], scores.question[looked])
    assert found.measured.words is scores.measured.words
    assert found.entropies.shape == scores.entropies.shape
    by_parts = replace(scores, measured=replace(scores.measured, entropies=found.entropies), shortlist=looked)
    np.testing.assert_allclose(found.values, by_parts.values)
    assert found.scored == len(looked) and found.seconds > 0


@pytest.mark.parametrize("measure", ["first", "question"])
def test_measures_without_certainty_look_once(llama: Any, text: str, measure: str) -> None:
    tokens = tokenize(llama.tokenizer, text)
    scores = npukv.score_segments(llama, tokens, QUESTION, measure=measure, **CUT)
    assert look_again(llama, tokens, scores, 1) is scores


def test_where_the_question_does_not_fit_twice_there_is_one_look(llama: Any, text: str) -> None:
    tokens = tokenize(llama.tokenizer, text)
    room = llama.context - len(build_prompt(llama.tokenizer, QUESTION, ahead=True)) - 8
    for length in (room, room + 1):
        scores = npukv.score_segments(llama, tokens, QUESTION, segment=length, overlap=0)
        assert (look_again(llama, tokens, scores, 1) is scores) == (length > room)


@pytest.mark.parametrize("kept", [1, 5])
def test_of_a_shortlist_only_what_is_on_it(llama: Any, text: str, kept: int) -> None:
    tokens = tokenize(llama.tokenizer, text)
    scores = npukv.score_segments(llama, tokens, QUESTION, mode="words", shortlist=18, **CUT)
    found = look_again(llama, tokens, scores, kept)
    assert set(np.flatnonzero(np.isfinite(found.values))) <= set(np.flatnonzero(np.isfinite(scores.values)))
    assert np.isfinite(found.values).sum() == (FEWEST if kept == 1 else 18)


@given(st.lists(st.one_of(st.just(np.inf), st.floats(0, 9)), min_size=1, max_size=80), st.integers(1, 30))
def test_the_best_are_looked_at_and_no_others(values: list[float], kept: int) -> None:
    count = len(values)
    likely = np.array(values, dtype=np.float32)
    finite = np.flatnonzero(np.isfinite(likely))
    measured = Measured(np.zeros((count, 1), np.float32), likely)
    segments = Windows(count, 1, 0, lambda start, end: (start, end))
    found = best_of(Scores("", segments, measured, "question", shortlist=finite), kept)
    assert len(found) == min(len(finite), max(FEWEST, TIMES * kept))
    assert found.tolist() == sorted(set(found.tolist())) and set(found) <= set(finite)
    left = sorted(set(finite) - set(found))
    if left:
        assert likely[found].max() <= likely[left].min()


def test_answers_come_from_the_second_look_where_it_is_asked_for(
    llama: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tokenize(llama.tokenizer, text)
    options: dict[str, Any] = {"keep": 2, "max_new_tokens": 4}
    twice = {"second_look": True}
    said = npukv.answer(llama, tokens, QUESTION, **CUT, **options, **twice)
    assert said.scores is not None
    again = look_again(llama, tokens, said.scores, 2)
    places = {part.start: part.score for part in said.segments}
    best = [again.segments[int(i)].char_start for i in again.ranking()[:2]]
    assert set(places) == set(best)
    assert [places[start] for start in best] == pytest.approx(again.values[again.ranking()[:2]].tolist(), abs=1e-4)
    assert answer_from(llama, tokens, said.scores, **options, **twice).segments == said.segments
    monkeypatch.setattr(module, "look_again", None)  # from here on nobody looks twice
    once = [said.scores.segments[int(i)].char_start for i in said.scores.ranking()[:2]]
    given = npukv.answer(llama, tokens, QUESTION, **CUT, **options)
    assert {part.start for part in given.segments} == set(once)
    assert answer_from(llama, tokens, said.scores, **options).segments == given.segments
    assert set(once) != set(best)  # else this test could not fail


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ahead": False}, "got a second look and no question ahead"),
        ({"keep": "passages"}, "got a second look and --keep passages"),
        ({"measure": "first"}, "got a second look by measure 'first', expected one with certainty"),
    ],
)
def test_a_second_look_in_vain_is_refused_before_the_model_runs(
    llama: Any, text: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = npukv.score_segments(llama, text, QUESTION, measure=options.get("measure", "certainty"), **CUT)
    monkeypatch.setattr(llama.model, "forward", None)
    with pytest.raises(InputError, match=message):
        npukv.answer(llama, text, QUESTION, second_look=True, **options)
    rest = {name: value for name, value in options.items() if name != "measure"}
    with pytest.raises(InputError, match=message):
        answer_from(llama, tokenize(llama.tokenizer, text), scores, second_look=True, **rest)
