"""A second look at the best segments, with the question before each of them, too."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from npukv.errors import InputError
from npukv.language_model import LanguageModel
from npukv.parallel.ranks import ALONE, Ranks
from npukv.prompt import build_prompt
from npukv.relevance.pick import Keep
from npukv.relevance.plan import Plan
from npukv.relevance.scores import Scores
from npukv.text import Tokens

if TYPE_CHECKING:
    from npukv.relevance.fast_forward import FastForward
    from npukv.relevance.score import Progress

#: Segments looked at again: so many times what is kept, but at least some.
TIMES, FEWEST = 4, 16
#: Measures whose certainty is taken from it: not XL3M's own, which is the paper's as published.
MEASURES = ("certainty+question+words", "certainty+question", "certainty")


def check_second_look(measure: str, keep: Keep, ahead: bool) -> None:
    """Raises InputError where a second look would change nothing: it is asked for in vain."""
    if not ahead:
        raise InputError(
            "got a second look and no question ahead, expected both: it reads the question before the segments; drop "
            "--no-ahead or --second-look"
        )
    if keep.passages:
        raise InputError("got a second look and --keep passages, expected one of them: passages are read anew anyhow")
    if measure not in MEASURES:
        raise InputError(
            f"got a second look by measure {measure!r}, expected one with certainty: {', '.join(MEASURES)}"
        )


def best_of(scores: Scores, kept: int) -> np.ndarray:
    """Which segments are looked at again where ``kept`` of them are to be kept, ascending, int64 [m]."""
    values = scores.values
    best = scores.ranking()[: max(FEWEST, TIMES * kept)]
    return np.sort(best[np.isfinite(values[best])])


def look_again(
    lm: LanguageModel,
    tokens: Tokens,
    scores: Scores,
    kept: int,
    *,
    answer_prefix: str = "",
    batch: int | None = None,
    progress: Progress | None = None,
    forward: str | FastForward = "auto",
    ranks: Ranks = ALONE,
) -> Scores:
    """The scores of the best segments, their certainty measured anew with the question before them, too; those of all
    others are infinite.

    All segments are read with the question behind them, so that several questions share their reading. The few that are
    best can be read in the question's light, as the answer will be. What the segment says of the question, and which of
    its words it holds, stays as it was: a question that stands there already is no surprise.

    Args:
        tokens: the text the scores are of.
        scores: from `npukv.score_segments`.
        kept: how many segments the answer is to come from; four times as many are looked at, 16 at least.
        The rest: see `npukv.score_segments`.

    Returns:
        The scores as they are, where their measure has no part in it (`MEASURES`) or the context does not hold the
        question twice beside a segment. The second look is npukv's own: XL3M (arXiv 2405.17755) looks once.

    Raises:
        ModelError: the model gives NaN.
    """
    from npukv.relevance.score import score_plan

    length, horizon = scores.segments[0].end - scores.segments[0].start, scores.entropies.shape[1]
    prompt = build_prompt(lm.tokenizer, scores.asked, answer_prefix, ahead=True)
    if scores.measure not in MEASURES or lm.context - len(prompt) - horizon < length:
        return scores
    words = scores.measured.words  # they are the text's, whatever stands before it
    known = {} if words is None else {scores.asked: words}
    plan = Plan(tokens, (scores.asked,), (prompt,), scores.segments, horizon, known)
    only = best_of(scores, kept)
    [found] = score_plan(
        lm, plan, scores.measure, only=only, batch=batch, progress=progress, forward=forward, ranks=ranks
    )
    return replace(found, measured=replace(scores.measured, entropies=found.measured.entropies))
