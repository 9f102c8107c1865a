"""How certain the model is that a segment answers the question: from what was measured to one number.

Lower is more relevant, for every measure. All entropies and likelihoods are in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npukv.errors import InputError

#: Greedy tokens looked ahead: enough for a short answer; what follows the answer is not counted (see `certainty`).
HORIZON = 8
#: Nats that a segment without any of the question's rare words is set back by; and the share of them that is as good
#: as all: a question has words of its own, and sentences that repeat all of them are often questions or rumours.
WORDS, ENOUGH = 2.0, 0.8


@dataclass(frozen=True)
class Measured:
    """What was measured of n segments: by one pass through the model, and by a look at the text.

    Attributes:
        entropies: float32 [n, horizon]; entropy of the model's next-token distribution at each greedily decoded token,
            up to and including the first token that ends the answer, NaN after it.
        question: float32 [n]; mean of -log p(question token | segment, earlier tokens), from the second token on.
        words: float64 [n]; how much of what is rare in the question the segment holds, 0 to 1
            (`npukv.relevance.words.word_shares`); None where nobody looked.
    """

    entropies: np.ndarray
    question: np.ndarray
    words: np.ndarray | None = None

    def rows(self, rows: Any) -> Measured:
        """Of some of the segments."""
        words = None if self.words is None else self.words[rows]
        return Measured(self.entropies[rows], self.question[rows], words)


def first(measured: Measured) -> np.ndarray:
    """Entropy of the first token's distribution: XL3M's own measure (arXiv 2405.17755)."""
    return measured.entropies[:, 0].astype(np.float64)


def certainty(measured: Measured) -> np.ndarray:
    """E: mean entropy over the greedily decoded answer, which ends with its first period or line end."""
    return np.nanmean(measured.entropies.astype(np.float64), axis=1)


def question(measured: Measured) -> np.ndarray:
    """Q: how badly the segment predicts the question. It tells the right fact from an equally certain wrong one."""
    return measured.question.astype(np.float64)


def certainty_and_question(measured: Measured) -> np.ndarray:
    """E + Q."""
    return certainty(measured) + question(measured)


def certainty_question_and_words(measured: Measured) -> np.ndarray:
    """E + Q + 2 nats x the share of the question's rare words that is missing, of four fifths.

    A model may take one fact for another, or not understand how the right one is put; the words tell which is meant.
    """
    if measured.words is None:
        raise InputError("got no shares of words, which the measure needs; score with npukv.score_segments")
    missing = 1.0 - np.minimum(measured.words / ENOUGH, 1.0)
    return certainty_and_question(measured) + WORDS * missing


MEASURES: dict[str, Callable[[Measured], np.ndarray]] = {
    "certainty+question+words": certainty_question_and_words,
    "certainty+question": certainty_and_question,
    "certainty": certainty,
    "question": question,
    "first": first,
}
DEFAULT = "certainty+question+words"


def check(name: str) -> str:
    """The name itself, if it is a measure's.

    Raises:
        InputError: it is not.
    """
    if name not in MEASURES:
        raise InputError(f"got measure {name!r}, expected one of: {', '.join(MEASURES)}")
    return name


def default_horizon(name: str) -> int:
    """Tokens to look ahead when the user does not say: one for measures that read no further."""
    return 1 if check(name) in ("first", "question") else HORIZON
