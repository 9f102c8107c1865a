"""Answering a question over a text of any length."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from npukv.errors import InputError
from npukv.generation import generate
from npukv.language_model import LanguageModel
from npukv.parallel.ranks import ALONE, Ranks
from npukv.prompt import Prompt, build_prompt
from npukv.relevance import measures
from npukv.relevance.fast_forward import FastForward
from npukv.relevance.passages import score_passages
from npukv.relevance.pick import Keep, merge, parse_keep, pick
from npukv.relevance.plan import make_plan
from npukv.relevance.score import Progress, as_tokens, score_segments
from npukv.relevance.scores import Scores
from npukv.relevance.second_look import check_second_look, look_again
from npukv.relevance.shortlist import SHORTLIST, check_mode, shortlist_size
from npukv.text import Tokens

#: What is kept by default, with the default measure: passages of the best segments, within half a nat of the best one.
#: That is mostly one place; where two could be meant, the model sees both, and whole segments of more would confuse it
#: (README, measured results). Larger models can use more.
KEEP = "passages:0.5"
MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class Used:
    """A segment of the key context: characters [start, end) of the text; score None where it was not scored."""

    start: int
    end: int
    score: float | None


@dataclass(frozen=True)
class Answer:
    """What `npukv.answer` returns.

    Attributes:
        text: the answer.
        segments: what it was read from, in the text's order.
        tokens: counts: text, segments, key_context (all the model read at the end), answer.
        seconds: wall times: tokenise, score, generate.
        scores: all segments' scores; None where the text fit the context.
    """

    text: str
    segments: tuple[Used, ...]
    tokens: dict[str, int]
    seconds: dict[str, float]
    scores: Scores | None = field(default=None, repr=False)


def answer(
    lm: LanguageModel,
    text: str | Tokens,
    question: str,
    *,
    keep: int | str | Keep | None = None,
    neighbours: int = 0,
    keep_head: bool = False,
    ahead: bool = True,
    second_look: bool = False,
    whole: bool = True,
    max_new_tokens: int = MAX_NEW_TOKENS,
    segment: int | None = None,
    overlap: int | None = None,
    measure: str = measures.DEFAULT,
    horizon: int | None = None,
    answer_prefix: str = "",
    run: str | Path | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
    stream: Callable[[str], None] | None = None,
    index: str | Path | None = None,
    mode: str = "exact",
    shortlist: str | int = SHORTLIST,
    forward: str | FastForward = "auto",
    ranks: Ranks = ALONE,
) -> Answer:
    """Answer a question over a text that may be far longer than the model's context (XL3M, arXiv 2405.17755).

    The most relevant segments, in the text's order, followed by the question, are the key context the model answers
    from. A text that fits the context is read whole, without scoring, unless ``whole`` says otherwise.

    Args:
        keep: how many segments: a number, "fill" (as many as the context holds), "margin:NATS", or "passages": the best
            segments are read again in passages, of which the context holds the best (for answers in several places);
            "passages:NATS": and of these only those whose score is within so many nats of the best. None = see
            `default_keep`.
        neighbours: also take this many segments (or passages) on each side of a chosen one.
        keep_head: always take the text's first segment (or passage).
        ahead: the key context has the question before the text, too (`npukv.prompt.build_prompt`), where there is room
            for it twice. Segments are scored with it behind them alone, so that several questions share their reading.
        second_look: the best of them are scored again with the question ahead, too, before those to keep are chosen
            (`npukv.relevance.second_look`), by a measure with certainty; they are not where the context has no room for
            it twice beside a segment.
        whole: read a text that fits the context whole. Otherwise segments are chosen from it as from a longer one: what
            a small model misreads in a full context it may read right in a segment (README, measured results).
        max_new_tokens: the answer's greatest length.
        stream: called with each piece of the answer as it comes.
        ranks: rank 0 answers; the others wait, and get the same answer.
        The rest: see `npukv.score_segments`.

    Raises:
        InputError, ModelError, RunError: as `npukv.score_segments`.

    >>> answer = npukv.answer(npukv.load(), text, "What is the pass key?")
    >>> answer.text, answer.segments[0].start
    """
    keep = default_keep(measure, second_look) if keep is None else parse_keep(keep)
    if second_look:
        check_second_look(measures.check(measure), keep, ahead)
    shortlist_size(shortlist if check_mode(mode) != "exact" else SHORTLIST, 1)  # refuses wrong ones
    prompt = build_prompt(lm.tokenizer, question, answer_prefix)
    room_for_text(lm, prompt, max_new_tokens)  # refuses what no context holds
    started = time.perf_counter()
    tokens = as_tokens(lm, text, progress, index or run, ranks)
    seconds = {"tokenise": time.perf_counter() - started, "score": 0.0}
    cutting: dict[str, Any] = {
        "segment": segment,
        "overlap": overlap,
        "measure": measure,
        "horizon": horizon,
        "answer_prefix": answer_prefix,
    }
    plan = make_plan(lm, tokens, (question,), **cutting)  # refuses wrong options whatever the text's length
    length = plan.segments[0].end - plan.segments[0].start
    if whole and len(tokens) <= room_for_text(lm, prompt, max_new_tokens):
        length = len(tokens)
    prompt = prompt_for_answer(lm, question, length, max_new_tokens, answer_prefix, ahead)
    budget = room_for_text(lm, prompt, max_new_tokens)
    if whole and len(tokens) <= budget:
        read = None
        if ranks.first:
            used = (Used(0, tokens.characters, None),)
            read = _read(lm, prompt, tokens, [(0, len(tokens))], used, None, max_new_tokens, seconds, stream)
        return ranks.agree(read, "answer")
    pick(np.zeros(len(plan.segments)), plan.segments, budget, Keep(1))  # refuses segments no budget holds
    scores = score_segments(
        lm,
        tokens,
        question,
        run=run,
        batch=batch,
        progress=progress,
        mode=mode,
        shortlist=shortlist,
        forward=forward,
        ranks=ranks,
        **cutting,
    )
    ranked = rank_again(
        lm,
        tokens,
        scores,
        keep,
        budget,
        second_look,
        answer_prefix=answer_prefix,
        batch=batch,
        progress=progress,
        forward=forward,
        ranks=ranks,
    )
    seconds["score"] = scores.seconds + (0.0 if ranked is scores else ranked.seconds)
    given = None
    if ranks.first:
        chosen = pick(ranked.values, ranked.segments, budget, keep, neighbours, keep_head)
        given = _read_chosen(lm, prompt, tokens, scores, ranked, chosen, max_new_tokens, seconds, stream)
        given = replace(given, scores=None)  # every rank has them
    given = ranks.agree(given, "answer")
    return replace(given, scores=scores)


def answer_from(
    lm: LanguageModel,
    tokens: Tokens,
    scores: Scores,
    *,
    keep: int | str | Keep | None = None,
    neighbours: int = 0,
    keep_head: bool = False,
    ahead: bool = True,
    second_look: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
    answer_prefix: str = "",
    stream: Callable[[str], None] | None = None,
) -> Answer:
    """Answer from scores there are already, for instance to compare measures and numbers of segments.

    Args:
        tokens: the text the scores are of.
        scores: from `npukv.score_segments`, for the question asked.
        The rest: see `answer`.
    """
    length = scores.segments[0].end - scores.segments[0].start
    prompt = prompt_for_answer(lm, scores.asked, length, max_new_tokens, answer_prefix, ahead)
    budget = room_for_text(lm, prompt, max_new_tokens)
    keep = default_keep(scores.measure, second_look) if keep is None else parse_keep(keep)
    if second_look:
        check_second_look(scores.measure, keep, ahead)
    ranked = rank_again(lm, tokens, scores, keep, budget, second_look, answer_prefix=answer_prefix)
    seconds = scores.seconds + (0.0 if ranked is scores else ranked.seconds)
    chosen = pick(ranked.values, ranked.segments, budget, keep, neighbours, keep_head)
    return _read_chosen(lm, prompt, tokens, scores, ranked, chosen, max_new_tokens, {"score": seconds}, stream)


def default_keep(measure: str, second_look: bool = False) -> Keep:
    """What is kept where nobody says how much: `KEEP`; the best segment alone by other measures, whose nats are others,
    and after a second look, which is at segments."""
    return parse_keep(KEEP if measure == measures.DEFAULT and not second_look else 1)


def rank_again(
    lm: LanguageModel, tokens: Tokens, scores: Scores, keep: Keep, budget: int, second_look: bool, **options: Any
) -> Scores:
    """The scores to choose by: of passages of the best segments, or of a second look at them, or those there are.

    Args:
        budget: tokens of text the context has room for.
        options: of `npukv.relevance.second_look.look_again`.
    """
    if keep.passages:
        return score_passages(lm, tokens, scores, budget, **options)
    if not second_look:
        return scores
    length = scores.segments[0].end - scores.segments[0].start
    return look_again(lm, tokens, scores, keep.count or budget // length, **options)


def room_for_text(lm: LanguageModel, prompt: Prompt, max_new_tokens: int) -> int:
    """Tokens of text the context holds beside the prompt and the answer.

    Raises:
        InputError: none.
    """
    if max_new_tokens < 1:
        raise InputError(f"got {max_new_tokens} new tokens, expected at least 1; raise --max-new-tokens")
    budget = lm.context - len(prompt) - max_new_tokens
    if budget < 1:
        raise InputError(
            f"got a question of {len(prompt)} tokens (its prompt included) and {max_new_tokens} for the answer, "
            f"expected fewer than {lm.context} together (the model's context); "
            "shorten the question or lower --max-new-tokens"
        )
    return budget


def prompt_for_answer(
    lm: LanguageModel, question: str, length: int, max_new_tokens: int, answer_prefix: str = "", ahead: bool = True
) -> Prompt:
    """The prompt to answer with from ``length`` tokens of text or more: with the question ahead, too, if that is wanted
    and the context holds it twice.

    Raises:
        InputError: the question is empty.
        ModelError: the chat template changes or drops what it is given.
    """
    prompt = build_prompt(lm.tokenizer, question, answer_prefix, ahead=ahead)
    if ahead and lm.context - len(prompt) - max_new_tokens < length:
        return build_prompt(lm.tokenizer, question, answer_prefix)
    return prompt


def _read_chosen(
    lm: LanguageModel,
    prompt: Prompt,
    tokens: Tokens,
    scores: Scores,
    ranked: Scores,
    chosen: list[int],
    max_new_tokens: int,
    seconds: dict[str, float],
    stream: Callable[[str], None] | None,
) -> Answer:
    """Read the chosen of what was ranked: segments, or passages of them."""
    segments = [ranked.segments[i] for i in chosen]
    values = ranked.values
    if ranked.segments is scores.segments:  # neighbours and the head were perhaps looked at once
        values = np.where(np.isfinite(values), values, scores.values)
    used = tuple(
        Used(part.char_start, part.char_end, float(value) if np.isfinite(value) else None)
        for part, value in ((part, values[part.index]) for part in segments)
    )
    return _read(lm, prompt, tokens, merge(segments), used, scores, max_new_tokens, seconds, stream)


def _read(
    lm: LanguageModel,
    prompt: Prompt,
    tokens: Tokens,
    spans: list[tuple[int, int]],
    used: tuple[Used, ...],
    scores: Scores | None,
    max_new_tokens: int,
    seconds: dict[str, float],
    stream: Callable[[str], None] | None,
) -> Answer:
    """Generate from the key context."""
    started = time.perf_counter()
    ids = key_context(prompt, tokens, spans)
    said, count = generate(lm, ids, max_new_tokens, stream)
    counts = {
        "text": len(tokens),
        "segments": 0 if scores is None else len(scores),
        "key_context": len(ids),
        "answer": count,
    }
    return Answer(said, used, counts, seconds | {"generate": time.perf_counter() - started}, scores)


def key_context(prompt: Prompt, tokens: Tokens, spans: list[tuple[int, int]]) -> list[int]:
    """Token ids of the chosen spans, in the text's order, with the prompt around them."""
    body = [int(i) for start, end in spans for i in tokens.ids[start:end]]
    return [*prompt.head, *body, *prompt.after]
