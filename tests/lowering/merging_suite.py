"""Cases and planted bugs for the kernels that merge by sorted lists."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from npukv.ops.clustering import reference, triton_merge, triton_rows
from tests.lowering.suite import Case, Mutation, Suite, expect_close, expect_equal

SINGLE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16


def merge(
    tokens: int, kept: int, widths: tuple[int, int], dtype: torch.dtype, spread: float = 1.0, heavy: float = 1.0
) -> None:
    """`spread`: about how large the numbers are; `heavy`: what every third degree is multiplied with."""
    keys, values = ((spread * torch.randn(2, tokens, 3, width)).to(dtype).transpose(1, 2) for width in widths)
    degrees = torch.randint(1, 30, (2, 3, tokens)).float()
    degrees[..., ::3] *= heavy
    places = torch.empty(2, 3, tokens, dtype=torch.int32)
    for row in places.flatten(0, 1):
        row[:] = torch.cat([torch.arange(kept), torch.randint(0, kept, (tokens - kept,))])[torch.randperm(tokens)]
    *means, totals = triton_merge.merge_pair(keys, values, degrees, places, kept)
    *expected, sums = reference.merge_pair(keys.double(), values.double(), degrees, places, kept)
    tolerance = {SINGLE: 1e-5, HALF: 1e-3, BRAIN: 8e-3}[dtype]
    for name, mine, right in zip(("keys", "values"), means, expected, strict=True):
        expect_close(name, mine.double() / spread, right / spread, tolerance)
    expect_equal("degrees", totals, sums)


def opposed() -> None:
    """Keys and their opposites, with degrees that no 8 bits hold: the means are what those leave."""
    keys = (torch.randn(1, 2, 30, 16) * 50).to(BRAIN)
    keys, degrees = torch.cat([keys, -keys], dim=2), torch.tensor([513.0, 511.0]).repeat_interleave(30)
    degrees, places = degrees.expand(1, 2, -1).contiguous(), torch.arange(30, dtype=torch.int32).repeat(1, 2, 2)
    got = triton_merge.merge_centroids(keys, degrees, places, 30)
    expect_close("means", got, reference.merge_centroids(keys.double(), degrees, places, 30), 8e-3)


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    named = functools.partial
    yield "merge", named(merge, 70, 40, (32, 16), SINGLE)
    yield "merge halves, odd width, small", named(merge, 45, 7, (24, 40), HALF, 0.01)
    yield "merge all into two", named(merge, 130, 2, (16, 24), SINGLE, 100.0)
    yield "merge halves, degrees beyond their range", named(merge, 130, 2, (24, 16), HALF, heavy=9999.0)
    yield "merge brain floats", named(merge, 70, 69, (32, 32), BRAIN)
    yield "merge opposites", opposed


MUTATIONS = (
    Mutation("the last member left out", "mask=(slot < end)[:, None]", "mask=(slot < end - 1)[:, None]"),
    Mutation("another's rows", "place[None, :] == here[:, None]", "place[None, :] <= here[:, None]"),
    Mutation("sums for means", "sums / total[:, None] if", "sums if"),
    Mutation("sums for means of 16 bits", "else sums * (1 / total)[:, None]", "else sums"),
    Mutation("degrees of 8 bits", "tl.dot(tl.where(belongs, light[None, :], none), rows, sums) * unit", "sums * unit"),
    Mutation("degrees past float16", "unit = tl.exp2(tl.floor(tl.log2(tl.max(degree, axis=0))))", "unit = 1.0"),
    Mutation("places past the block", "sums += tl.where((here == last)[:, None], rest[None, :], 0.0)", "sums += 0.0"),
    Mutation("those outside counted", "place, 1, mask=inside, sem", "place, 1, sem"),
    Mutation("tokens for degrees", "kept + place, degree, mask", "kept + place, degree * 0 + 1, mask"),
    Mutation("those outside listed", "place, inside.to(tl.int32), mask", "place, 1, mask"),
    Mutation("tokens past the end listed", "length + slot, token, mask=inside", "length + slot, token"),
    Mutation(
        "lists from anywhere",
        "tl.store(ordered + row * length + slot, place,",
        "tl.store(ordered + row * length + slot, token,",
    ),
    Mutation("no place begins at first", "mask=inside & (slot > 0)", "mask=inside"),
    Mutation("read before the list", "tl.maximum(tl.minimum(slot, length - 1) - 1, 0)", "slot - 1"),
    Mutation("columns past the end", "stride + columns(D, WIDTH)[", "stride + tl.arange(0, WIDTH)["),
    Mutation("one block of places", "range(first, last + 1, PLACES)", "range(first, first + 1, PLACES)"),
    Mutation("members' columns past the end", "safe = columns(D, WIDTH)[", "safe = tl.arange(0, WIDTH)["),
    Mutation("written past the last place", "mask=(here <= last)[:, None]", "mask=(here >= 0)[:, None]"),
)

SUITE = Suite("merging", (triton_rows, triton_merge), cases, MUTATIONS)
