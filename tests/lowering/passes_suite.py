"""Cases and planted bugs for the kernels that match by 16-bit products."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from unittest import mock

import torch

from npukv.ops.clustering import merge_degrees, plan, reference, triton_passes, triton_rows, triton_start
from tests.lowering.suite import Case, Mismatch, Mutation, Suite, expect_equal

SINGLE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16


def compare(
    passes: list[int],
    tokens: int,
    width: int,
    dtype: torch.dtype = SINGLE,
    typical: float = 1.0,
    turned: bool = False,
    alike: float = 1.0,
    heavy: float = 1.0,
) -> None:
    """Places of float32 keys are compared exactly: no two scores of random ones are alike. Centroids of 16 bits are
    rounded between passes, so that some of the later pairs may be others.

    Args:
        heavy: what every third degree is multiplied with.
    """
    keys = (torch.randn(2, tokens, 2, width).transpose(1, 2) + 0.5).to(dtype)
    degrees = torch.randint(1, 9, (2, 2, tokens)).float()
    degrees[..., ::3] *= heavy
    angles = torch.arange(tokens)[:, None] * 0.5 ** torch.arange(width // 2)
    turns = (angles.cos(), angles.sin()) if turned else (None, None)
    got = triton_passes.cluster(keys, degrees, passes, typical, *turns, together=False)
    doubled = (None if turn is None else turn.double() for turn in turns)
    expected = reference.cluster(keys.double(), degrees, passes, typical, *doubled)
    if alike == 1.0:
        expect_equal("places", got, expected)
    elif not (same := float((got == expected).float().mean())) >= alike:
        raise Mismatch(f"places: {same:.2f} are the expected ones, {alike} wanted")
    counts = merge_degrees(degrees, got, tokens - sum(passes[2::3]))
    expect_equal("degrees", counts.sum(-1), degrees.sum(-1))


def cluster(tokens: int, goal: int, chunk: int, width: int, dtype: torch.dtype = SINGLE, alike: float = 1.0) -> None:
    compare(plan.merge_plan(tokens, goal, chunk), tokens, width, dtype, alike=alike)


def small_blocks() -> None:
    """Sources, targets, those who leave, and the sums of the centre in several blocks each; the last two of whole ones.

    Behind the last chunk stand tokens that later passes match.
    """
    of_passes = mock.patch.multiple(triton_passes, SOURCES=16, TARGETS=16, JOIN=16, LEAVING=16)
    with of_passes, mock.patch.multiple(triton_start, TOKENS=16, STEPS=1):
        compare([1, 150, 61, 1, 160, 45, 1, 128, 25, 1, 128, 5], 300, 16)


def ties(tokens: int) -> None:
    """Equal keys: all sources of a chunk, whose targets are several blocks, go to one target, the first."""
    keys, degrees = torch.ones(1, 1, tokens, 16), torch.ones(1, 1, tokens)
    passes = [1, tokens, tokens // 4, 1, tokens * 3 // 4, tokens // 8]
    got = triton_passes.cluster(keys, degrees, passes, together=False)
    expect_equal("places", got, reference.cluster(keys, degrees, passes))


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    named = functools.partial
    yield "cluster, passes", named(cluster, 150, 60, 32, 24)
    yield "cluster, a chunk of 65 pairs", named(cluster, 131, 100, 130, 32)
    yield "cluster, half at once, turned back", named(compare, [5, 20, 50], 101, 24, turned=True)
    yield "cluster, a rest behind the chunks", named(compare, [3, 30, 40, 2, 40, 30], 150, 16)
    yield "cluster, negative scores", named(compare, [2, 60, 30, 1, 90, 30], 120, 16, typical=-3.0)
    yield "cluster, small blocks", small_blocks
    yield "cluster, ties", named(ties, 160)
    yield "cluster, more sources than 10 bits count", named(compare, [1, 1100, 520, 1, 580, 30], 1101, 16)
    yield "cluster halves, passes", named(cluster, 60, 20, 32, 32, HALF, alike=0.8)
    yield "cluster halves, degrees beyond their range", named(compare, [1, 60, 20, 1, 40, 10], 60, 16, HALF, heavy=1e5)
    yield "cluster brain floats, one pass", named(compare, [1, 70, 20], 70, 16, BRAIN)


MUTATIONS = (
    Mutation("turned the other way", "wide * c + other * s", "wide * c - other * s"),
    Mutation("centre without degrees", "share = (degree * shrink)[:, None]", "share = shrink[:, None]"),
    Mutation("centre of some tokens", "total += first * share", "total = first * share"),
    Mutation("centre of some blocks", "total += tl.sum(tl.load(at", "total = tl.sum(tl.load(at"),
    Mutation("degrees of some blocks", "degrees += tl.load(amounts", "degrees = tl.load(amounts"),
    Mutation("tokens past the end", "row * length + token, token, mask=inside", "row * length + token, token"),
    Mutation("columns past the end stored", "x.dtype.element_ty), mask=both)", "x.dtype.element_ty))"),
    Mutation(
        "columns past the end read",
        "at = x + index.to(tl.int64)[:, None] * D + columns(D, WIDTH)[None, :]",
        "at = x + index.to(tl.int64)[:, None] * D + tl.arange(0, WIDTH)[None, :]",
    ),
    Mutation("sources not normalised", "likeness * own[:, None] * shrink[None, :]", "likeness * shrink[None, :]"),
    Mutation("targets not normalised", "likeness * own[:, None] * shrink[None, :]", "likeness * own[:, None]"),
    Mutation("sources' closeness forgotten", "best + close,", "best,"),
    Mutation("targets' closeness forgotten", "+ by[None, :]", "+ by[None, :] * 0"),
    Mutation("closeness not kept", "tl.store(near + safe, close,", "tl.store(near + safe, close * 0,"),
    Mutation("the last of the best", "better = most > best", "better = most >= best"),
    Mutation("negative scores the other way", "bits ^ ((bits >> 31) & 0x7FFFFFFF)", "bits"),
    Mutation("ten bits for all counts", "tl.int32 if HALF <= 512", "tl.int32 if HALF <= 1024"),
    Mutation("one of two bits", "least += unit * (enough +", "least += unit * (enough * 0 +"),
    Mutation("all of equal score", "(tl.cumsum(level, axis=0) <= left)", "(left > 0)"),
    Mutation(
        "one more leaves",
        "(chunk + 1) // chunks).to(tl.int32) - before",
        "(chunk + 1) // chunks).to(tl.int32) - before + 1",
    ),
    Mutation(
        "neighbours' places",
        "tl.store(step + 2 * source + 1, place + 1,",
        "tl.store(step + 2 * source + 1, place,",
    ),
    Mutation("places as if none had left before", "place = first - before +", "place = first +"),
    Mutation("scratch forgotten", "tl.where(leaves, -1 - partner, place)", "tl.where(leaves, -1, place)"),
    Mutation("the first partner taken for a place", "leaves = place < 0", "leaves = place < -1"),
    Mutation("wild indices where masked", "partner = tl.maximum(-1 - place, 0)", "partner = -1 - place"),
    Mutation(
        "those that stay listed",
        "tl.store(order + gone - 1, index, mask=leaves)",
        "tl.store(order + gone - 1, index, mask=there)",
    ),
    Mutation("degrees of those that stay", "degree, mask=leaves, sem", "degree, mask=there, sem"),
    Mutation(
        "degrees not joined",
        "next_weights + joined, degree, mask=leaves",
        "next_weights + joined, degree, mask=leaves & (joined < 0)",
    ),
    Mutation("the rest left where it was", "tl.store(step + at, at - merges", "tl.store(step + at, at"),
    Mutation(
        "the rest's degrees",
        "tl.load(weights + at, mask=inside, other=1.0), mask=inside",
        "at * 0 + 1.0, mask=inside",
    ),
    Mutation(
        "the rest's lengths",
        "tl.store(next_scale + at - merges, shrink,",
        "tl.store(next_scale + at - merges, 1.0,",
    ),
    Mutation("the rest's closeness", "tl.store(next_near + at - merges, by,", "tl.store(next_near + at - merges, 0.0,"),
    Mutation(
        "targets not alive",
        "tl.load(alive + 2 * source + 1, mask=there, other=0), mask=there",
        "index, mask=there",
    ),
    Mutation(
        "joined without degrees",
        "tl.where(belongs, degree[None, :], 0.0), rows",
        "tl.where(belongs, 1.0, 0.0), rows",
    ),
    Mutation("degrees past float16", "unit = tl.exp2(tl.floor(tl.log2(tl.max(degree, axis=0))))", "unit = 1.0"),
    Mutation("joined to all", "belongs = to[None, :] == target[:, None]", "belongs = to[None, :] >= target[:, None]"),
    Mutation("a list cut off", "tl.range(LEAVING, count,", "tl.range(LEAVING, LEAVING,"),
    Mutation(
        "targets' own forgotten",
        "tl.load(to_row, mask=real, other=0.0).to(tl.float32) * own[:, None]",
        "tl.zeros([JOIN, WIDTH], tl.float32)",
    ),
    Mutation("sums for means", "sums / total[:, None] if", "sums if"),
    Mutation(
        "columns past the end written",
        "changes = grown[:, None] & real",
        "changes = grown[:, None] & (real | True)",
    ),
    Mutation("lengths as before", "tl.where(grown, shrink, tl.load(scale + at))", "tl.load(scale + at)"),
    Mutation("closeness as before", "tl.where(grown, by, tl.load(near + at))", "tl.load(near + at)"),
    Mutation("one pass followed", "for _ in range(passes):", "for _ in range(1):"),
    Mutation("followed from past the end", "at = tl.minimum(token, length - 1)", "at = token"),
)

SUITE = Suite("passes", (triton_rows, triton_start, triton_passes), cases, MUTATIONS)
