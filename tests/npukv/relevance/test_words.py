"""Words near one another, against a slow and plain way of saying it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import npukv
from npukv.relevance.plan import make_plan
from npukv.relevance.shortlist import interleave
from npukv.relevance.words import STEP, readings, word_shares
from npukv.text import Tokens, tokenize

QUESTION = "Who went up? Who, then?"


def holds(passage: list[int], sequence: tuple[int, ...], first: int) -> bool:
    """Whether a sequence begins among the first tokens."""
    return any(tuple(passage[at : at + len(sequence)]) == sequence for at in range(min(first, len(passage))))


@pytest.mark.parametrize(
    ("length", "overlap", "tokens"),
    [(51, 8, 700), (64, 0, 640), (200, 40, 1500), (33, 0, 100), (5, 2, 95), (1, 0, 70), (40, 0, 20), (1, 0, 2)],
)
@pytest.mark.parametrize("kind", ["<u2", "<u4", "int64"])
def test_the_best_passage_of_a_segment(
    llama: Any, text: str, length: int, overlap: int, tokens: int, kind: str
) -> None:
    read = tokenize(llama.tokenizer, text)
    held = Tokens(read.ids[:tokens].astype(kind), read.starts[:tokens], 0)
    plan = make_plan(llama, held, (QUESTION,), segment=length, overlap=overlap)
    ids = [int(token) for token in held.ids]
    steps = range(0, max(1, len(ids) - STEP), STEP)
    passages, whole = dict.fromkeys(steps, 0.0), 0.0
    inside = []
    for segment in plan.segments:
        begin, end = segment.start // STEP * STEP, -(-segment.end // STEP) * STEP
        # a segment within one step takes the passage that begins with it, or the text's last
        inside.append([at for at in steps if begin <= at and at + 2 * STEP <= end] or [min(begin, steps[-1])])
    for token, others in readings(llama, QUESTION).items():
        having = [at for at in steps if any(holds(ids[at:], way, 2 * STEP) for way in ((token,), *others))]
        holding = sum(bool({*mine} & {*having}) for mine in inside)
        weight = math.log(1 + (len(inside) - holding + 0.5) / (holding + 0.5))
        whole += weight
        for at in having:
            passages[at] += weight
    rarities = [max(passages[at] for at in mine) for mine in inside]
    expected = np.array(rarities) / max(*rarities, whole / 2)
    np.testing.assert_allclose(word_shares(llama, plan), expected, rtol=1e-12)


def test_shares_are_looked_up_once_and_kept_with_the_plan(llama: Any, text: str) -> None:
    plan = make_plan(llama, tokenize(llama.tokenizer, text), (QUESTION, "When?"), segment=40)
    found = [word_shares(llama, plan, i) for i in range(2)]
    assert word_shares(llama, plan.of(1)) is found[1] and word_shares(llama, plan) is found[0]
    assert word_shares(llama, plan.of(1), ranks=None) is found[1]  # type: ignore[arg-type]


def test_of_a_question_whose_words_are_nowhere_no_segment_has_much(llama: Any) -> None:
    lines = ["the wind was low and nothing moved upon the water all that day"] * 60
    lines[40] += " zyx"
    tokens = tokenize(llama.tokenizer, "\n".join(lines))
    alone = word_shares(llama, make_plan(llama, tokens, ("zyx",), segment=40))
    among = word_shares(llama, make_plan(llama, tokens, ("zyx qvj kpf wgb xzq vvk",), segment=40))
    assert alone.max() == 1.0 and 0 < among.max() < 1.0 and alone.argmax() == among.argmax()


def test_a_word_counts_in_any_capitals(llama: Any) -> None:
    lines = ["the wind was low and nothing moved upon the water all that day"] * 60
    lines[40] = "Eternal keeps it"
    tokens = tokenize(llama.tokenizer, "\n".join(lines))
    segment = 40
    for asked in ("eternal", "ETERNAL", "Eternal"):
        plan = make_plan(llama, tokens, (asked,), segment=segment)
        best = plan.segments[int(np.argmax(word_shares(llama, plan)))]
        place = sum(len(line) + 1 for line in lines[:40])
        assert best.char_start <= place + len("Eternal") and place <= best.char_end + 2 * STEP * 4


def test_two_orders_in_turn() -> None:
    one, other = np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([0.0, 9.0, 9.0, 1.0, 2.0])
    assert list(np.argsort(interleave(one, other), kind="stable")) == [0, 1, 3, 2, 4]


def test_without_an_index(llama: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from npukv.relevance import sketch

    monkeypatch.setattr(sketch, "open_sketch", lambda *_, **__: pytest.fail("built a sketch"))
    scores = npukv.score_segments(llama, text, QUESTION, mode="words", shortlist=3, segment=40)
    assert len(scores.shortlist) == 3
