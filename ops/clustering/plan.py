"""How many keys are merged in which pass: fixed by lengths alone, so that every head does the same."""

from __future__ import annotations

import math


def merge_plan(tokens: int, goal: int, chunk: int, share: float = 0.25) -> list[int]:
    """Passes that bring `tokens` keys down to `goal`, as [chunks, chunk, merges, chunks, chunk, merges, ...].

    In each pass the first `chunks` chunks of `chunk` keys give up `merges` keys in all, each as many as the others or
    one more; what is left behind them stays. A pass merges at most `share` of all keys: what is alike collapses first,
    and rare keys are left when the goal is reached (passes that halve lose them). As few passes as that allows, each
    of the same share: to a quarter, five of 24%. Of several passes the first one's chunks are half as large, since it
    costs most: a key has more of its like then.

    Args:
        chunk: keys per chunk, about: chunks are made equally large, and even.
    """
    plan: list[int] = []
    goal = max(goal, 1)
    if tokens <= goal:
        return plan
    passes = max(1, math.ceil(math.log(goal / tokens) / math.log(1 - share) - 1e-9))
    aims = [math.ceil(tokens * (goal / tokens) ** (number / passes)) for number in range(1, passes)]
    while tokens > goal:
        wide = max(2, chunk // 2) if aims and not plan else chunk
        chunks = max(1, min(round(tokens / wide), tokens // 2))
        size = tokens // chunks
        if size - wide <= wide // 64:  # a few more would fill no further tile: they wait behind the last chunk
            size = min(size, wide)
        size = size // 2 * 2
        aim = max(aims.pop(0) if aims else goal, goal)
        merges = min(tokens - aim, max(1, int(tokens * share)), chunks * size // 2)
        if merges > 0:
            plan += [chunks, size, merges]
            tokens -= merges
    return plan


def shares(chunks: int, merges: int) -> list[int]:
    """How many of a pass's merges fall to the chunks before each: [0, ..., merges], chunks + 1 numbers."""
    return [merges * index // chunks for index in range(chunks + 1)]
