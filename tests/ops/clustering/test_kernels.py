"""The Triton kernels, under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from npukv.ops.clustering import merge_degrees, merge_plan, reference
from tests.ops.clustering.test_clustering import some_keys

pytest.importorskip("triton")


@pytest.mark.parametrize(
    ("tokens", "goal", "chunk"), [(61, 17, 16), (40, 39, 64), (150, 31, 150), (2, 1, 2), (9, 9, 4), (130, 100, 7)]
)
@pytest.mark.parametrize(("width", "typical"), [(16, 1.0), (20, 0.0)])
def test_cluster(interpreter: None, tokens: int, goal: int, chunk: int, width: int, typical: float) -> None:
    from npukv.ops.clustering import triton

    keys = some_keys(2, 3, tokens + 5, width)[:, :, 2 : tokens + 2]
    degrees = torch.randint(1, 5, (2, 3, tokens), generator=torch.Generator().manual_seed(1)).float()
    plan = merge_plan(tokens, goal, chunk)
    expected = reference.cluster(keys.double(), degrees.double(), plan, typical)
    places = triton.cluster(keys, degrees, plan, typical)
    assert places.dtype is torch.int32
    assert torch.equal(places, expected)
    merged = triton.merge_centroids(keys, degrees, places, goal)
    torch.testing.assert_close(
        merged.double(), reference.merge_centroids(keys.double(), degrees, places, goal), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_two_byte_numbers(interpreter: None, dtype: torch.dtype) -> None:
    """Some near-ties fall otherwise: degrees and order still hold, the means are those of the same places."""
    from npukv.ops.clustering import triton

    keys = some_keys(1, 2, 70, 16, dtype=dtype)
    degrees = torch.ones(1, 2, 70)
    plan = merge_plan(70, 20, 32)
    places = triton.cluster(keys, degrees, plan)
    assert (places == reference.cluster(keys.double(), degrees.double(), plan)).float().mean() > 0.9
    merged = merge_degrees(degrees, places, 20)
    assert (merged > 0).all() and (merged.sum(-1) == 70).all()
    torch.testing.assert_close(
        triton.merge_centroids(keys, degrees, places, 20).double(),
        reference.merge_centroids(keys.double(), degrees, places, 20),
        rtol=1e-2,
        atol=1e-2,
    )


def test_equal_scores_merge_the_first(interpreter: None) -> None:
    """All keys are equal: ties everywhere, in the order of the reference."""
    from npukv.ops.clustering import triton

    keys, degrees = torch.ones(1, 1, 24, 16), torch.ones(1, 1, 24)
    plan = merge_plan(24, 6, 24)
    assert torch.equal(triton.cluster(keys, degrees, plan), reference.cluster(keys, degrees, plan))
