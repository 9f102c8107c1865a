"""Cases and planted bugs for the kernels of matching and merging."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from npukv.ops.clustering import plan, reference, triton
from tests.lowering.suite import Case, Mutation, Suite, expect_close, expect_equal


def merge(heads: int, tokens: int, kept: int, width: int, dtype: torch.dtype, spread: float) -> None:
    x = (spread * torch.randn(2, tokens, heads, width)).to(dtype).transpose(1, 2)
    degrees = torch.randint(1, 30, (2, heads, tokens)).float()
    places = torch.empty(2, heads, tokens, dtype=torch.int32)
    for row in places.flatten(0, 1):
        row[:] = torch.cat([torch.arange(kept), torch.randint(0, kept, (tokens - kept,))])[torch.randperm(tokens)]
    expected = reference.merge_centroids(x.double(), degrees, places, kept) / spread
    got = triton.merge_centroids(x, degrees, places, kept).double() / spread
    expect_close("means", got, expected, {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype])


def cluster(
    tokens: int, goal: int, chunk: int, width: int, share: float = 0.25, dtype: torch.dtype = torch.float32
) -> None:
    """Places are compared exactly: no two scores of random keys are alike."""
    keys = (torch.randn(2, tokens, 2, width).transpose(1, 2) + 0.5).to(dtype)
    degrees = torch.randint(1, 9, (2, 2, tokens)).float()
    passes = plan.merge_plan(tokens, goal, chunk, share)
    got = triton.cluster(keys, degrees, passes, coarse="hf32")
    expect_equal("places", got, reference.cluster(keys.double(), degrees, passes))


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    named = functools.partial
    yield "merge", named(merge, 2, 70, 40, 32, torch.float32, 1.0)
    yield "merge halves, odd width, small", named(merge, 1, 45, 7, 24, torch.float16, 0.01)
    yield "merge large", named(merge, 3, 33, 32, 16, torch.float32, 100.0)
    yield "merge brain floats", named(merge, 2, 70, 40, 32, torch.bfloat16, 1.0)
    yield "cluster brain floats, one pass", named(cluster, 60, 50, 60, 32, dtype=torch.bfloat16)
    yield "cluster, passes", named(cluster, 150, 60, 32, 24)
    yield "cluster, a chunk of 65 pairs", named(cluster, 131, 100, 130, 32)
    yield "cluster, one token less", named(cluster, 40, 39, 16, 16)
    yield "cluster, half at once", named(cluster, 100, 50, 20, 16, 0.5)


MUTATIONS = (
    Mutation(
        "degrees forgotten",
        "tl.store(sums + place, x * degree[:, None], mask=loaded)",
        "tl.store(sums + place, x, mask=loaded)",
    ),
    Mutation(
        "centre of the keys as they are",
        "unit = x * (degree / tl.maximum(size, 1e-12))[:, None]",
        "unit = x * degree[:, None]",
    ),
    Mutation(
        "tokens past the last",
        "block * TOKENS + tl.arange(0, TOKENS)\n    inside = token < length",
        "block * TOKENS + tl.arange(0, TOKENS)\n    inside = token < length + 3",
    ),
    Mutation(
        "rows not normalised", "return x / tl.maximum(tl.sqrt(tl.sum(x * x, axis=1)), 1e-12)[:, None]", "return x"
    ),
    Mutation(
        "even targets",
        "other = tl.load(alive + first + 2 * tl.minimum(target, half - 1) + 1)",
        "other = tl.load(alive + first + 2 * tl.minimum(target, half - 1))",
    ),
    Mutation("the last of the best", "better = most > best", "better = most < best"),
    Mutation(
        "targets' closeness forgotten", "input_precision=PRECISION) + near[None, :]", "input_precision=PRECISION)"
    ),
    Mutation("sources' closeness forgotten", "best += tl.sum(x * middle[None, :], axis=1) * typical", "best += 0.0"),
    Mutation("worst first", "ahead = rival[None, :] > score[:, None]", "ahead = rival[None, :] < score[:, None]"),
    Mutation("one more leaves", "(rank < count) & (everyone < half)", "(rank <= count) & (everyone < half)"),
    Mutation(
        "shares rounded up", "before = merges * chunk // chunks", "before = (merges * chunk + chunks - 1) // chunks"
    ),
    Mutation("places one off", "place = place + 1 - leaves", "place = place + 1"),
    Mutation(
        "the rest left where it was",
        "tl.minimum(at, held - 1) - merges, moved, mask=at < held)",
        "tl.minimum(at, held - 1), moved, mask=at < held)",
    ),
    Mutation(
        "sums not moved",
        "tl.atomic_add(sums + (row * length + joined)[:, None] * D + dim, x, mask=moves)",
        "tl.atomic_add(sums + (row * length + joined)[:, None] * D + dim, x * 0, mask=moves)",
    ),
    Mutation("everybody moved", "moves = joins[:, None] & real[None, :]", "moves = there[:, None] & real[None, :]"),
    Mutation("one pass followed", "for _ in range(passes):", "for _ in range(1):"),
    Mutation("means without degrees", "rows * degree[:, None], mask=loaded)", "rows, mask=loaded)"),
    Mutation(
        "sums past the width",
        "tl.atomic_add(sums + (row * kept + place)[:, None] * D + dim, rows * degree[:, None], mask=loaded)",
        "tl.atomic_add(sums + (row * kept + place)[:, None] * D + dim, rows * degree[:, None] + 1, mask=loaded)",
    ),
)

SUITE = Suite("clustering", (triton,), cases, MUTATIONS)
