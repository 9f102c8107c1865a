"""Cases and planted bugs for the attention kernels."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from npukv.ops.attention import reference, triton
from tests.lowering.suite import Case, Mutation, Suite, expect_close

SINGLE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16
#: A rounding of weights and of outputs.
ROUNDING = {SINGLE: 1e-5, HALF: 2e-3, BRAIN: 1.6e-2}
NAN = float("nan")


def drawn(*shape: int, dtype: torch.dtype, spread: float = 1.0) -> torch.Tensor:
    return (spread * torch.randn(shape)).to(dtype)


def compare(got: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Outputs and log-sum-exps; a half's rounding of weights and outputs is allowed where halves come in."""
    expect_close("out", got[0], expected[0], ROUNDING[got[0].dtype])
    expect_close("lse", got[1], expected[1], 1e-5)


def wide(*tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    return [t.double() if t is not None and t.is_floating_point() else t for t in tensors]


def partial(
    batch: int,
    heads: tuple[int, int],
    queries: int,
    keys: int,
    width: int,
    dtype: torch.dtype,
    spread: float = 1.0,
    bias: bool = False,
    length: list[int] | None = None,
    causal: bool = False,
) -> None:
    """Random inputs; what lies behind the length is NaN, and keys are a view of a buffer laid out otherwise."""
    query = drawn(batch, heads[0], queries, width, dtype=dtype, spread=spread)
    key, value = (drawn(batch, keys, heads[1], width, dtype=dtype).transpose(1, 2) for _ in range(2))
    added = torch.randn(batch, heads[1], keys) if bias else None
    if added is not None:
        added[:, :, ::5] = float("-inf")
    held = None if length is None else torch.tensor(length, dtype=torch.int32)
    for row in range(batch):
        for tensor in (key, value):
            tensor[row, :, keys if held is None else int(held[row]) :] = NAN
    expected = reference.partial_attention(*wide(query, torch.nan_to_num(key), value, added), held, None, causal)
    compare(triton.partial_attention(query, key, value, added, held, None, causal), expected)


def indexed(group: int, keys: int, named: int, width: int, dtype: torch.dtype, bias: bool) -> None:
    query = drawn(2, 2 * group, 1, width, dtype=dtype)
    key, value = (drawn(2, 2, keys, width, dtype=dtype) for _ in range(2))
    indices = torch.randint(0, keys, (2, 2, named)).int()
    indices[torch.rand(indices.shape) < 0.2] = -1
    indices[1, 1] = -1  # nothing at all
    used = torch.zeros(2, 2, keys + 1, dtype=torch.bool).scatter_(2, indices.long() % (keys + 1), True)[..., :keys]
    key[~used], value[~used] = NAN, NAN
    added = torch.randn(2, 2, keys) if bias else None
    expected = reference.indexed_attention(*wide(query, torch.nan_to_num(key), torch.nan_to_num(value)), indices, added)
    compare(triton.indexed_attention(query, key, value, indices, added), expected)


def paged(group: int, width: int, page: int, dtype: torch.dtype, per_head: bool, length: list[int]) -> None:
    """Pages no table names are NaN; the tables go on with wild numbers behind the length."""
    pages, entries = 9, -(-max(length) // page) + 2
    query = drawn(len(length), 2 * group, 1, width, dtype=dtype)
    key, value = (drawn(pages, page, 2, width, dtype=dtype) for _ in range(2))
    table = torch.randint(0, pages - 2, (len(length), 2, entries) if per_head else (len(length), entries)).int()
    table[0, ..., 0] = -1
    key[pages - 2 :], value[pages - 2 :] = NAN, NAN
    held = torch.tensor(length).int()
    expected = reference.paged_attention(*wide(query, torch.nan_to_num(key), torch.nan_to_num(value)), table, held)
    for row, count in enumerate(length):
        table[row, ..., -(-count // page) :] = 2**30
    compare(triton.paged_attention(query, key, value, table, held), expected)


def merge(parts: int, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    outs, lses = drawn(parts, *shape, dtype=dtype), 3 * torch.randn(parts, *shape[:3])
    absent = torch.rand(lses.shape) < 0.3
    absent[:, 0, 0, 0] = True
    lses[absent] = float("-inf")
    outs[absent] = 0
    compare(triton.merge_partials(outs, lses), reference.merge_partials(outs.double(), lses.double()))


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    named = functools.partial
    yield "split", named(partial, 2, (4, 2), 1, 150, 32, SINGLE, length=[70, 129])
    yield "split, all keys, small", named(partial, 1, (3, 1), 1, 65, 64, SINGLE, spread=0.01)
    yield "split, bias, large", named(partial, 2, (6, 2), 1, 100, 16, SINGLE, spread=30.0, bias=True, length=[1, 100])
    yield "split, causal, halves", named(partial, 2, (4, 2), 3, 130, 32, HALF, bias=True, length=[2, 129], causal=True)
    yield "split, odd width", named(partial, 2, (2, 2), 1, 70, 24, SINGLE, length=[33, 70])
    yield "split, odd width, bias", named(partial, 2, (4, 2), 2, 70, 40, HALF, bias=True, length=[70, 0])
    yield "chunk", named(partial, 1, (2, 1), 100, 150, 32, SINGLE, length=[129], causal=True)
    yield "chunk, more queries than keys", named(partial, 2, (2, 2), 80, 90, 16, SINGLE, length=[50, 90], causal=True)
    yield "chunk, odd width, bias", named(partial, 1, (2, 2), 70, 150, 24, SINGLE, bias=True, length=[101])
    yield "chunk, halves", named(partial, 1, (2, 1), 130, 140, 64, HALF, spread=3.0, causal=True)
    yield "split, brain floats", named(partial, 2, (4, 2), 1, 130, 32, BRAIN, bias=True, length=[2, 129])
    yield "chunk, brain floats", named(partial, 1, (2, 1), 130, 140, 64, BRAIN, spread=3.0, length=[139], causal=True)
    yield "indexed, brain floats", named(indexed, 2, 50, 33, 32, BRAIN, True)
    yield "paged, brain floats", named(paged, 2, 32, 16, BRAIN, False, [33, 16])
    yield "merge, brain floats", named(merge, 3, (1, 2, 3, 32), BRAIN)
    yield "indexed", named(indexed, 2, 90, 37, 32, SINGLE, False)
    yield "indexed, odd width, bias", named(indexed, 3, 50, 70, 24, HALF, True)
    yield "paged", named(paged, 2, 32, 128, SINGLE, False, [200, 129])
    yield "paged per head, small pages", named(paged, 1, 24, 16, HALF, True, [33, 16, 1])
    yield "merge", named(merge, 5, (2, 2, 3, 16), SINGLE)
    yield "merge of many, odd width", named(merge, 70, (2, 3, 1, 24), HALF)


MUTATIONS = (
    Mutation("length ignored", "count = tl.minimum(tl.load(length + batch), keys)", "count = keys"),
    Mutation(
        "one key too many",
        "present = position < last\n        if INDEXED",
        "present = position < last + 1\n        if INDEXED",
    ),
    Mutation(
        "one key too few",
        "present = position < last\n        if INDEXED",
        "present = position < last - 1\n        if INDEXED",
    ),
    Mutation("score mask dropped", 'scores = tl.where(seen, scores, float("-inf"))', "scores = scores + 0"),
    Mutation("rescale of the mean dropped", "mean = mean * shrink[:, None] + tl.dot", "mean = mean + tl.dot"),
    Mutation(
        "rescale of the sum dropped",
        "total = total * shrink + tl.sum(weights, axis=1)",
        "total = total + tl.sum(weights, axis=1)",
    ),
    Mutation(
        "maximum of the step alone", "now = tl.maximum(most, tl.max(scores, axis=1))", "now = tl.max(scores, axis=1)"
    ),
    Mutation("scale in the wrong base", "(scale * LOG2E)", "scale"),
    Mutation("bias in the wrong base", "added[None, :] * LOG2E", "added[None, :]"),
    Mutation(
        "not a number where nothing is seen", 'base = tl.where(now == float("-inf"), 0.0, now)  #', "base = now  #"
    ),
    Mutation("diagonal one off", "(count - QUERIES + row % QUERIES)", "(count - QUERIES + row % QUERIES - 1)"),
    Mutation("diagonal one off in chunks", "edge = count - queries + row ", "edge = count - queries + row + 1 "),
    Mutation("masked steps too late", "whole = whole // BLOCK * BLOCK", "whole = (whole // BLOCK + 1) * BLOCK"),
    Mutation(
        "missing pages not skipped", "present = position < tl.where(page >= 0, last, 0)", "present = position < last"
    ),
    Mutation("token of the page", "place = (position % PAGE).to(tl.int64)", "place = position.to(tl.int64)"),
    Mutation(
        "index not clamped",
        "place = tl.where(present, named, 0).to(tl.int64)",
        "place = named.to(tl.int64)",
    ),
    Mutation(
        "index one too far",
        "place = tl.where(present, named, 0).to(tl.int64)",
        "place = tl.where(present, named + 1, 0).to(tl.int64)",
    ),
    Mutation("missing indices not skipped", "present = named >= 0", "present = named >= -1"),
    Mutation(
        "head of the group",
        "query_head = head * GROUP + safe_row // QUERIES",
        "query_head = head * GROUP + safe_row % GROUP",
    ),
    Mutation(
        "store mask of rows dropped",
        "tl.store(lses + split * rows_all + out_row, lse, mask=real_row)",
        "tl.store(lses + split * rows_all + out_row, lse + row * 0)",
    ),
    Mutation(
        "store mask of a chunk dropped", "tl.store(lse + out_row, sums, mask=real_row)", "tl.store(lse + out_row, sums)"
    ),
    Mutation("values by the keys' stride", "place[:, None] * value_c", "place[:, None] * (value_c + 1)"),
    Mutation("merge without shares", "weights = tl.exp2((each - base) * LOG2E)", "weights = tl.where(there, 1.0, 0.0)"),
    Mutation(
        "merge of the last parts alone",
        "mean = mean * shrink + tl.sum(weights[:, None] * partial, axis=0)",
        "mean = tl.sum(weights[:, None] * partial, axis=0)",
    ),
    Mutation("parts past the last", "there = part < parts", "there = part < parts + 3"),
    Mutation(
        "lse in base 2",
        "(most + tl.log2(tl.where(none, 1.0, total))) * LN2)\n    out_row = (batch",
        "(most + tl.log2(tl.where(none, 1.0, total))))\n    out_row = (batch",
    ),
)

SUITE = Suite("attention", (triton,), cases, MUTATIONS)
