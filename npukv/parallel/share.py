"""Which rank scores which batches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def shares(costs: Sequence[float] | np.ndarray, ranks: int) -> list[range]:
    """Contiguous ranges of the items, one per rank, as equal in cost as whole items allow.

    A share is over or under the mean by at most the dearest item. Items are batches: the batches are the same for any
    number of ranks, and so are the scores, to the bit.

    >>> shares([1, 1, 1, 1, 1], 2)
    [range(0, 2), range(2, 5)]
    """
    ends = np.concatenate([[0.0], np.cumsum(np.asarray(costs, dtype=np.float64))])
    targets = ends[-1] * np.arange(1, ranks) / ranks
    after = np.searchsorted(ends, targets)  # ends[after - 1] < target <= ends[after]
    before = np.maximum(after - 1, 0)
    nearer = np.where(targets - ends[before] <= ends[after] - targets, before, after)
    borders = [0, *(int(border) for border in nearer), len(ends) - 1]
    return [range(first, last) for first, last in itertools.pairwise(borders)]
