"""From a question over a long text to an answer, and what it rests on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import npukv
from npukv.errors import InputError, ModelError
from npukv.prompt import build_prompt
from npukv.relevance import answer as module
from npukv.relevance.answer import KEEP, answer_from
from npukv.relevance.second_look import look_again
from npukv.text import tokenize

QUESTION = "Who went up?"


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The token ids each answer was generated from."""
    went: list[list[int]] = []
    real = module.generate

    def spy(lm: Any, ids: Any, *rest: Any) -> Any:
        went.append(list(ids))
        return real(lm, ids, *rest)

    monkeypatch.setattr(module, "generate", spy)
    return went


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every result of scoring."""
    results: list[Any] = []
    real = module.score_segments
    monkeypatch.setattr(module, "score_segments", lambda *a, **k: results.append(real(*a, **k)) or results[-1])
    return results


def test_text_that_fits_is_read_whole(lm: Any, text: str, prompts: list[list[int]], scored: list[Any]) -> None:
    short = text[:200]
    given = npukv.answer(lm, short, QUESTION, max_new_tokens=5)
    prompt = build_prompt(lm.tokenizer, QUESTION, ahead=True)
    assert scored == []
    assert given.scores is None
    assert [(part.start, part.end, part.score) for part in given.segments] == [(0, 200, None)]
    assert prompts == [[*prompt.head, *lm.encode(short), *prompt.question, *prompt.tail]]
    assert given.tokens == {
        "text": len(lm.encode(short)),
        "segments": 0,
        "key_context": len(prompts[0]),
        "answer": given.tokens["answer"],
    }
    assert 1 <= given.tokens["answer"] <= 5


def test_scoring_begins_where_the_context_ends(llama: Any, text: str, scored: list[Any]) -> None:
    tokens = tokenize(llama.tokenizer, text)
    room = 256 - len(build_prompt(llama.tokenizer, QUESTION)) - 20
    fits, longer = (text[: tokens.span(0, count)[1]] for count in (room, room + 1))
    assert npukv.answer(llama, fits, QUESTION, max_new_tokens=20).tokens["key_context"] == 256 - 20
    assert scored == []
    given = npukv.answer(llama, longer, QUESTION, max_new_tokens=20)
    assert len(scored) == 1
    assert given.tokens["segments"] == len(scored[0]) > 1


@pytest.mark.parametrize("keep", [1, 2, "3", "fill", "margin:0.2"])
def test_key_context_is_the_best_segments_in_the_texts_order(
    lm: Any, text: str, prompts: list[list[int]], scored: list[Any], keep: int | str
) -> None:
    given = npukv.answer(lm, text, QUESTION, keep=keep, segment=40, overlap=10, max_new_tokens=8)
    scores = scored[0]
    assert given.scores is scores
    places = [next(s.index for s in scores.segments if s.char_start == part.start) for part in given.segments]
    assert places == sorted(places)
    assert [part.score for part in given.segments] == scores.values[places].tolist()
    # no segment left out is better than one that is in
    if keep != "margin:0.2":
        assert sorted(places) == sorted(scores.ranking()[: len(places)].tolist())
    if str(keep).isdigit():
        assert len(places) == int(keep)
    # what the model read: the union, once, in order
    inside = sorted({token for i in places for token in range(scores.segments[i].start, scores.segments[i].end)})
    ids = tokenize(lm.tokenizer, text).ids
    prompt = build_prompt(lm.tokenizer, QUESTION, ahead=True)
    assert prompts == [[*prompt.head, *ids[inside].tolist(), *prompt.after]]
    assert given.tokens["key_context"] == len(prompts[0]) <= lm.context - 8
    assert given.tokens["text"] == len(ids)


def test_the_question_stands_ahead_where_there_is_room_for_it_twice(
    llama: Any, text: str, prompts: list[list[int]]
) -> None:
    """A text that fits the context with the question once is read whole, and a segment that does is read."""
    plain, ahead = (build_prompt(llama.tokenizer, QUESTION, ahead=ahead) for ahead in (False, True))
    tokens = tokenize(llama.tokenizer, text)
    room = 256 - len(ahead) - 20
    for count, prompt in ((room, ahead), (room + 1, plain)):
        piece = text[: tokens.span(0, count)[1]]
        assert npukv.answer(llama, piece, QUESTION, max_new_tokens=20).scores is None
        assert prompts[-1] == [*prompt.head, *tokenize(llama.tokenizer, piece).ids, *prompt.after]
    for length, prompt in ((room, ahead), (room + 1, plain)):
        given = npukv.answer(llama, text, QUESTION, max_new_tokens=20, segment=length, keep=1)
        assert given.tokens["key_context"] == length + len(prompt)
        assert prompts[-1][: len(prompt.head)] == list(prompt.head)
        assert given.scores is not None
        answer_from(llama, tokens, given.scores, max_new_tokens=20, keep=1)
        assert prompts[-1] == prompts[-2]
    npukv.answer(llama, text[:200], QUESTION, max_new_tokens=20, ahead=False)
    assert prompts[-1][: len(ahead.head)] != list(ahead.head)


def test_segments_are_chosen_from_a_text_that_fits_where_that_is_asked_for(
    llama: Any, text: str, prompts: list[list[int]]
) -> None:
    piece = text[:300]
    asked: dict[str, Any] = {"segment": 40, "overlap": 4, "keep": 1, "max_new_tokens": 8}
    assert npukv.answer(llama, piece, QUESTION, **asked).scores is None
    given = npukv.answer(llama, piece, QUESTION, whole=False, **asked)
    assert given.scores is not None
    best = given.scores.segments[int(given.scores.ranking()[0])]
    assert [(part.start, part.end) for part in given.segments] == [(best.char_start, best.char_end)]
    assert given.tokens["key_context"] == len(prompts[-1]) < len(prompts[0])
    short = npukv.answer(llama, text[:60], QUESTION, whole=False, **asked)  # less than one segment
    assert [(part.start, part.end) for part in short.segments] == [(0, 60)]


def test_what_is_kept_by_default(llama: Any, text: str) -> None:
    """Passages near the best one; one segment by a measure whose nats are others, and after a second look."""
    tokens = tokenize(llama.tokenizer, text)
    options: dict[str, Any] = {"segment": 40, "overlap": 8, "max_new_tokens": 4}
    for asked, keep in (
        ({}, KEEP),
        ({"measure": "question"}, 1),
        ({"second_look": True}, 1),
    ):
        given = npukv.answer(llama, tokens, QUESTION, **options, **asked)
        wanted = npukv.answer(llama, tokens, QUESTION, keep=keep, **options, **asked)
        assert given.segments == wanted.segments
        assert (len(given.segments) == 1) is (keep == 1) or keep == KEEP
        assert given.scores is not None
        asked.pop("measure", None)
        again = answer_from(llama, tokens, given.scores, max_new_tokens=4, **asked)
        assert [(s.start, s.end) for s in again.segments] == [(s.start, s.end) for s in given.segments]


def test_segments_are_scored_with_the_question_behind_them_alone(llama: Any, text: str) -> None:
    asked: dict[str, Any] = {"segment": 40, "max_new_tokens": 4}
    scores = [npukv.answer(llama, text, QUESTION, ahead=ahead, **asked).scores for ahead in (False, True)]
    assert scores[0] is not None and scores[1] is not None
    assert np.array_equal(scores[0].values, scores[1].values)


def test_segments_are_places_in_the_text(llama: Any, text: str) -> None:
    given = npukv.answer(llama, "é🙂 " + text, QUESTION, segment=40, overlap=5, keep=3, max_new_tokens=4)
    assert given.scores is not None
    ids = tokenize(llama.tokenizer, "é🙂 " + text).ids
    by_start = {segment.char_start: segment for segment in given.scores.segments}
    for part in given.segments:
        segment = by_start[part.start]
        assert ("é🙂 " + text)[part.start : part.end] == llama.decode(ids[segment.start : segment.end])


def test_neighbours_and_head_are_added(llama: Any, text: str, scored: list[Any]) -> None:
    options: dict[str, Any] = {"segment": 30, "overlap": 0, "keep": 1, "max_new_tokens": 4, "second_look": True}
    given = npukv.answer(llama, text, QUESTION, neighbours=1, keep_head=True, **options)
    again = look_again(llama, tokenize(llama.tokenizer, text), scored[0], 1)
    best = int(again.ranking()[0])
    expected = {0, best - 1, best, best + 1} & set(range(len(scored[0])))
    assert {scored[0].segments[i].char_start for i in expected} == {part.start for part in given.segments}
    assert all(part.score is not None for part in given.segments)  # whether looked at twice or once


def test_head_without_room_is_settled_before_or_beside_the_best(llama: Any, text: str, scored: list[Any]) -> None:
    """One segment fits, not two."""
    given = npukv.answer(llama, text, QUESTION, segment=140, overlap=0, keep=1, keep_head=True, max_new_tokens=8)
    assert given.segments[0].start == scored[0].segments[int(scored[0].ranking()[0])].char_start


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "best"}, "got keep 'best', expected a number of segments"),
        ({"keep": 0}, "got keep 0"),
        ({"max_new_tokens": 0}, "got 0 new tokens, expected at least 1; raise --max-new-tokens"),
        ({"max_new_tokens": 240}, r"got a question of \d+ tokens .* and 240 for the answer, expected fewer than 256"),
        ({"segment": 0}, "got a segment of 0 tokens"),
        ({"segment": 20, "overlap": 20}, "got an overlap of 20"),
        ({"measure": "best"}, "got measure 'best'"),
        ({"horizon": 0}, "got a horizon of 0"),
    ],
)
@pytest.mark.parametrize("length", [100, 4000])
def test_refused_before_the_model_runs(
    llama: Any, text: str, options: dict[str, Any], message: str, length: int
) -> None:
    """Also where the text would fit the context and the option would not matter: it is wrong all the same."""
    ran: list[int] = []
    hook = llama.model.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        with pytest.raises(InputError, match=message):
            npukv.answer(llama, text[:length], QUESTION, **options)
    finally:
        hook.remove()
    assert not ran


def test_segment_that_fits_scoring_but_not_the_answer_is_refused(llama: Any, text: str, scored: list[Any]) -> None:
    with pytest.raises(InputError, match=r"got segments of 200 tokens, expected at most \d+, .*lower --segment"):
        npukv.answer(llama, text, QUESTION, segment=200, max_new_tokens=64)
    assert scored == []


@pytest.mark.parametrize(("given_text", "question"), [("", QUESTION), ("text", ""), ("text", " \n")])
def test_nothing_to_read_or_to_ask_is_refused(llama: Any, given_text: str, question: str) -> None:
    with pytest.raises(InputError, match=r"got an empty (text|question), expected words"):
        npukv.answer(llama, given_text, question)


def test_question_longer_than_the_context_is_refused(llama: Any, text: str) -> None:
    with pytest.raises(InputError, match="shorten the question"):
        npukv.answer(llama, "In Egypt.", text)


@pytest.mark.parametrize("length", [100, 3000])
def test_logits_that_are_not_numbers_are_a_model_error(chains: Any, text: str, length: int) -> None:
    """Also for a text that fits, which nothing scores."""
    lm = chains.load({": the LORD.\n": 9.0})
    with torch.no_grad():
        lm.model.lm_head.weight[5] = float("nan")
    with pytest.raises(ModelError, match="not numbers"):
        npukv.answer(lm, text[:length], QUESTION)


def test_answer_counts_times_and_streams(chains: Any, text: str) -> None:
    lm = chains.load({": the LORD.\n And": 9.0})
    pieces: list[str] = []
    told: set[str] = set()
    given = npukv.answer(
        lm, text, QUESTION, stream=pieces.append, progress=lambda stage, done, total: told.add(stage), batch=3
    )
    assert given.text == "the LORD."
    assert "".join(pieces).strip() == given.text
    assert told == {"tokenise", "score"}
    assert given.tokens["answer"] == 4
    assert set(given.seconds) == {"tokenise", "score", "generate"}
    assert all(value > 0 for value in given.seconds.values())


def test_answer_prefix_is_what_the_answer_goes_on_from(chains: Any) -> None:
    lm = chains.load({" LORD is God.\n": 9.0})
    assert npukv.answer(lm, "In Egypt.", "Who?", answer_prefix="The LORD").text == "is God."


def test_an_interrupted_run_answers_the_same(llama: Any, text: str, tmp_path: Any) -> None:
    options: dict[str, Any] = {"segment": 40, "keep": 2, "max_new_tokens": 12, "batch": 4}
    expected = npukv.answer(llama, text, QUESTION, **options)

    class Interrupted(Exception):
        pass

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "score" and done > 600:
            raise Interrupted

    with pytest.raises(Interrupted):
        npukv.answer(llama, text, QUESTION, run=tmp_path, progress=interrupt, **options)
    given = npukv.answer(llama, text, QUESTION, run=tmp_path, **options)
    assert given.scores is not None
    assert expected.scores is not None
    assert 0 < given.scores.scored < len(given.scores)
    assert given.text == expected.text
    assert given.segments == expected.segments
    assert np.array_equal(given.scores.values, expected.scores.values)


def test_answer_from_scores_there_are(llama: Any, text: str, prompts: list[list[int]]) -> None:
    options: dict[str, Any] = {"keep": 2, "max_new_tokens": 6}
    direct = npukv.answer(llama, text, QUESTION, segment=40, **options)
    assert direct.scores is not None
    again = answer_from(llama, tokenize(llama.tokenizer, text), direct.scores, **options)
    assert prompts[0] == prompts[1]
    assert (again.text, again.segments, again.tokens) == (direct.text, direct.segments, direct.tokens)
    more = answer_from(llama, tokenize(llama.tokenizer, text), direct.scores, keep=3, max_new_tokens=6)
    assert len(more.segments) == 3
