"""Cases and planted bugs for the kernels that select by lists.

Rows are split in two stretches and more, over 1,024 tokens: of a single one triton-ascend 3.2.0 does not lower the sums
over stretches (of one number).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from unittest import mock

import torch

from npukv.ops.attention import triton as attending
from npukv.ops.hashing import reference, triton_lists
from npukv.ops.hashing import triton as scoring
from tests.lowering.launch import on_lowered
from tests.lowering.suite import Case, Mutation, Suite, expect_close, expect_equal


def drawn(group: int, keys: int, words: int, length: list[int], start: list[int] | None) -> tuple:
    """Codes [B, Hq, 1, w] and [B, 2, C, w], and the bounds; every third key is like another, so that scores tie."""
    query, held = (
        torch.randint(-(2**31), 2**31 - 1, (len(length), heads, tokens, words), dtype=torch.int32)
        for heads, tokens in ((2 * group, 1), (2, keys))
    )
    held[:, :, 2::3] = held[:, :, ::3][:, :, : held[:, :, 2::3].shape[2]]
    bounds = [None if x is None else torch.tensor(x, dtype=torch.int32) for x in (length, start)]
    return query, held, *bounds


def select(group: int, keys: int, words: int, length: list[int], budget: tuple[int, int, int], start=None) -> None:
    query, held, until, since = drawn(group, keys, words, length, start)
    with on_lowered(scoring):
        got = triton_lists.hamming_select(query, held, until, *budget, since)
    expect_equal("positions", got, reference.hamming_select(query, held, until, *budget, since))


def attend(
    group: int, keys: int, length: list[int], budget: tuple[int, int, int], width: int, dtype: torch.dtype, start=None
) -> None:
    """Keys that are not chosen are NaN."""
    query, held, until, since = drawn(group, keys, 4, length, start)
    asked = torch.randn(len(length), 2 * group, 1, width).to(dtype)
    key, value = (torch.randn(len(length), 2, keys, width).to(dtype) for _ in range(2))
    expected = reference.hashed_attention(
        asked.double(), query, held, key.double(), value.double(), until, *budget, since
    )
    chosen = reference.hamming_select(query, held, until, *budget, since).long()
    named = torch.zeros(len(length), 2, keys + 1, dtype=torch.bool).scatter_(2, chosen % (keys + 1), True)[..., :keys]
    for x in (key, value):
        x[~named] = float("nan")
    few = mock.patch.object(triton_lists, "ATTEND_PROGRAMS", 4)  # so that each has several steps
    with on_lowered(scoring), on_lowered(attending), few:
        got = triton_lists.hashed_attention(asked, query, held, key, value, until, *budget, since)
    expect_close("out", got[0], expected[0], 1e-5 if dtype is torch.float32 else 1.6e-2)
    expect_close("lse", got[1], expected[1], 1e-5)


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    named = functools.partial
    yield "select", named(select, 2, 2100, 4, [2100, 1500], (70, 2, 5))
    yield "select, padding, few tokens", named(select, 1, 1100, 1, [1090, 30], (50, 3, 4), [200, 9])
    yield "attend", named(attend, 2, 2100, [2100, 1100], (70, 2, 5), 32, torch.float32)
    yield "attend, padding, odd width", named(attend, 3, 1100, [1099], (45, 0, 3), 24, torch.bfloat16, [17])


MUTATIONS = (
    Mutation("a token listed twice", "mask = mask & (mask - 1)", "mask = mask"),
    Mutation("place forgotten", "(score << 16) | at, mask=held", "(score << 16), mask=held"),
    Mutation("the first of equals", "tl.sum(equal, 0) - tl.cumsum(equal, 0)", "tl.cumsum(equal, 0) - equal"),
    Mutation("those within the bin forgotten", "quota = need - lower - lower_within", "quota = need - lower"),
    Mutation("items of the last bin dropped", "<= coarse_bin, counts", "< coarse_bin, counts"),
    Mutation("recent ones from elsewhere", "position = end - (forced - head) +", "position = end - forced +"),
    Mutation("ends not marked", "budget - 1), -1, mask=rank < last", "budget - 1), 0, mask=rank < last"),
    Mutation(
        "keys past the share counted", "scores = tl.where(present[None, :], scores,", "scores = tl.where(True, scores,"
    ),
    Mutation("rescale of the mean dropped", "mean = mean * shrink[:, None] +", "mean = mean +"),
    Mutation("scores of another stretch", "tl.load(scores_ptr + stretch + at", "tl.load(scores_ptr + at"),
)

SUITE = Suite("lists", (triton_lists,), cases, MUTATIONS)
