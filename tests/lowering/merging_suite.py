"""Cases and planted bugs for the kernels that merge by sorted lists."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from npukv.ops.clustering import reference, triton_merge
from tests.lowering.suite import Case, Mutation, Suite, expect_close, expect_equal

SINGLE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16


def merge(tokens: int, kept: int, widths: tuple[int, int], dtype: torch.dtype, spread: float = 1.0) -> None:
    keys, values = ((spread * torch.randn(2, tokens, 3, width)).to(dtype).transpose(1, 2) for width in widths)
    degrees = torch.randint(1, 30, (2, 3, tokens)).float()
    places = torch.empty(2, 3, tokens, dtype=torch.int32)
    for row in places.flatten(0, 1):
        row[:] = torch.cat([torch.arange(kept), torch.randint(0, kept, (tokens - kept,))])[torch.randperm(tokens)]
    *means, totals = triton_merge.merge_pair(keys, values, degrees, places, kept, together=False)
    *expected, sums = reference.merge_pair(keys.double(), values.double(), degrees, places, kept)
    tolerance = {SINGLE: 1e-5, HALF: 1e-3, BRAIN: 8e-3}[dtype]
    for name, mine, right in zip(("keys", "values"), means, expected, strict=True):
        expect_close(name, mine.double() / spread, right / spread, tolerance)
    expect_equal("degrees", totals, sums)


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    named = functools.partial
    yield "merge", named(merge, 70, 40, (32, 16), SINGLE)
    yield "merge halves, odd width, small", named(merge, 45, 7, (24, 40), HALF, 0.01)
    yield "merge all into two", named(merge, 130, 2, (16, 16), SINGLE, 100.0)
    yield "merge brain floats", named(merge, 70, 69, (32, 32), BRAIN)


MUTATIONS = (
    Mutation("members past the end", "mask=slot < end, other=0.0)", "mask=slot < end + 1, other=0.0)"),
    Mutation("another's rows", "place[None, :] - first == tl.arange", "place[None, :] - first <= tl.arange"),
    Mutation("means of sums", "(sums / total[:, None]).to(out", "sums.to(out"),
    Mutation("degrees past the block", "partly + tl.where(place == last, more, 0.0), 1.0)", "partly, 1.0)"),
    Mutation("places past the block", "sums += tl.where((place == last)[:, None], rest[None, :], 0.0)", "sums += 0.0"),
    Mutation("those outside listed", "place, inside.to(tl.int32), mask", "place, 1, mask"),
    Mutation(
        "lists from anywhere",
        "tl.store(ordered + row * length + slot, place,",
        "tl.store(ordered + row * length + slot, token,",
    ),
)

SUITE = Suite("merging", (triton_merge,), cases, MUTATIONS)
