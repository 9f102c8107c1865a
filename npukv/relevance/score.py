"""Scoring every segment of a text against a question."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from npukv.errors import InputError
from npukv.language_model import LanguageModel
from npukv.relevance import measures
from npukv.relevance.batches import batch_size
from npukv.relevance.journal import Journal
from npukv.relevance.measure import measure_batch
from npukv.relevance.measures import Measured
from npukv.relevance.plan import Plan, make_plan
from npukv.relevance.scores import Scores
from npukv.text import Tokens, tokenize

#: Called with (what is being done, tokens or characters done, in all).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ScoredBatch:
    """Some segments of one question, as they come; `resumed` when a journal had them already."""

    question: int
    segments: tuple[int, ...]
    measured: Measured
    resumed: bool = False


@overload
def score_segments(lm: LanguageModel, text: str | Tokens, question: str, **options: Any) -> Scores: ...
@overload
def score_segments(lm: LanguageModel, text: str | Tokens, question: list[str], **options: Any) -> list[Scores]: ...
def score_segments(  # type: ignore[misc]  # the overloads only tell one result from several
    lm: LanguageModel,
    text: str | Tokens,
    question: str | list[str],
    *,
    segment: int | None = None,
    overlap: int | None = None,
    measure: str = measures.DEFAULT,
    horizon: int | None = None,
    answer_prefix: str = "",
    run: str | Path | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Scores | list[Scores]:
    """Score all segments of a text by the model's certainty about a question (XL3M, arXiv 2405.17755).

    Args:
        lm: from `npukv.load`.
        text: the text, or its tokens from `npukv.text.tokenize`.
        question: one question, or several: then each segment is read once for all of them.
        segment, overlap: tokens; None = a fifth of the context, and a sixth of a segment.
        measure: a name of `npukv.relevance.measures.MEASURES`.
        horizon: greedy tokens looked ahead; None = what the measure needs.
        answer_prefix: words the answer is made to begin with.
        run: a directory that keeps the scores, and from which an interrupted run resumes. It belongs to one text,
            model and way of cutting; questions asked one by one share it, but not with questions asked together.
        batch: segments per forward pass; None = by the device's free memory.
        progress: called as work goes on.

    Returns:
        Scores, or a list of them for a sequence of questions.

    Raises:
        InputError: the input cannot be used; ModelError: the model gives NaN; RunError: the run directory.

    >>> scores = npukv.score_segments(npukv.load(), text, "What is the pass key?")
    >>> scores.ranking()[:4]
    """
    asked = (question,) if isinstance(question, str) else tuple(question)
    tokens = as_tokens(lm, text, progress)
    plan = make_plan(
        lm,
        tokens,
        asked,
        segment=segment,
        overlap=overlap,
        measure=measure,
        horizon=horizon,
        answer_prefix=answer_prefix,
    )
    started = time.perf_counter()
    entropies = np.full((len(asked), len(plan.segments), plan.horizon), np.nan, dtype=np.float32)
    likelihoods = np.full((len(asked), len(plan.segments)), np.nan, dtype=np.float32)
    fresh = [0] * len(asked)
    for part in stream_scores(lm, plan, run=run, batch=batch, progress=progress):
        rows = list(part.segments)
        entropies[part.question, rows] = part.measured.entropies
        likelihoods[part.question, rows] = part.measured.question
        fresh[part.question] += 0 if part.resumed else len(rows)
    seconds = time.perf_counter() - started
    results = [
        Scores(asked[i], plan.segments, Measured(entropies[i], likelihoods[i]), measure, seconds, fresh[i])
        for i in range(len(asked))
    ]
    return results[0] if isinstance(question, str) else results


def as_tokens(lm: LanguageModel, text: str | Tokens, progress: Progress | None = None) -> Tokens:
    """The text's tokens.

    Raises:
        InputError: there are none.
    """
    if isinstance(text, str):
        text = tokenize(lm.tokenizer, text, None if progress is None else lambda *at: progress("tokenise", *at))
    if not len(text):
        raise InputError("got an empty text, expected words")
    return text


def stream_scores(
    lm: LanguageModel,
    plan: Plan,
    *,
    run: str | Path | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Iterator[ScoredBatch]:
    """Score a plan's segments batch by batch, journalling each before it is yielded.

    What the journal has is yielded first. A batch that does not fit the device's memory is halved, and the smaller
    size is remembered for the rest of the run and for its resumption.
    """
    journal = None if run is None else Journal(run, plan.identity(lm))
    try:
        yield from _stream(lm, plan, journal, batch, progress)
    finally:
        if journal is not None:
            journal.close()


def _stream(
    lm: LanguageModel, plan: Plan, journal: Journal | None, batch: int | None, progress: Progress | None
) -> Iterator[ScoredBatch]:
    keys = plan.keys()
    done: list[set[int]] = []
    for i, key in enumerate(keys):
        known = {} if journal is None else journal.scored(key)
        done.append(set(known))
        if known:
            measured = Measured(np.stack([e for e, _ in known.values()]), np.array([q for _, q in known.values()]))
            yield ScoredBatch(i, tuple(known), measured, resumed=True)
    size = batch or _remembered_size(journal) or _default_size(lm, plan)
    position = 0
    while position < len(plan.segments):
        chunk = range(position, min(position + size, len(plan.segments)))
        try:
            yield from _score_chunk(lm, plan, chunk, done, keys, journal)
        except Exception as error:
            if not lm.device.is_out_of_memory(error) or size == 1:
                raise
            size = (size + 1) // 2
            lm.device.release_memory()
            continue
        if journal is not None and journal.recall("batch") != str(size):
            journal.remember("batch", str(size))
        position = chunk.stop
        if progress is not None:
            progress("score", plan.segments[chunk[-1]].end, len(plan.tokens))


def _score_chunk(
    lm: LanguageModel,
    plan: Plan,
    chunk: range,
    done: list[set[int]],
    keys: list[str],
    journal: Journal | None,
) -> Iterator[ScoredBatch]:
    """Measure what is missing of some segments; questions that miss the same ones share the reading.

    Each part is given out as soon as it is recorded: what memory runs out on later does not take it along.
    """
    missing = defaultdict(list)
    for i, known in enumerate(done):
        rows = tuple(segment for segment in chunk if segment not in known)
        if rows:
            missing[rows].append(i)
    for rows, questions in missing.items():
        windows = [plan.segments[row] for row in rows]
        ids = np.stack([plan.tokens.ids[window.start : window.end] for window in windows])
        measured = measure_batch(lm, ids, [plan.prompts[i] for i in questions], plan.horizon, rows[0])
        if journal is not None:
            journal.record(rows, {keys[i]: values for i, values in zip(questions, measured, strict=True)})
        for i in questions:
            done[i].update(rows)
        for i, values in zip(questions, measured, strict=True):
            yield ScoredBatch(i, rows, values)


def _remembered_size(journal: Journal | None) -> int | None:
    remembered = None if journal is None else journal.recall("batch")
    return None if remembered is None else int(remembered)


def _default_size(lm: LanguageModel, plan: Plan) -> int:
    longest = max(len(prompt) for prompt in plan.prompts)
    length = plan.segments[0].end - plan.segments[0].start
    return batch_size(lm, length + longest + plan.horizon, longest)
