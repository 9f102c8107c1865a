"""Cases and planted bugs for the small kernels."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from tests.lowering import small
from tests.lowering.suite import Case, Mutation, Suite, expect_close, expect_equal

ROUNDING = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 8e-3}


def spaced(rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Normal numbers [rows, width] with NaN between the rows, which must not matter."""
    return torch.full((rows, width + 3), float("nan"), dtype=dtype)[:, :width].copy_(torch.randn(rows, width))


def attention(rows: int, keys: int, width: int, spread: float, dtype: torch.dtype) -> None:
    query = (spread * torch.randn(rows, width)).to(dtype)
    key, value = spaced(keys, width, dtype), spaced(keys, width, dtype)
    expected = (query.double() @ key.double().T * 0.3).softmax(-1) @ value.double()
    expect_close("attend", small.attend(query, key, value, 0.3), expected, ROUNDING[dtype])


def distances(tokens: int, words: int) -> None:
    codes = torch.randint(-(2**31), 2**31, (tokens, words), dtype=torch.int32)
    query = torch.randint(-(2**31), 2**31, (words,), dtype=torch.int32)
    codes[0] = ~query
    differ = [sum((int(a) & 0xFFFFFFFF).bit_count() for a in (row ^ query)) for row in codes]
    expect_equal("distances", small.distances(query, codes), torch.tensor(differ))


def gather(rows: int, count: int, width: int) -> None:
    table = torch.randn(rows, width)
    indices = torch.randint(0, rows, (count,), dtype=torch.int32)
    wild = torch.tensor([-1, rows, 2**31 - 1, -(2**31), 10**8])
    indices[torch.randperm(count)[: min(5, count - 1)]] = wild[: count - 1].to(torch.int32)
    valid = (indices >= 0) & (indices < rows)
    expected = torch.where(valid[:, None], table[indices.clamp(0, rows - 1).long()], 0.0)
    expect_equal("gather", small.gather(table, indices), expected)


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    tried = ((1, 1.0, torch.float32), (70, 0.01, torch.float32), (96, 5.0, torch.float16), (90, 2.0, torch.bfloat16))
    for keys, spread, dtype in tried:
        yield f"attend {keys} x{spread}", functools.partial(attention, 3, keys, 32, spread, dtype)
    for tokens, words in ((1, 4), (64, 4), (201, 8)):
        yield f"distances {tokens} of {words}", functools.partial(distances, tokens, words)
    for rows, count in ((1, 3), (33, 50)):
        yield f"gather {count} of {rows}", functools.partial(gather, rows, count, 32)


MUTATIONS = (
    Mutation("score mask dropped", 'score = tl.where(there, score, -float("inf"))', "score = score"),
    Mutation("rescale of the values dropped", "mixed = mixed * fade +", "mixed = mixed +"),
    Mutation("rescale of the sum dropped", "total = total * fade +", "total = total +"),
    Mutation("maximum of the block alone", "tl.maximum(highest, tl.max(score, 0))", "tl.max(score, 0) + 0 * highest"),
    Mutation("one key too many", "there = places < length", "there = places < length + 1"),
    Mutation("one key too few", "there = places < length", "there = places < length - 1"),
    Mutation("scale dropped", "tl.sum(k * q[None, :], 1) * scale", "tl.sum(k * q[None, :], 1)"),
    Mutation("row length for the stride", "value + places[:, None] * stride", "value + places[:, None] * width"),
    Mutation("load mask of codes dropped", "word[None, :], mask=there[:, None], other=0)", "word[None, :])"),
    Mutation("store mask of distances dropped", "tl.sum(bits & 0x3F, 1), mask=there)", "tl.sum(bits & 0x3F, 1))"),
    Mutation("a bit lost in the popcount", "((bits >> 2) & 0x33333333)", "((bits >> 2) & 0x33333331)"),
    Mutation("and for exclusive or", "bits = bits ^ tl.load", "bits = bits & tl.load"),
    Mutation("index not clamped", "safe = tl.where(valid, index, 0)", "safe = index"),
    Mutation("negative index let through", "(index >= 0) & (index < rows)", "index < rows"),
    Mutation("last index let through", "(index < rows)", "(index <= rows)"),
    Mutation("gathered rows not masked", "mask=valid[:, None], other=0.0)", "mask=there[:, None], other=0.0)"),
    Mutation("store mask of rows dropped", "got, mask=there[:, None])", "got)"),
)

SUITE = Suite("small", (small,), cases, MUTATIONS)
