"""Which segments are worth scoring: all of them, or those a cheaper look finds promising."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from npukv.errors import InputError
from npukv.language_model import LanguageModel
from npukv.parallel.ranks import ALONE, Ranks
from npukv.relevance import measures
from npukv.relevance.cut import starts_of
from npukv.relevance.plan import Plan
from npukv.relevance.words import word_shares

if TYPE_CHECKING:
    from npukv.relevance.fast_forward import FastForward

MODES = ("exact", "sketch", "words", "bm25", "8bit")
#: Of the segments, in the modes that take a cheaper look first.
SHORTLIST = "1%"
#: Of a small text a share is less than a look can tell apart, and so many cost nothing.
FEWEST = 16

Progress = Callable[[str, int, int], None]


def check_mode(mode: str) -> str:
    """The mode itself, if it is one.

    Raises:
        InputError: it is not.
    """
    if mode not in MODES:
        raise InputError(f"got mode {mode!r}, expected one of: {', '.join(MODES)}")
    return mode


def shortlist_size(wanted: str | int, segments: int) -> int:
    """How many of so many segments "1%", "0.5%" or "200" (or 200) are: of a share at least FEWEST.

    Raises:
        InputError: anything else.
    """
    text = str(wanted).strip()
    try:
        given = float(text[:-1]) if text.endswith("%") else float(int(text))
    except ValueError:
        given = 0.0
    if not 0 < given < float("inf"):
        raise InputError(f"got a shortlist of {wanted!r}, expected a share such as 1% or a number of segments")
    count = max(FEWEST, round(given / 100 * segments)) if text.endswith("%") else round(given)
    return min(segments, count)


def shortlists(
    lm: LanguageModel,
    plan: Plan,
    mode: str,
    wanted: str | int = SHORTLIST,
    *,
    measure: str = measures.DEFAULT,
    run: str | Path | None = None,
    batch: int | None = None,
    forward: str | FastForward = "auto",
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> list[np.ndarray] | None:
    """The segments to score for each of the plan's questions, ascending; None = all.

    Args:
        mode: one of MODES.
        wanted: how many: see `shortlist_size`.
        measure, run, batch: for the mode "8bit", which scores everything in 8 bits first, with a journal of its own.
        forward: how the early layers are read when a sketch is built: as of `npukv.score_segments`.

    Raises:
        InputError: an unknown mode or size; ModelError, DeviceError: the model or device cannot do what the mode takes.
    """
    if check_mode(mode) == "exact":
        return None
    count = shortlist_size(wanted, len(plan.segments))
    if mode == "sketch":
        keys = sketch_distances(lm, plan, forward, ranks, progress)
        words = [-word_shares(lm, plan, i, ranks) for i in range(len(plan.asked))]
        distances = [interleave(*both) for both in zip(words, keys, strict=True)]
    elif mode == "8bit":
        distances = eight_bit_distances(lm, plan, measure, run, batch, ranks, progress)
    elif mode == "words":
        distances = [-word_shares(lm, plan, i, ranks) for i in range(len(plan.asked))]
    else:
        distances = [bm25_distances(lm, plan, i, ranks) for i in range(len(plan.asked))]
    return [np.sort(np.argsort(values, kind="stable")[:count]) for values in distances]


def interleave(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distances whose order takes the nearest of two in turn, of each its best that is not taken yet; int64 [n]."""
    places = []
    for values in (one, other):
        place = np.empty(len(values), np.int64)
        place[np.argsort(values, kind="stable")] = np.arange(len(values))
        places.append(place)
    return np.minimum(2 * places[0], 2 * places[1] + 1)


def sketch_distances(
    lm: LanguageModel,
    plan: Plan,
    forward: str | FastForward = "auto",
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """By the key-key sketch, which is built first if it is not there; see `npukv.relevance.sketch.search`."""
    from npukv.relevance.sketch import open_sketch, search

    sketch = open_sketch(lm, plan.tokens, forward=forward, ranks=ranks, progress=progress)
    return [search(lm, sketch, prompt, plan.segments, ranks=ranks) for prompt in plan.prompts]


def eight_bit_distances(
    lm: LanguageModel,
    plan: Plan,
    measure: str = measures.DEFAULT,
    run: str | Path | None = None,
    batch: int | None = None,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """By the measure itself, read with 8-bit matrix products."""
    from npukv.relevance.score import score_plan

    place = None if run is None else Path(run) / "8bit"
    scored = score_plan(
        lm, plan, measure, run=place, batch=batch, forward="8bit", ranks=ranks, progress=progress
    )  # fmt: skip
    return [one.values for one in scored]


#: Saturation of repeated tokens in BM25 (segments are equally long, so its length term is 1).
K1 = 1.5


def bm25_distances(lm: LanguageModel, plan: Plan, question: int = 0, ranks: Ranks = ALONE) -> np.ndarray:
    """By the question's tokens a segment holds (Okapi BM25, negated), float64 [n]; no index is needed for one question.

    Source: Robertson and Zaragoza, The Probabilistic Relevance Framework (2009), with idf = log(1 + (n - d + .5) /
    (d + .5)) for d of n segments that hold a token.
    """
    import torch

    found = None
    if ranks.first:
        count, length = len(plan.segments), plan.segments[0].end - plan.segments[0].start
        starts = torch.from_numpy(starts_of(plan.segments)).to(lm.device.torch_device)
        ids = torch.from_numpy(plan.tokens.ids.astype(np.int32)).to(starts.device)
        found = np.zeros(count)
        for token in sorted({*lm.encode(plan.asked[question]), *lm.encode(" " + plan.asked[question])}):
            seen = torch.nn.functional.pad((ids == token).cumsum(0, dtype=torch.int32), (1, 0))
            held = (seen[starts + length] - seen[starts]).cpu().numpy().astype(np.float64)
            holding = np.count_nonzero(held)
            found -= np.log1p((count - holding + 0.5) / (holding + 0.5)) * held * (K1 + 1) / (held + K1)
    return ranks.agree(found, "search the words")
