"""What a batch measures is what a plain loop over model(ids) measures, in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import npukv
from npukv.errors import ModelError
from npukv.relevance.measure import measure_batch
from npukv.relevance.plan import make_plan
from npukv.relevance.score import as_tokens
from npukv.text import tokenize

QUESTION = "Who went up from Egypt?"
OTHERS = ["What is the name of the place?", QUESTION, "Why?"]


def slowly(lm: Any, segment: list[int], prompt: Any, horizon: int) -> tuple[list[float], float, float]:
    """Entropies until the answer ends, mean -log p of the question, and the closest call of a greedy choice.

    The stock model in float64, all logits, the whole sequence again for each token looked ahead.
    """
    ids = [*prompt.head, *segment, *prompt.question, *prompt.tail]
    ends = {i for i in range(len(lm.tokenizer)) if any(c in lm.tokenizer.decode([i]) for c in ".\n")} | {1}

    def log_probabilities() -> torch.Tensor:
        with torch.no_grad():
            return lm.stock(torch.tensor([ids])).logits[0].log_softmax(-1)

    read = log_probabilities()
    first = len(prompt.head) + len(segment)
    asked = [-float(read[first + i - 1, token]) for i, token in enumerate(prompt.question) if i]
    entropies, closest = [], math.inf
    for _ in range(horizon):
        last = log_probabilities()[-1]
        entropies.append(-float((last.exp() * last).sum()))
        best = last.topk(2)
        closest = min(closest, float(best.values[0] - best.values[1]))
        if int(best.indices[0]) in ends:
            break
        ids.append(int(best.indices[0]))
    return entropies, sum(asked) / len(asked), closest


@pytest.fixture
def with_stock(lm: Any) -> Any:
    lm.stock = AutoModelForCausalLM.from_pretrained(lm.name, attn_implementation="eager").eval().double()
    lm.stock.config._experts_implementation = "eager"  # torch's grouped products know no float64
    return lm


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("question", [QUESTION, [*OTHERS]])
def test_scores_are_a_plain_loops(with_stock: Any, text: str, batch: int, question: str | list[str]) -> None:
    lm = with_stock
    tokens = tokenize(lm.tokenizer, text[:900])
    asked = [question] if isinstance(question, str) else question
    scored = npukv.score_segments(lm, tokens, asked, segment=60, overlap=7, horizon=5, batch=batch)
    plan = make_plan(lm, tokens, tuple(asked), segment=60, overlap=7, horizon=5)
    assert len(plan.segments) > 5
    compared, ended = 0, 0
    for scores, prompt in zip(scored, plan.prompts, strict=True):
        for i, window in enumerate(plan.segments):
            ids = tokens.ids[window.start : window.end].tolist()
            entropies, likelihood, closest = slowly(lm, ids, prompt, 5)
            assert scores.question[i] == pytest.approx(likelihood, abs=1e-4)
            assert scores.first[i] == pytest.approx(entropies[0], abs=1e-4)
            if closest > 1e-3:  # else rounding decides which token is looked ahead to
                compared += 1
                ended += len(entropies) < 5
                found = scores.entropies[i][~np.isnan(scores.entropies[i])]
                assert found.tolist() == pytest.approx(entropies, abs=1e-4)
                assert scores.entropy[i] == pytest.approx(np.mean(entropies), abs=1e-4)
    assert compared > 0.8 * len(plan.segments) * len(asked)
    assert 0 < ended < compared or lm.model.config.tie_word_embeddings


def test_several_questions_are_each_question_alone(lm: Any, text: str) -> None:
    together = npukv.score_segments(lm, text, OTHERS, segment=50, horizon=4)
    assert [scores.asked for scores in together] == OTHERS
    for question, scores in zip(OTHERS, together, strict=True):
        alone = npukv.score_segments(lm, text, question, segment=50, horizon=4)
        np.testing.assert_allclose(scores.question, alone.question, atol=1e-4)
        np.testing.assert_allclose(scores.first, alone.first, atol=1e-4)
        same = np.isclose(scores.entropies, alone.entropies, atol=1e-4, equal_nan=True).all(axis=1)
        assert same.mean() > 0.9  # a close call of a greedy choice may fall the other way


def test_a_segment_is_read_once_for_several_questions(llama: Any, text: str) -> None:
    read: list[int] = []
    hook = llama.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(args[0].shape[1]), with_kwargs=True
    )
    try:
        npukv.score_segments(llama, text[:500], OTHERS, segment=50, overlap=0, horizon=1, batch=1)
    finally:
        hook.remove()
    segments = -(-len(llama.encode(text[:500])) // 50)
    assert read.count(51) == segments  # head and segment
    assert len(read) == segments * (1 + len(OTHERS))


def test_logits_are_computed_for_the_questions_tokens_alone(lm: Any, text: str) -> None:
    """Never [T, V]: the head sees the question's positions, and one per token looked ahead."""
    seen: list[int] = []
    head = lm.model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    try:
        for question in (QUESTION, OTHERS):
            npukv.score_segments(lm, text[:900], question, segment=60, horizon=3)
    finally:
        hook.remove()
    longest = max(len(prompt.after) for prompt in make_plan(lm, as_tokens(lm, text), tuple(OTHERS), segment=60).prompts)
    assert longest < 60
    assert seen
    assert max(seen) <= longest


def test_lookahead_goes_on_from_the_cache(llama: Any, text: str) -> None:
    """After the first pass, one token at a time."""
    read: list[int] = []
    hook = llama.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(args[0].shape[1]), with_kwargs=True
    )
    try:
        npukv.score_segments(llama, text[:300], QUESTION, segment=40, horizon=4, batch=100)
    finally:
        hook.remove()
    assert read[0] > 40
    assert read[1:] == [1] * 3


def test_no_attention_that_adds_up_in_another_order_every_time(llama: Any, text: str) -> None:
    """Else a resumed run differs from a whole one, and two cards from one, in last bits."""
    allowed: list[bool] = []
    before = torch.backends.cuda.cudnn_sdp_enabled()
    hook = llama.model.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cuda.cudnn_sdp_enabled()))
    try:
        npukv.score_segments(llama, text[:300], QUESTION, segment=40, horizon=4, batch=100)
    finally:
        hook.remove()
    assert allowed and not any(allowed)
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def in_closed_form(logit: float, vocabulary: int) -> tuple[float, float]:
    """-log p of the token with that logit where all others have 0, and the entropy, in nats."""
    total = math.exp(logit) + vocabulary - 1
    p = math.exp(logit) / total
    return -math.log(p), -p * math.log(p) - (vocabulary - 1) / total * math.log(1 / total)


def test_entropies_end_with_the_answer(chains: Any) -> None:
    """Of " the LORD." the three tokens count, the period's among them; what would follow it does not."""
    lm = chains.load({":": 0.0, ": the": 2.0, " the LORD": 5.0, " LORD.": 8.0, ".\n And": 30.0})
    scores = npukv.score_segments(lm, "In Egypt, he went up", "Why?", horizon=6)
    expected = [in_closed_form(logit, len(lm.tokenizer))[1] for logit in (2.0, 5.0, 8.0)]
    assert scores.entropies[0, :3].tolist() == pytest.approx(expected, rel=1e-4)
    assert np.isnan(scores.entropies[0, 3:]).all()
    assert scores.entropy[0] == pytest.approx(np.mean(expected), rel=1e-4)
    short = npukv.score_segments(lm, "In Egypt, he went up", "Why?", horizon=2)
    assert short.entropies.shape == (1, 2)
    assert short.entropies[0].tolist() == pytest.approx(expected[:2], rel=1e-4)


def test_likelihood_counts_from_the_questions_second_token(chains: Any) -> None:
    question = "Why?"
    lm = chains.load({"?\nAnswer": 3.0})
    vocabulary = len(lm.tokenizer)
    ids = lm.encode(f"\nQuestion: {question}\nAnswer:")
    chained = lm.encode("?\nAnswer")
    likely = {pair: in_closed_form(3.0, vocabulary)[0] for pair in itertools.pairwise(chained)}
    unlikely = {one: math.log(math.exp(3.0) + vocabulary - 1) for one in chained[:-1]}
    expected = [
        likely.get((one, following), unlikely.get(one, math.log(vocabulary)))
        for one, following in itertools.pairwise(ids)
    ]
    assert min(expected) < 4 < max(expected)
    scores = npukv.score_segments(lm, "In Egypt", question)
    assert scores.question[0] == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_a_model_error(
    chains: Any, text: str, value: float, load_tiny: Callable[[str], Any]
) -> None:
    lm = chains.load({": the": 2.0})
    with torch.no_grad():
        lm.model.model.norm.weight[3] = value
    with pytest.raises(ModelError, match=r"logits are not numbers for a segment at or after number 0.*--dtype float32"):
        npukv.score_segments(lm, text, "Why?", segment=50)


def test_lookahead_that_turns_into_no_number_is_a_model_error(chains: Any) -> None:
    """Not taken for the end of the answer."""
    lm = chains.load({": the LORD.": 9.0})
    (the,) = lm.encode(" the")
    with torch.no_grad():
        lm.model.model.embed_tokens.weight[the] = float("nan")
    with pytest.raises(ModelError, match="not numbers"):
        npukv.score_segments(lm, "In Egypt, he went up", "Why?")


def test_rows_do_not_depend_on_their_neighbours(llama: Any, text: str) -> None:
    plan = make_plan(llama, as_tokens(llama, text), (QUESTION,), segment=50, horizon=3)
    ids = np.stack([plan.tokens.ids[s.start : s.end] for s in plan.segments[:6]])
    (together,) = measure_batch(llama, ids, plan.prompts, 3)
    for row in range(6):
        (alone,) = measure_batch(llama, ids[row : row + 1], plan.prompts, 3)
        np.testing.assert_allclose(together.entropies[row], alone.entropies[0], atol=1e-4)
        np.testing.assert_allclose(together.question[row], alone.question[0], atol=1e-4)
