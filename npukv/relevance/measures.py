"""How certain the model is that a segment answers the question: from what was measured to one number.

Lower is more relevant, for every measure. All entropies and likelihoods are in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from npukv.errors import InputError

#: Greedy tokens looked ahead: enough for a short answer; what follows the answer is not counted (see `certainty`).
HORIZON = 8
#: Nats at which "capped+question" cuts E off.
CAP = 1.0


@dataclass(frozen=True)
class Measured:
    """What one pass over n segments measured.

    Attributes:
        entropies: float32 [n, horizon]; entropy of the model's next-token distribution at each greedily decoded token,
            up to and including the first token that ends the answer, NaN after it.
        question: float32 [n]; mean of -log p(question token | segment, earlier tokens), from the second token on.
    """

    entropies: np.ndarray
    question: np.ndarray


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


def capped_certainty_and_question(measured: Measured) -> np.ndarray:
    """min(E, 1 nat) + Q: beyond the cap a segment is merely uncertain, and only the question still tells them apart."""
    return np.minimum(certainty(measured), CAP) + question(measured)


MEASURES: dict[str, Callable[[Measured], np.ndarray]] = {
    "certainty+question": certainty_and_question,
    "capped+question": capped_certainty_and_question,
    "certainty": certainty,
    "question": question,
    "first": first,
}
DEFAULT = "certainty+question"


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
