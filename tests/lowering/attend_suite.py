"""Cases and planted bugs for the kernels that attend to the keys that their codes select."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack
from unittest.mock import patch

import torch

from npukv.ops.attention import triton as attending
from npukv.ops.hashing import reference, triton_attend, triton_sift
from tests.lowering.hashing_suite import codes
from tests.lowering.launch import on_lowered
from tests.lowering.suite import Case, Mutation, Suite, expect_close

SINGLE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16
#: Of the weights' type too: they are products of two of its numbers.
ROUNDING = {SINGLE: 2e-5, HALF: 5e-3, BRAIN: 3e-2}
#: Several stretches of several steps in a small row, a small sample of it, and several programs that attend.
SIFT = {"PROGRAMS": 12, "BLOCK": 128, "SAMPLE": 128}
ATTEND = {"PROGRAMS": 9, "TILE": 64, "BLOCK": 16}


def attend(
    group: int,
    width: int,
    words: int,
    bounds: tuple[list[int], list[int] | None],
    budget: int,
    dtype: torch.dtype = SINGLE,
    distinct: int = 10**6,
    settings: dict[str, float] | None = None,
) -> None:
    """Two rows of two heads, 700 tokens; NaN behind the lengths and before the starts."""
    capacity = 700
    query = torch.randn(2, 2 * group, 1, width).to(dtype)
    key, value = (torch.randn(2, capacity, 2, width).to(dtype).transpose(1, 2) for _ in range(2))
    asked, keys = codes(2, 2 * group, 1, words), codes(2, 2, capacity, words)
    near = torch.rand(2, 2, capacity) < 0.03
    keys[near] = asked[:, ::group].expand(2, 2, capacity, words)[near] ^ 9
    keys = keys[:, :, torch.arange(capacity) * 7 % capacity % distinct].contiguous()
    length = torch.tensor(bounds[0]).int()
    start = None if bounds[1] is None else torch.tensor(bounds[1]).int()
    for row in range(2):
        for x in (key, value):
            x[row, :, bounds[0][row] :] = float("nan")
            x[row, :, : bounds[1][row] if bounds[1] else 0] = float("nan")
    rest = (length, budget, 3, 9, start)
    with ExitStack() as stack:
        stack.enter_context(on_lowered(attending))  # its kernel merges the parts
        stack.enter_context(patch.dict(triton_sift.SIFT, SIFT))
        stack.enter_context(patch.dict(triton_attend.ATTEND, ATTEND))
        for name, setting in (settings or {}).items():
            stack.enter_context(patch.object(triton_sift, name, setting))
        got = triton_attend.hashed_attention(query, asked, keys, key, value, *rest, together=False)
    expected = reference.hashed_attention(query.double(), asked, keys, key.double(), value.double(), *rest)
    for name, mine, right in zip(("out", "lse"), got, expected, strict=True):
        expect_close(name, mine, right, ROUNDING[dtype])


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    named = functools.partial
    yield "attend", named(attend, 2, 32, 4, ([700, 333], None), 60)
    yield "odd width, few codes", named(attend, 3, 24, 2, ([690, 500], [20, 470]), 40, distinct=3)
    yield "halves", named(attend, 1, 32, 1, ([700, 650], None), 100, HALF, distinct=40)
    yield "brain floats, an empty row", named(attend, 4, 32, 4, ([700, 0], None), 25, BRAIN)
    yield "all of a short row", named(attend, 1, 32, 1, ([45, 12], [5, 2]), 64)
    yield "too few listed", named(attend, 2, 32, 1, ([700, 400], None), 200, settings={"MARGIN": -9.0})
    yield "threshold out of sight", named(attend, 2, 32, 4, ([700, 400], None), 20, settings={"WINDOW": 4})


MUTATIONS = (
    Mutation("places of the list", "tl.where(part > p, number, 0)", "tl.where(part >= p, number, 0)"),
    Mutation("places of the last step", "score, whole - first + lane, held", "score, lane, held"),
    Mutation("tokens past the last", "held & (score <= cutoff), found", "score <= cutoff, found"),
    Mutation("counts of nobody", "tl.cdiv(found, 256) * 256 - found, 0)", "0, 0)"),
    Mutation("length of the list", "    found = tl.load(fine_ptr", "    found = 1 + tl.load(fine_ptr"),
    Mutation("a threshold too low", "threshold = cutoff - under\n", "threshold = cutoff - under - 1\n"),
    Mutation("one more of equal ones", "quota = need - tl.sum", "quota = need + 1 - tl.sum"),
    Mutation("first of equal ones", "(running == skipped + 1), item", "(running == 1), item"),
    Mutation("one less of equal ones", "(position >= since)", "(position > since)"),
    Mutation("equal ones of the wrong stretch", "later = tl.sum(equal, 0) - tl.cumsum(equal, 0)", "later = equal * 0"),
    Mutation("the next stretch", "tl.sum(begun.to(tl.int32), 1) - 1", "tl.sum(begun.to(tl.int32), 1) - 2"),
    Mutation("too few go unnoticed", "misled = (items < need) |", "misled = (items < 0) |"),
    Mutation("out of sight goes unnoticed", "(under >= WINDOW - 1) &", "(under > WINDOW) &"),
    Mutation("scored again, one off", "skipped = upto - need\n", "skipped = upto - need + 1\n"),
    Mutation("recent ones, one off", "end - forced + at)", "end - forced + at - 1)"),
    Mutation("no sink tokens", "head = tl.minimum(sink, end - begin)", "head = 0 * sink"),
    Mutation("a share too long", "last = tl.minimum(first + share, total)", "last = first + share + 1"),
    Mutation("one fewer of the chosen", "found = tl.load(numbers)", "found = tl.maximum(tl.load(numbers) - 1, 0)"),
    Mutation("nobody's scores", 'scores = tl.where(present[None, :], scores, float("-inf"))', "scores = scores"),
    Mutation("sums not rescaled", "weight = weight * shrink", "weight = weight"),
    Mutation("means not rescaled", "mean = mean * shrink[:, None]", "mean = mean"),
    Mutation("scale forgotten", "(scale * 1.4426950408889634)", "1.4426950408889634"),
)

SUITE = Suite("attend", (triton_sift, triton_attend), cases, MUTATIONS)
