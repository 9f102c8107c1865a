"""Cases and planted bugs for the kernels of hash codes, their scores, and selection."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from npukv.ops.hashing import reference, triton, triton_select
from tests.lowering.suite import Case, Mutation, Suite, expect_equal

HALF, SINGLE = torch.float16, torch.float32


def codes(*shape: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32)


def whole(*shape: int) -> torch.Tensor:
    """Small integers, whose products are exact in every type: no sign hangs on rounding."""
    return torch.randint(-3, 4, shape).float()


def encode(batch: int, heads: tuple[int, int], tokens: int, width: int, words: int, dtype: torch.dtype) -> None:
    x = whole(batch, tokens, heads[0], width).to(dtype).transpose(1, 2)
    x[:, :, 0] = 0  # no product is positive
    weights = whole(heads[1], width, 32 * words).to(dtype)
    expect_equal("codes", triton.hash_encode(x, weights), reference.hash_encode(x, weights))


def append(batch: int, heads: int, tokens: int, width: int, words: int, length: list[int]) -> None:
    key, value = (whole(batch, tokens, heads, width).transpose(1, 2) for _ in range(2))
    weights = whole(heads, width, 32 * words)
    ours = (
        torch.full((batch, heads, 40, width), 9.0),
        torch.full((batch, heads, 40, width), 9.0),
        codes(batch, heads, 40, words),
    )
    theirs = tuple(tensor.clone() for tensor in ours)
    held = torch.tensor(length).int()
    triton.hash_append(key, value, weights, *ours, held)
    for row in range(batch):  # what does not fit is not written
        fits = max(0, min(tokens, 40 - length[row]))
        if fits:
            now = slice(row, row + 1)
            reference.hash_append(
                key[now, :, :fits], value[now, :, :fits], weights, *(tensor[now] for tensor in theirs), held[now]
            )
    for name, got, expected in zip(("keys", "values", "codes"), ours, theirs, strict=True):
        expect_equal(name, got, expected)


def step(group: int, width: int, words: int, length: list[int]) -> None:
    batch, heads = len(length), 2
    query, key, value = (whole(batch, n, 1, width) for n in (heads * group, heads, heads))
    weights = whole(heads, width, 32 * words)
    ours = (
        torch.full((batch, heads, 9, width), 9.0),
        torch.full((batch, heads, 9, width), 9.0),
        codes(batch, heads, 9, words),
    )
    theirs = tuple(tensor.clone() for tensor in ours)
    held = torch.tensor(length).int()
    got = triton.hash_step(query, key, value, weights, *ours, held)
    expect_equal("query", got, reference.hash_encode(query, weights))
    for row in range(batch):
        if length[row] < 9:
            now = slice(row, row + 1)
            reference.hash_append(key[now], value[now], weights, *(tensor[now] for tensor in theirs), held[now])
    for name, mine, expected in zip(("keys", "values", "codes"), ours, theirs, strict=True):
        expect_equal(name, mine, expected)


def bounds(batch: int, capacity: int, starts: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    length = torch.randint(1, capacity + 1, (batch,)).int()
    return length, (torch.rand(batch) * length * 0.5).int() if starts else None


def scores(group: int, capacity: int, words: int, bounded: bool, starts: bool) -> None:
    query, keys = codes(2, 2 * group, 1, words), codes(2, 2, capacity, words)
    length, start = bounds(2, capacity, starts) if bounded else (None, None)
    got = triton.hamming_scores(query, keys, length, start)
    expect_equal("scores", got, reference.hamming_scores(query, keys, length, start))


def top_k(capacity: int, largest: int, budget: int, sink: int, recent: int, starts: bool = False) -> None:
    values = torch.randint(0, largest + 1, (2, 2, capacity)).int()
    values[0, 0] = largest // 2  # all alike
    length, start = bounds(2, capacity, starts)
    for row in range(2):
        values[row, :, int(length[row]) :] = 2**31 - 1
    got = triton_select.select_top_k(values, length, budget, sink, recent, start, largest)
    expect_equal("indices", got, reference.select_top_k(values, length, budget, sink, recent, start))


def select(group: int, capacity: int, words: int, budget: int, starts: bool) -> None:
    query, keys = codes(2, 2 * group, 1, words), codes(2, 2, capacity, words)
    near = torch.rand(2, 2, capacity) < 0.1
    keys[near] = query[:, ::group].expand(2, 2, capacity, words)[near] ^ 9
    length, start = bounds(2, capacity, starts)
    got = triton_select.hamming_select(query, keys, length, budget, 4, 8, start)
    expect_equal("indices", got, reference.hamming_select(query, keys, length, budget, 4, 8, start))


def blocks(capacity: int, wanted: int) -> None:
    values = torch.randint(0, 513, (1, 2, capacity)).int()
    length = torch.tensor([capacity - 130]).int()
    values[:, :, int(length[0]) :] = 2**31 - 1
    got = triton_select.select_blocks(values, length, wanted, 1, 2, 512)
    expect_equal("blocks", got, reference.select_blocks(values, length, wanted, 1, 2))


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    named = functools.partial
    yield "encode", named(encode, 2, (4, 2), 20, 32, 2, SINGLE)
    yield "encode halves, odd width", named(encode, 1, (3, 1), 70, 24, 4, HALF)
    yield "append", named(append, 2, 2, 18, 32, 2, [3, 20])
    yield "append past the end, odd width", named(append, 3, 1, 21, 24, 4, [0, 25, 41])
    yield "append one", named(append, 2, 2, 1, 32, 2, [3, 40])
    yield "step", named(step, 2, 32, 2, [3, 8])
    yield "step past the end, odd width", named(step, 3, 24, 4, [0, 9, 12])
    yield "scores", named(scores, 2, 150, 4, True, False)
    yield "scores of all, wide", named(scores, 3, 1030, 8, False, False)
    yield "scores, padding", named(scores, 1, 1300, 2, True, True)
    yield "top k", named(top_k, 1500, 512, 64, 4, 8)
    yield "top k, padding", named(top_k, 2100, 100, 33, 2, 5, True)
    yield "top k, several programs", named(top_k, 4000, 40, 700, 3, 6)
    yield "top k of the highest", named(top_k, 1200, 1, 900, 0, 0)
    yield "top k of fewer", named(top_k, 40, 256, 64, 4, 8)
    yield "scores and selection", named(select, 2, 1500, 4, 64, False)
    yield "scores and selection, padding", named(select, 1, 1100, 2, 40, True)
    yield "blocks", named(blocks, 2000, 6)


MUTATIONS = (
    Mutation("zero counts as positive", "(projected > 0)", "(projected >= 0)"),
    Mutation(
        "bits in another order",
        "bits << tl.arange(0, 32)[None, None, :]",
        "bits << (31 - tl.arange(0, 32))[None, None, :]",
    ),
    Mutation(
        "weights of the query's head",
        "((head // group) * D + safe_dim[:, None])",
        "((head % heads) * D + safe_dim[:, None])",
    ),
    Mutation("append past the end", "fits = fits & (first + token < capacity)", "fits = fits"),
    Mutation("append at the start", "first = tl.load(length_ptr + batch)\n        fits", "first = 0\n        fits"),
    Mutation("tokens past the last", "fits = token < tokens", "fits = token < tokens + 5"),
    Mutation(
        "a bit lost in the count",
        "(x & 0x33333333) + ((x >> 2) & 0x33333333)",
        "(x & 0x33333333) + ((x >> 2) & 0x13333333)",
    ),
    Mutation("a plane's weight dropped", "mask[None, :])), 1) << p", "mask[None, :])), 1)"),
    Mutation("the other side's pull", "tl.where(2 * ones > GROUP, pull, 0)", "tl.where(2 * ones < GROUP, pull, 0)"),
    Mutation(
        "scores past the length",
        "held = (position < end) & (position >= begin)\n                safe",
        "held = (position < end + 1) & (position >= begin)\n                safe",
    ),
    Mutation(
        "padding scored",
        "held = (position < end) & (position >= begin)\n                safe",
        "held = position < end\n                safe",
    ),
    Mutation(
        "scores stored past the row",
        "tl.store(scores_ptr + row * stride + position, score, mask=position < stride)",
        "tl.store(scores_ptr + row * stride + position, score)",
    ),
    Mutation(
        "threshold a bin too low",
        "return tl.sum(passed.to(tl.int32), 0), ",
        "return tl.sum(passed.to(tl.int32), 0) - 1, ",
    ),
    Mutation(
        "equal ones of this program twice",
        "tl.where(stretch > split, equal, 0)",
        "tl.where(stretch >= split, equal, 0)",
    ),
    Mutation("counts of masked tokens", "binned -= tl.where(fine == FINE - 1, outside, 0)", "binned -= 0"),
    Mutation(
        "counts of the other bins",
        "(tl.minimum(score >> SHIFT, COARSE - 1) == coarse_bin)",
        "(tl.minimum(score >> SHIFT, COARSE - 1) >= coarse_bin)",
    ),
    Mutation(
        "sink tokens not counted",
        "head = tl.maximum(tl.minimum(position, tl.minimum(begin + sink, end)) - begin, 0)",
        "head = 0",
    ),
    Mutation(
        "first of equal ones",
        "take = sure | (at_threshold & (equals_until > skipped))",
        "take = sure | (at_threshold & (equals_until <= quota))",
    ),
    Mutation("places one off", "tl.maximum(equals_until - skipped, 0) - 1", "tl.maximum(equals_until - skipped, 0)"),
    Mutation(
        "recent tokens not forced",
        "sure = held & ((free == 0) | (score < threshold))",
        "sure = held & (((free == 0) & (position < end - recent)) | (score < threshold))",
    ),
    Mutation(
        "nothing after the last",
        "tl.store(indices_ptr + row * budget + tl.minimum(place, budget - 1), -1, mask=place < budget)",
        "tl.store(indices_ptr + row * budget + tl.minimum(place, budget - 1), 0, mask=place < budget)",
    ),
    Mutation(
        "half of a block",
        "tl.min(scores, 1), mask=block < blocks",
        "tl.min(tl.where(tl.arange(0, PAGE)[None, :] < PAGE // 2, scores, 2147483647), 1), mask=block < blocks",
    ),
)

SUITE = Suite("hashing", (triton, triton_select), cases, MUTATIONS)
