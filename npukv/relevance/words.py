"""Segments in which a question's rare words stand near one another: a look at the token ids alone, without an index.

A long segment holds many of a question's words by chance; a passage of a sentence or two that holds several of its rare
ones seldom does. A word counts however it is capitalised: a tokenizer may cut "Eternal" and "eternal" differently.
"""

from __future__ import annotations

import re

import numpy as np
import torch

from npukv.language_model import LanguageModel
from npukv.parallel.ranks import ALONE, Ranks
from npukv.relevance.cut import starts_of
from npukv.relevance.plan import Plan

#: Tokens from one passage to the next; a passage is two steps long, so that it holds any stretch of STEP + 1 tokens.
STEP = 32
_PIECES = re.compile(r"\s?\w+|\s?[^\w\s]+")


def word_shares(lm: LanguageModel, plan: Plan, question: int = 0, ranks: Ranks = ALONE) -> np.ndarray:
    """How much of what is rare in the question a segment's best passage holds, float64 [n], 0 to 1.

    Passages of 2 STEP tokens begin every STEP tokens of the text; a segment's are those within the steps it touches. A
    passage's rarity is the sum of log(1 + (n - d + .5) / (d + .5)) over the question's distinct tokens it holds, d of
    all n segments holding that token (BM25's weight: Robertson and Zaragoza, 2009). It also holds a token whose whole
    word it holds in other capitals or without the space before it. What counts as 1 is the text's best passage, or half
    the rarity of the whole question where no passage holds that.

    Computed once for a plan's question, and kept with the plan.
    """
    asked = plan.asked[question]
    if asked in plan.shares:
        return plan.shares[asked]
    found = None
    if ranks.first:
        text = torch.from_numpy(plan.tokens.ids.astype(np.int32)).to(lm.device.torch_device)
        starts = starts_of(plan.segments)
        ends = starts + plan.segments[0].end - plan.segments[0].start
        first = np.minimum(starts // STEP, max(0, -(-len(text) // STEP) - 2))
        last = np.maximum(first + 1, -(-ends // STEP) - 1)
        rarity, whole = _rarity(text, readings(lm, asked), first, last)
        found = _largest(rarity, first, last).cpu().numpy()
        found /= max(found.max(), whole / 2, np.finfo(np.float64).tiny)
    plan.shares[asked] = ranks.agree(found, "search the words")
    return plan.shares[asked]


def readings(lm: LanguageModel, question: str) -> dict[int, set[tuple[int, ...]]]:
    """The question's tokens, and for each the other ways its word may be written, as tokens."""
    found: dict[int, set[tuple[int, ...]]] = {}
    for piece in _PIECES.findall(" " + question):
        own, word = tuple(lm.encode(piece)), piece.strip()
        cases = {word, word.lower(), word.capitalize(), word.upper()}
        others = {tuple(lm.encode(space + case)) for case in cases for space in ("", " ")} - {own, ()}
        for token in own:
            found.setdefault(token, set()).update(others)
    return found


def _rarity(
    text: torch.Tensor, wanted: dict[int, set[tuple[int, ...]]], first: np.ndarray, last: np.ndarray
) -> tuple[torch.Tensor, float]:
    """Of passages, float64 [passages], and of everything wanted, in nats; of a text's ids int32 [tokens].

    Segments are passages [first, last), int64 [n].
    """
    steps = -(-len(text) // STEP)
    tokens = sorted({token for own, others in wanted.items() for way in ((own,), *others) for token in way})
    among = torch.zeros(max(int(text.max()), *tokens) + 1, dtype=torch.bool, device=text.device)
    among[tokens] = True
    places = among.index_select(0, text).nonzero()[:, 0]  # few of the text's, looked through for each token
    there = text[places]
    kept: dict[tuple[int, ...], torch.Tensor] = {}

    def held(sequence: tuple[int, ...]) -> torch.Tensor:
        """In which steps of the text a sequence of tokens begins, bool [steps]."""
        if sequence not in kept:
            begins = places[there == sequence[0]]
            begins = begins[begins + len(sequence) <= len(text)]
            for after, token in enumerate(sequence[1:], 1):
                begins = begins[text[begins + after] == token]
            kept[sequence] = torch.zeros(steps, dtype=torch.bool, device=text.device)
            kept[sequence][begins // STEP] = True
        return kept[sequence]

    total, whole = torch.zeros(max(1, steps - 1), dtype=torch.float64, device=text.device), 0.0
    for token, others in wanted.items():
        begun = torch.stack([held(way) for way in ((token,), *sorted(others))]).any(0)
        passages = begun[:-1] | begun[1:] if steps > 1 else begun
        holding = int(_largest(passages.int(), first, last).sum())
        rarity = float(np.log1p((len(first) - holding + 0.5) / (holding + 0.5)))
        total += passages.double() * rarity
        whole += rarity
    return total, whole


def _largest(values: torch.Tensor, first: np.ndarray, last: np.ndarray) -> torch.Tensor:
    """The largest of values [first, last) for each of n ranges, whose lengths differ by a factor below 2."""
    size, shortest = 1, int((last - first).min())
    while 2 * size <= shortest:
        values = torch.maximum(values[:-size], values[size:])
        size *= 2
    low, high = (torch.from_numpy(rows).to(values.device) for rows in (first, last - size))
    return torch.maximum(values[low], values[high])
