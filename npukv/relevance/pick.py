"""Choosing segments for the key context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from npukv.errors import InputError
from npukv.relevance.cut import Segment


@dataclass(frozen=True)
class Keep:
    """Which of the ranked segments to keep, all within the token budget.

    Attributes:
        count: at most this many; None = as many as fit.
        margin: only those whose score is within this many nats of the best; None = any.
        passages: not whole segments but passages of them (`npukv.relevance.passages`).
    """

    count: int | None = 1
    margin: float | None = None
    passages: bool = False


def parse_keep(value: int | str | Keep) -> Keep:
    """ "4" or 4: the best four; "fill": as many as fit; "margin:0.5": those within 0.5 nats of the best; "passages": as
    many passages of the best as fit; "passages:1": of these, those within 1 nat of the best.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, Keep):
        return value
    text = str(value).strip()
    kind, _, amount = text.partition(":")
    try:
        if kind == "fill" and not amount:
            return Keep(count=None)
        if kind == "passages" and not amount:
            return Keep(count=None, passages=True)
        if kind in ("margin", "passages") and float(amount) >= 0:
            return Keep(count=None, margin=float(amount), passages=kind == "passages")
        if int(text) >= 1:
            return Keep(count=int(text))
    except ValueError:
        pass
    raise InputError(
        f"got keep {value!r}, expected a number of segments (1 or more), fill, passages, margin:NATS or passages:NATS "
        "such as margin:0.5"
    )


def pick(
    values: np.ndarray,
    segments: Sequence[Segment],
    budget: int,
    keep: Keep,
    neighbours: int = 0,
    keep_head: bool = False,
) -> list[int]:
    """Indices of the segments to keep, in the text's order.

    Segments are taken best first (of equals the earlier) until the next one would exceed the budget; what overlaps
    counts once.

    Args:
        values: [n], lower = more relevant; infinite = not scored, and only taken as a neighbour.
        budget: tokens their union may have.
        neighbours: also take this many segments on each side of a chosen one, where the budget allows.
        keep_head: also take the text's first segment (instructions often stand there) if the best fits beside it.

    Raises:
        InputError: not even one segment fits the budget.
    """
    order = np.argsort(values, kind="stable")
    order = order[np.isfinite(values[order])]
    if keep.margin is not None:
        order = order[values[order] <= values[order[0]] + keep.margin]
    chosen: list[int] = []

    def fits(index: int) -> bool:
        return union_length([segments[i] for i in [*chosen, index]]) <= budget

    if keep_head and union_length([segments[0], segments[int(order[0])]]) <= budget:
        chosen.append(0)
    taken = 0
    for index in (int(i) for i in order):
        if taken == keep.count or not fits(index):
            break
        taken += 1
        if index not in chosen:
            chosen.append(index)
        for distance in range(1, neighbours + 1):
            for near in (index - distance, index + distance):
                if 0 <= near < len(segments) and near not in chosen and fits(near):
                    chosen.append(near)
    if not taken:
        raise InputError(
            f"got segments of {segments[0].end - segments[0].start} tokens, expected at most {budget}, which is what "
            "the context leaves beside the question and the answer; lower --segment or --max-new-tokens"
        )
    return sorted(chosen)


def merge(segments: Sequence[Segment]) -> list[tuple[int, int]]:
    """Token spans [start, end) of the segments' union, in the text's order, overlapping and adjoining ones joined."""
    spans: list[tuple[int, int]] = []
    for segment in sorted(segments, key=lambda segment: segment.start):
        if spans and segment.start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], segment.end))
        else:
            spans.append((segment.start, segment.end))
    return spans


def union_length(segments: Sequence[Segment]) -> int:
    """Tokens in the segments' union."""
    return sum(end - start for start, end in merge(segments))
