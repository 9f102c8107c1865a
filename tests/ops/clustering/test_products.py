"""The kernels that match by products of 16-bit keys and merge by sorted lists, under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from npukv.ops.clustering import merge_degrees, merge_plan, reference
from tests.ops.clustering.test_clustering import some_keys

pytest.importorskip("triton")


def some_degrees(*shape: int) -> torch.Tensor:
    return torch.randint(1, 5, shape, generator=torch.Generator().manual_seed(1)).float()


@pytest.mark.parametrize(
    ("tokens", "goal", "chunk"), [(61, 17, 24), (40, 39, 64), (150, 31, 150), (2, 1, 2), (9, 9, 4), (300, 80, 300)]
)
@pytest.mark.parametrize(("width", "typical", "together"), [(16, 1.0, True), (20, 0.0, False)])
def test_places(
    interpreter: None, tokens: int, goal: int, chunk: int, width: int, typical: float, together: bool
) -> None:
    """Of float32 keys, which they take too: the pairs of float64. With barriers, and with more launches instead."""
    from npukv.ops.clustering import triton_passes

    keys, degrees = some_keys(2, 2, tokens + 5, width)[:, :, 2 : tokens + 2], some_degrees(2, 2, tokens)
    plan = merge_plan(tokens, goal, chunk)
    places = triton_passes.cluster(keys, degrees, plan, typical, together=together)
    assert places.dtype is torch.int32
    assert torch.equal(places, reference.cluster(keys.double(), degrees.double(), plan, typical))


def test_chunks_larger_than_blocks(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources, targets, and those who leave, in several blocks each."""
    from npukv.ops.clustering import triton_passes

    for name in ("SOURCES", "TARGETS", "JOIN", "LEAVING"):
        monkeypatch.setattr(triton_passes, name, 16)
    keys, degrees = some_keys(1, 2, 151, 16), some_degrees(1, 2, 151)
    plan = [1, 150, 61, 1, 64, 25, 1, 64, 5]  # the last two of whole blocks
    places = triton_passes.cluster(keys, degrees, plan)
    assert torch.equal(places, reference.cluster(keys.double(), degrees.double(), plan))


def test_a_large_chunk(interpreter: None) -> None:
    """More sources than are counted in 32 bits, most of whom leave."""
    from npukv.ops.clustering import triton_passes

    keys, degrees, plan = some_keys(1, 1, 1101, 16), some_degrees(1, 1, 1101), [1, 1100, 520, 1, 580, 30]
    places = triton_passes.cluster(keys, degrees, plan)
    assert torch.equal(places, reference.cluster(keys.double(), degrees.double(), plan))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_heavy_centroids(interpreter: None, dtype: torch.dtype) -> None:
    """Degrees that no 16-bit number holds: means are still those of the reference, none overflows."""
    from npukv.ops.clustering import triton_merge, triton_passes

    keys = some_keys(1, 1, 64, 16, dtype=dtype)
    degrees = torch.full((1, 1, 64), 1.0).index_fill(2, torch.arange(0, 64, 3), 100_003.0)
    places = triton_passes.cluster(keys, degrees, merge_plan(64, 20, 64))
    counts = merge_degrees(degrees, places, 20)
    assert torch.equal(counts.sum(), degrees.sum())
    found = triton_merge.merge_pair(keys, keys, degrees, places, 20)
    exact = reference.merge_pair(keys.double(), keys.double(), degrees, places, 20)
    assert torch.equal(found[2], counts)
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("dtype", "together"), [(torch.bfloat16, True), (torch.float16, False)])
def test_two_bytes_of_one_pass_are_exact(interpreter: None, dtype: torch.dtype, together: bool) -> None:
    """Products of 16-bit numbers are exact in float32: where nothing is merged yet, nothing falls otherwise."""
    from npukv.ops.clustering import triton_passes

    keys, degrees = some_keys(1, 2, 70, 16, dtype=dtype), torch.ones(1, 2, 70)
    for plan, alike in (([2, 32, 17], 1.0), (merge_plan(70, 20, 32), 0.9)):
        places = triton_passes.cluster(keys, degrees, plan, together=together)
        assert (places == reference.cluster(keys.double(), degrees.double(), plan)).float().mean() >= alike
        counts = merge_degrees(degrees, places, int(places.max()) + 1)
        assert (counts > 0).all() and (counts.sum(-1) == 70).all()


@pytest.mark.parametrize("own_positions", [False, True])
def test_keys_are_turned_back(interpreter: None, own_positions: bool) -> None:
    from npukv.ops.clustering import triton_passes

    keys, degrees, plan = some_keys(1, 2, 61, 16), some_degrees(1, 2, 61), merge_plan(61, 20, 30)
    positions = torch.arange(61.0).expand(1, 2, 61) + torch.arange(2)[:, None] if own_positions else torch.arange(61.0)
    angles = positions[..., None] * 0.5 ** torch.arange(8.0)
    places = triton_passes.cluster(keys, degrees, plan, 1.0, angles.cos(), angles.sin())
    exact = reference.cluster(keys.double(), degrees, plan, 1.0, angles.cos().double(), angles.sin().double())
    assert torch.equal(places, exact)
    assert not torch.equal(places, triton_passes.cluster(keys, degrees, plan))


def test_equal_scores_merge_the_first(interpreter: None) -> None:
    """All keys are equal: ties everywhere, all sources on one target, lists longer than a program's block."""
    from npukv.ops.clustering import triton_passes

    for tokens in (24, 200):
        keys, degrees = torch.ones(1, 1, tokens, 16), torch.ones(1, 1, tokens)
        plan = merge_plan(tokens, tokens // 4, tokens)
        assert torch.equal(triton_passes.cluster(keys, degrees, plan), reference.cluster(keys, degrees, plan))


@pytest.mark.parametrize("kept", [1, 2, 40, 149, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_means(interpreter: None, kept: int, dtype: torch.dtype) -> None:
    """Places of one token and of all of them; values of another width."""
    from npukv.ops.clustering import triton_merge

    keys, values = some_keys(2, 3, 150, 20, dtype=dtype), some_keys(2, 3, 150, 8, seed=1, dtype=dtype)
    degrees = some_degrees(2, 3, 150)
    draw = torch.Generator().manual_seed(kept)
    places = torch.empty(2, 3, 150, dtype=torch.int32)
    for row in places.flatten(0, 1):
        others = torch.randint(0, kept, (150 - kept,), generator=draw)
        row[:] = torch.cat([torch.arange(kept), others])[torch.randperm(150, generator=draw)]
    found = triton_merge.merge_pair(keys, values, degrees, places, kept)
    exact = reference.merge_pair(keys.double(), values.double(), degrees, places, kept)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-2
    for got, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(got.double(), expected.double(), rtol=tolerance, atol=tolerance)
    assert torch.equal(triton_merge.merge_centroids(values, degrees, places, kept), found[1])
