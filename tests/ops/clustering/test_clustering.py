"""Matching and merging: by hand, against float64, under any sizes, as torch operators."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from npukv.ops.clustering import (
    cluster,
    merge_centroids,
    merge_degrees,
    merge_pair,
    merge_plan,
    reference,
    soft_match,
)
from npukv.ops.clustering.plan import shares

FLOATS = (torch.float64, torch.float32, torch.bfloat16)


def some_keys(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


sizes = st.tuples(st.integers(2, 90), st.integers(1, 90), st.integers(2, 40)).filter(lambda size: size[1] < size[0])


@given(size=sizes, share=st.floats(0.01, 0.5))
def test_a_plan_reaches_its_goal_in_small_passes(size: tuple[int, int, int], share: float) -> None:
    tokens, goal, chunk = size
    plan = merge_plan(tokens, goal, chunk, share)
    for chunks, width, merges in zip(plan[0::3], plan[1::3], plan[2::3], strict=True):
        assert width % 2 == 0 and width >= 2 and chunks * width <= tokens
        assert 1 <= merges <= max(1, int(tokens * share))
        assert all(end - begin <= width // 2 for begin, end in pairwise(shares(chunks, merges)))
        tokens -= merges
    assert tokens == goal


def test_nothing_to_do_is_an_empty_plan() -> None:
    assert merge_plan(10, 10, 64) == merge_plan(5, 10, 64) == merge_plan(0, 0, 64) == merge_plan(1, 0, 64) == []


def test_match_by_hand() -> None:
    """Two chunks of four; one merge in each. Sources stand at even places, targets at odd ones."""
    east, north, west = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.1]
    keys = torch.tensor([[[east, north, west, east, north, west, east, north, west]]])
    places = soft_match(keys, torch.zeros(1, 1, 2), 2, 4, 2, 0.0)
    # chunk 1: source east (0) is equal to target east (3); chunk 2: source north (4) to target north (7)
    assert places.tolist() == [[[2, 0, 1, 2, 5, 3, 4, 5, 6]]]


def test_typical_keys_merge_first() -> None:
    """Two pairs are equally alike; the one near the centre goes."""
    rare, usual = [0.0, 1.0], [1.0, 0.0]
    keys = torch.tensor([[[rare, rare, usual, usual]]])
    centre = torch.tensor([[[0.9, 0.1]]])
    assert soft_match(keys, centre, 1, 4, 1).tolist() == [[[0, 1, 2, 2]]]
    assert soft_match(keys, centre.flip(-1), 1, 4, 1).tolist() == [[[0, 0, 1, 2]]]


def test_merge_by_hand() -> None:
    x = torch.tensor([[[[2.0], [4.0], [10.0]]]])
    degrees = torch.tensor([[[1.0, 3.0, 1.0]]])
    places = torch.tensor([[[0, 0, 1]]], dtype=torch.int32)
    assert merge_centroids(x, degrees, places, 2).tolist() == [[[[3.5], [10.0]]]]
    assert merge_degrees(degrees, places, 2).tolist() == [[[4.0, 1.0]]]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_kernels_agree_with_float64(dtype: torch.dtype, scale: float) -> None:
    """Values, not indices: the pairs chosen are as alike as the reference's, the means those of the same places."""
    keys = some_keys(2, 3, 61, 16, dtype=dtype, scale=scale)
    degrees = torch.ones(2, 3, 61)
    plan = merge_plan(61, 17, 16)
    places, exact = cluster(keys, degrees, plan), reference.cluster(keys.double(), degrees, plan)
    same = (places == exact).float().mean()
    assert same > (0.99 if dtype is not torch.bfloat16 else 0.9)
    merged = merge_centroids(keys, degrees, exact, 17).double()
    truth = reference.merge_centroids(keys.double(), degrees, exact, 17)
    tolerance = 1e-2 if dtype is torch.bfloat16 else 1e-5
    torch.testing.assert_close(merged, truth, rtol=tolerance, atol=tolerance * scale)


@given(size=sizes, seed=st.integers(0, 99), typical=st.sampled_from([0.0, 1.0, 3.0]))
def test_degrees_are_kept_and_order_too(size: tuple[int, int, int], seed: int, typical: float) -> None:
    tokens, goal, chunk = size
    keys = some_keys(1, 2, tokens, 8, seed=seed)
    degrees = torch.randint(1, 9, (1, 2, tokens), generator=torch.Generator().manual_seed(seed)).float()
    places = cluster(keys, degrees, merge_plan(tokens, goal, chunk), typical)
    assert places.dtype is torch.int32
    merged = merge_degrees(degrees, places, goal)
    assert torch.equal(merged.sum(-1), degrees.sum(-1))
    assert (merged > 0).all()  # every place is taken
    one = soft_match(keys, torch.zeros(1, 2, 8), 1, tokens // 2 * 2, tokens // 4, typical)
    assert all(int(head.max()) == tokens - tokens // 4 - 1 for head in one.flatten(0, 1))
    for head in one.flatten(0, 1).tolist():
        stay = [place for at, place in enumerate(head) if at % 2 or place not in head[1::2]]
        assert stay == sorted(stay)


def test_equal_keys_merge_exactly() -> None:
    """Attention over centroids of equal keys, with + log N, is attention over all of them."""
    keys = some_keys(1, 2, 16, 8, dtype=torch.float64).repeat_interleave(2, dim=2)  # [1, 2, 32, 8]
    values = some_keys(1, 2, 32, 8, seed=1, dtype=torch.float64)
    degrees = torch.randint(1, 9, (1, 2, 32), generator=torch.Generator().manual_seed(0)).float()
    places = cluster(keys, degrees, [1, 32, 16], 0.0)
    assert torch.equal(places, (torch.arange(32) // 2).int().expand(1, 2, 32))
    counts = merge_degrees(degrees, places, 16)
    query = some_keys(1, 2, 5, 8, seed=2, dtype=torch.float64)

    def attended(k: torch.Tensor, v: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return (query @ k.transpose(-1, -2) + n.double().log()[:, :, None]).softmax(-1) @ v

    merged = (merge_centroids(x, degrees, places, 16) for x in (keys, values))
    full = attended(keys, values, degrees)
    torch.testing.assert_close(attended(*merged, counts), full, rtol=1e-12, atol=1e-12)
    merged = (merge_centroids(x, degrees, places, 16) for x in (keys, values))
    assert (attended(*merged, torch.ones_like(counts)) - full).abs().max() > 1e-3  # the degrees matter


def test_keys_are_turned_back_first() -> None:
    keys, degrees, plan = some_keys(1, 2, 40, 8, dtype=torch.float64), torch.ones(1, 2, 40), merge_plan(40, 10, 16)
    angles = torch.arange(40, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.03])
    cos, sin = angles.cos(), angles.sin()
    one, two = keys.chunk(2, dim=-1)
    turned = torch.cat([one * cos - two * sin, two * cos + one * sin], dim=-1)
    expected = cluster(keys, degrees, plan)
    assert torch.equal(cluster(turned, degrees, plan, 1.0, cos, sin), expected)
    assert not torch.equal(cluster(turned, degrees, plan), expected)


def test_heads_and_rows_do_not_mix() -> None:
    keys = some_keys(2, 2, 40, 8)
    plan = merge_plan(40, 10, 16)
    together = cluster(keys, torch.ones(2, 2, 40), plan)
    for row in range(2):
        for head in range(2):
            alone = cluster(keys[row, head][None, None], torch.ones(1, 1, 40), plan)
            assert torch.equal(alone[0, 0], together[row, head])


def samples() -> list[tuple[object, tuple[object, ...]]]:
    keys, degrees = some_keys(2, 2, 21, 8), torch.ones(2, 2, 21)
    places = reference.cluster(keys, degrees, merge_plan(21, 6, 8))
    return [
        (soft_match, (keys, some_keys(2, 2, 8), 2, 10, 7)),
        (merge_centroids, (keys, degrees, places, 6)),
        (cluster, (keys, degrees, merge_plan(21, 6, 8), 0.5)),
        (cluster, (keys, degrees, merge_plan(21, 6, 8), 0.5, some_keys(21, 4).cos(), some_keys(21, 4).sin())),
        (merge_pair, (keys, some_keys(2, 2, 21, 6, seed=1), degrees, places, 6)),
    ]


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: sample[0].name)
def test_opcheck(sample: tuple[object, tuple[object, ...]]) -> None:
    operator, args = sample
    torch.library.opcheck(
        operator.overload, args, test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    )


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: sample[0].name)
def test_compiles_without_graph_breaks(sample: tuple[object, tuple[object, ...]]) -> None:
    operator, args = sample
    compiled = torch.compile(lambda *a: operator(*a), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*args), operator(*args), rtol=0, atol=0)
