"""A closer look at the best segments, in passages: where several places could be meant, and for answers in several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from npukv.language_model import LanguageModel
from npukv.parallel.ranks import ALONE, Ranks
from npukv.relevance.cut import starts_of
from npukv.relevance.pick import merge
from npukv.relevance.plan import make_plan
from npukv.relevance.scores import Scores
from npukv.relevance.second_look import best_of
from npukv.text import Tokens

if TYPE_CHECKING:
    from npukv.relevance.fast_forward import FastForward
    from npukv.relevance.score import Progress

#: Passages of a segment, and what of one its neighbour holds too: a half, for smaller ones cut facts in two.
PARTS, OVERLAP = 2, 2


def score_passages(
    lm: LanguageModel,
    tokens: Tokens,
    scores: Scores,
    budget: int,
    *,
    answer_prefix: str = "",
    batch: int | None = None,
    progress: Progress | None = None,
    forward: str | FastForward = "auto",
    ranks: Ranks = ALONE,
) -> Scores:
    """Scores of the passages of the best segments, by the same measure; those of all others are infinite.

    A context holds few segments, and most of a segment is beside the point. Of four times as many segments as fit (16
    at least) it holds all the passages that matter: halves of a segment that overlap by half.

    Args:
        tokens: the text the scores are of.
        scores: from `npukv.score_segments`.
        budget: tokens of text the context has room for.
        The rest: see `npukv.score_segments`.

    Returns:
        Scores of all the text's passages, by `scores`' measure, in nats; infinite where a passage was not read. The
        second look is npukv's own: XL3M (arXiv 2405.17755) answers from whole segments.

    Raises:
        ModelError: the model gives NaN.
    """
    from npukv.relevance.score import score_plan

    length = scores.segments[0].end - scores.segments[0].start
    passage = max(1, length // PARTS)
    spans = merge([scores.segments[int(i)] for i in best_of(scores, budget // length)])
    plan = make_plan(
        lm,
        tokens,
        (scores.asked,),
        segment=passage,
        overlap=passage // OVERLAP,
        measure=scores.measure,
        horizon=scores.entropies.shape[1],
        answer_prefix=answer_prefix,
    )
    only = lying_in(starts_of(plan.segments), passage, spans)
    [found] = score_plan(
        lm, plan, scores.measure, only=only, batch=batch, progress=progress, forward=forward, ranks=ranks
    )
    return found


def lying_in(starts: np.ndarray, length: int, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Which windows of one length have their middle in one of the spans [start, end), ascending, int64 [m].

    Args:
        starts: first tokens of the windows, int64 [n].
        spans: ascending, apart from one another.
    """
    middles = starts + length // 2
    begins, ends = np.array(spans, dtype=np.int64).reshape(-1, 2).T
    near = np.minimum(np.searchsorted(ends, middles, side="right"), len(ends) - 1)
    return np.flatnonzero((begins[near] <= middles) & (middles < ends[near]))
