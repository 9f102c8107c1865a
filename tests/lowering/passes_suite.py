"""Cases and planted bugs for the kernels that match by 16-bit products."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from npukv.ops.clustering import merge_degrees, plan, reference, triton_passes, triton_start
from tests.lowering.suite import Case, Mismatch, Mutation, Suite, expect_equal

SINGLE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16


def cluster(
    tokens: int,
    goal: int,
    chunk: int,
    width: int,
    dtype: torch.dtype = SINGLE,
    share: float = 0.25,
    turned: bool = False,
    alike: float = 1.0,
) -> None:
    """Places of float32 keys are compared exactly: no two scores of random ones are alike. Centroids of 16 bits are
    rounded between passes, so that some of the later pairs may be others.
    """
    keys = (torch.randn(2, tokens, 2, width).transpose(1, 2) + 0.5).to(dtype)
    degrees = torch.randint(1, 9, (2, 2, tokens)).float()
    angles = torch.arange(tokens)[:, None] * 0.5 ** torch.arange(width // 2)
    turns = (angles.cos(), angles.sin()) if turned else (None, None)
    passes = plan.merge_plan(tokens, goal, chunk, share)
    got = triton_passes.cluster(keys, degrees, passes, 1.0, *turns, together=False)
    doubled = (None if turn is None else turn.double() for turn in turns)
    expected = reference.cluster(keys.double(), degrees, passes, 1.0, *doubled)
    if alike == 1.0:
        expect_equal("places", got, expected)
    elif not (same := float((got == expected).float().mean())) >= alike:
        raise Mismatch(f"places: {same:.2f} are the expected ones, {alike} wanted")
    expect_equal("degrees", merge_degrees(degrees, got, goal).sum(-1), degrees.sum(-1))


def ties(tokens: int) -> None:
    """Equal keys: all sources go to one target, whose list is longer than a program's block."""
    keys, degrees = torch.ones(1, 1, tokens, 16), torch.ones(1, 1, tokens)
    passes = plan.merge_plan(tokens, tokens // 4, tokens)
    got = triton_passes.cluster(keys, degrees, passes, together=False)
    expect_equal("places", got, reference.cluster(keys, degrees, passes))


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    named = functools.partial
    yield "cluster, passes", named(cluster, 150, 60, 32, 24)
    yield "cluster, a chunk of 65 pairs", named(cluster, 131, 100, 130, 32)
    yield "cluster, half at once, turned back", named(cluster, 100, 50, 20, 16, share=0.5, turned=True)
    yield "cluster halves, passes", named(cluster, 60, 20, 32, 32, HALF, alike=0.8)
    yield "cluster brain floats, one pass", named(cluster, 70, 50, 70, 16, BRAIN)
    yield "cluster, ties", named(ties, 160)


MUTATIONS = (
    Mutation("turned the other way", "first * c + second * s", "first * c - second * s"),
    Mutation("centre without degrees", "share = (degree / tl.maximum(size", "share = (1 / tl.maximum(size"),
    Mutation("centre of some blocks", "total += first * share", "total = first * share"),
    Mutation("sources not normalised", "likeness * scale[:, None] * shrink[None, :]", "likeness * shrink[None, :]"),
    Mutation("targets not normalised", "likeness * scale[:, None] * shrink[None, :]", "likeness * scale[:, None]"),
    Mutation("sources' closeness forgotten", "tl.store(scores + out, best + close,", "tl.store(scores + out, best,"),
    Mutation("targets' closeness forgotten", "+ near[None, :]", "+ near[None, :] * 0"),
    Mutation("the last of the best", "better = most > best", "better = most < best"),
    Mutation("worst first", "ahead = other[None, :] > score[:, None]", "ahead = other[None, :] < score[:, None]"),
    Mutation("ties the other way", "(rival[None, :] < source[:, None])", "(rival[None, :] > source[:, None])"),
    Mutation("one more leaves", "leaves = (rank < count) & there", "leaves = (rank <= count) & there"),
    Mutation("those that stay counted", "partner, leaves.to(tl.int32), mask", "partner, 1, mask"),
    Mutation("scratch forgotten", "tl.where(leaves, turn, -1), mask=there", "turn, mask=there"),
    Mutation(
        "neighbours' places", "first + 2 * safe + 1, place + 1, mask=there", "first + 2 * safe + 1, place, mask=there"
    ),
    Mutation("slots of the gains", "tl.cumsum(gains, axis=0) - gains", "tl.cumsum(gains, axis=0)"),
    Mutation("ends without the gains", "at + 1 + gains, mask=there", "at + 1, mask=there"),
    Mutation("all in one slot", "behind - total + turn, at - 1", "behind - total, at - 1"),
    Mutation("the rest left where it was", "tl.store(step + at, at - merges", "tl.store(step + at, at"),
    Mutation("alive as before", "tl.store(alive + tl.maximum(place, 0), token, mask=begins)", "pass"),
    Mutation(
        "joined without degrees",
        "rows.to(tl.float32) * degree[:, None], input_precision=PRECISION)\n    begin",
        "rows.to(tl.float32), input_precision=PRECISION)\n    begin",
    ),
    Mutation("a list cut off", "sums += tl.where((here == last)[:, None], rest[None, :], 0.0)", "sums += 0.0"),
    Mutation(
        "degrees not joined",
        "tl.store(weights + head, total, mask=written)",
        "tl.store(weights + head, total, mask=written & (head < 0))",
    ),
    Mutation("one pass followed", "for _ in range(passes):", "for _ in range(1):"),
)

SUITE = Suite("passes", (triton_start, triton_passes), cases, MUTATIONS)
