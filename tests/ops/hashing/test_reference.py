"""The specification of hashing against the words of its definition, in float64 and by sorting."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from npukv.ops.hashing import random_orthogonal, reference


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def draw_codes(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**31), 2**31, shape, generator=generator).to(torch.int32)


def bits_of(codes: torch.Tensor) -> torch.Tensor:
    """[..., w] -> [..., 32 w] of 0 and 1, through Python's own integers."""
    words = [[int(word) & 0xFFFFFFFF for word in row] for row in codes.flatten(0, -2).tolist()]
    bits = [[word >> j & 1 for word in row for j in range(32)] for row in words]
    return torch.tensor(bits).view(*codes.shape[:-1], -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_codes_are_the_signs_of_the_projection(dtype: torch.dtype, scale: float) -> None:
    x = (drawn(0, 2, 6, 5, 48) * scale).to(dtype)
    weights = drawn(1, 3, 48, 96)
    projected = torch.stack([x[:, h].double() @ weights[h // 2].double() for h in range(6)], 1)
    clear = projected.abs() > 1e-5 * scale * 48
    bits = bits_of(reference.hash_encode(x, weights))
    assert clear.float().mean() > 0.99
    assert torch.equal(bits[clear], (projected > 0).long()[clear])


def test_a_zero_projection_is_a_zero_bit() -> None:
    codes = reference.hash_encode(torch.zeros(1, 1, 1, 8), drawn(0, 1, 8, 32))
    assert codes.tolist() == [[[[0]]]]


def test_popcount() -> None:
    words = torch.tensor([0, 1, -1, 2**31 - 1, -(2**31), 0x55555555], dtype=torch.int32)
    assert reference.popcount(words).tolist() == [0, 1, 32, 31, 1, 16]


def test_scores_are_distances_summed_over_the_group() -> None:
    query, keys = draw_codes(0, 2, 6, 1, 4), draw_codes(1, 2, 2, 9, 4)
    length, start = torch.tensor([9, 6], dtype=torch.int32), torch.tensor([0, 2], dtype=torch.int32)
    scores = reference.hamming_scores(query, keys, length, start)
    asked, held = bits_of(query), bits_of(keys)
    for b, h, s in itertools.product(range(2), range(2), range(9)):
        expected = sum(int((asked[b, 3 * h + g, 0] != held[b, h, s]).sum()) for g in range(3))
        assert scores[b, h, s] == (expected if start[b] <= s < length[b] else reference.ABSENT)


@pytest.mark.parametrize("words", [1, 4, 8])
@pytest.mark.parametrize("group", [1, 4, 8])
def test_both_forms_of_the_score_are_equal(words: int, group: int) -> None:
    query, keys = draw_codes(2, 2, 2 * group, 1, words), draw_codes(3, 2, 2, 300, words)
    length = torch.tensor([300, 77], dtype=torch.int32)
    counted = reference.hamming_scores(query, keys, length)
    assert torch.equal(counted, reference.hamming_scores_matmul(query, keys, length))
    assert torch.equal(reference.hamming_scores(query, keys), reference.hamming_scores_matmul(query, keys))


def test_append_writes_each_row_at_its_length() -> None:
    weights = random_orthogonal(2, 16, 32)
    keys, values = drawn(0, 2, 2, 12, 16), drawn(1, 2, 2, 12, 16)
    codes = draw_codes(4, 2, 2, 12, 1)
    before = keys.clone(), values.clone(), codes.clone()
    key, value = drawn(2, 2, 2, 3, 16), drawn(3, 2, 2, 3, 16)
    length = torch.tensor([4, 9], dtype=torch.int32)
    reference.hash_append(key, value, weights, keys, values, codes, length)
    for b, at in enumerate(length.tolist()):
        inside = slice(at, at + 3)
        assert torch.equal(keys[b, :, inside], key[b])
        assert torch.equal(values[b, :, inside], value[b])
        assert torch.equal(codes[b, :, inside], reference.hash_encode(key, weights)[b])
        outside = [s for s in range(12) if not at <= s < at + 3]
        for after, untouched in zip((keys, values, codes), before, strict=True):
            assert torch.equal(after[b][:, outside], untouched[b][:, outside])
    assert length.tolist() == [4, 9]


def by_sorting(scores: list[int], begin: int, end: int, budget: int, sink: int, recent: int) -> list[int]:
    """The rule said once more: forced tokens first, then by score, of equals the last."""
    tokens = range(begin, end)
    forced = {s for s in tokens if s < begin + sink or s >= end - recent}
    order = sorted(tokens, key=lambda s: (s not in forced, scores[s], -s))
    return sorted(order[:budget])


@st.composite
def selections(draw: st.DrawFn) -> dict[str, object]:
    capacity = draw(st.integers(1, 60))
    end = draw(st.integers(0, capacity))
    begin = draw(st.integers(0, end))
    sink, recent = draw(st.integers(0, 5)), draw(st.integers(0, 6))
    budget = draw(st.integers(max(1, sink + recent), 70))
    spread = draw(st.sampled_from([1, 4, 64, 128, 512]))  # few different values: many ties
    scores = draw(st.lists(st.integers(0, spread), min_size=capacity, max_size=capacity))
    return dict(scores=scores, begin=begin, end=end, budget=budget, sink=sink, recent=recent)


@given(selections())
def test_selection_equals_a_sort(case: dict) -> None:
    scores = torch.tensor(case["scores"], dtype=torch.int32).view(1, 1, -1)
    length, start = (torch.tensor([case[name]], dtype=torch.int32) for name in ("end", "begin"))
    asked = case["budget"], case["sink"], case["recent"]
    chosen = reference.select_top_k(scores, length, *asked, start)[0, 0].tolist()
    found = [s for s in chosen if s >= 0]
    assert found == by_sorting(case["scores"], case["begin"], case["end"], *asked)
    assert len(found) == min(case["budget"], case["end"] - case["begin"])
    assert chosen == found + [-1] * (case["budget"] - len(found))


def test_of_equal_scores_the_most_recent_are_taken() -> None:
    scores = torch.tensor([[[3, 7, 7, 7, 7, 7, 9]]], dtype=torch.int32)
    length = torch.tensor([7], dtype=torch.int32)
    assert reference.select_top_k(scores, length, 3, 0, 0).tolist() == [[[0, 4, 5]]]
    assert reference.select_top_k(scores, length, 4, 1, 1).tolist() == [[[0, 4, 5, 6]]]


def test_a_budget_too_small_for_sink_and_recent_is_refused() -> None:
    scores, length = torch.zeros(1, 1, 40, dtype=torch.int32), torch.tensor([40], dtype=torch.int32)
    with pytest.raises(ValueError, match="budget of 19 for 4 sink and 16 recent"):
        reference.select_top_k(scores, length, 19, 4, 16)


def test_blocks_go_by_their_lowest_score() -> None:
    scores = torch.full((1, 1, 1000), 50, dtype=torch.int32)
    scores[..., 300] = 1  # block 2
    scores[..., 700] = 2  # block 5
    scores[..., 960:] = 0  # beyond the length
    length = torch.tensor([900], dtype=torch.int32)  # blocks 0 to 7
    assert reference.select_blocks(scores, length, 4, 1, 1).tolist() == [[[0, 2, 5, 7]]]
    assert reference.select_blocks(scores, length, 12, 1, 1)[0, 0].tolist() == [*range(8), -1, -1, -1, -1]


@pytest.mark.parametrize(("width", "bits"), [(64, 128), (128, 128), (128, 32), (48, 96)])
def test_random_orthogonal_weights(width: int, bits: int) -> None:
    weights = random_orthogonal(3, width, bits, seed=5)
    assert weights.shape == (3, width, bits)
    for first in range(0, bits, width):
        block = weights[:, :, first : first + width].double()
        gram = block.transpose(1, 2) @ block
        assert torch.allclose(gram, torch.eye(gram.shape[-1], dtype=torch.float64).expand_as(gram), atol=1e-6)
    assert not torch.allclose(weights[0], weights[1], atol=0.1)
    assert torch.equal(weights, random_orthogonal(3, width, bits, seed=5))
    assert not torch.equal(weights, random_orthogonal(3, width, bits, seed=6))


def test_near_keys_score_low() -> None:
    """What it is all for: distances order keys as angles do."""
    weights = random_orthogonal(1, 64, 256)
    query = drawn(0, 1, 1, 1, 64)
    near, far = query + 0.5 * drawn(1, 1, 1, 50, 64), drawn(2, 1, 1, 50, 64)
    keys = torch.cat((near, far), 2)
    scores = reference.hamming_scores(reference.hash_encode(query, weights), reference.hash_encode(keys, weights))
    assert scores[0, 0, :50].max() < scores[0, 0, 50:].min()
