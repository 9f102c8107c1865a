"""The numpy and Triton kernels give what the specification gives, exactly. Triton's run under its interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from npukv.ops.hashing import cpu, random_orthogonal, reference
from tests.ops.hashing.test_reference import draw_codes, drawn, selections

pytest.importorskip("triton")
from npukv.ops.hashing import triton, triton_select

SIDES = [cpu, triton_select]


def lengths(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "bits", "tokens"), [(64, 128, 70), (80, 64, 5), (128, 256, 1), (16, 32, 3)])
def test_triton_encodes(dtype: torch.dtype, width: int, bits: int, tokens: int) -> None:
    weights = random_orthogonal(2, width, bits).to(dtype)
    x = drawn(0, 2, 4, tokens, width, dtype=dtype)
    assert torch.equal(triton.hash_encode(x, weights), reference.hash_encode(x, weights))


def test_triton_encodes_what_is_not_contiguous() -> None:
    weights = random_orthogonal(2, 32, 64)
    x = drawn(0, 2, 9, 2, 32).transpose(1, 2)
    assert torch.equal(triton.hash_encode(x, weights), reference.hash_encode(x, weights))
    across = drawn(0, 2, 2, 32, 9).transpose(2, 3)
    assert torch.equal(triton.hash_encode(across, weights), reference.hash_encode(across, weights))


@pytest.mark.parametrize("tokens", [1, 5, 70])
@pytest.mark.parametrize("width", [32, 80])
def test_triton_appends(tokens: int, width: int) -> None:
    weights = random_orthogonal(2, width, 64)
    held = [drawn(1, 2, 2, 100, width), drawn(2, 2, 2, 100, width), draw_codes(3, 2, 2, 100, 2)]
    other = [tensor.clone() for tensor in held]
    key, value = drawn(4, 2, tokens, 2, width).transpose(1, 2), drawn(5, 2, 2, tokens, width)
    reference.hash_append(key, value, weights, *held, lengths(0, 30))
    triton.hash_append(key, value, weights, *other, lengths(0, 30))
    for expected, got in zip(held, other, strict=True):
        assert torch.equal(got, expected)


def test_triton_writes_nothing_beyond_the_buffers() -> None:
    weights = random_orthogonal(1, 32, 64)
    for tokens in (1, 20):
        held = [drawn(1, 2, 1, 40, 32), drawn(2, 2, 1, 40, 32), draw_codes(3, 2, 1, 40, 2)]
        before = [tensor.clone() for tensor in held]
        key = drawn(4, 2, 1, tokens, 32)
        triton.hash_append(key, key, weights, *held, lengths(40, 45))
        assert all(torch.equal(after, tensor) for after, tensor in zip(held, before, strict=True))


@pytest.mark.parametrize("group", [1, 4, 5])
def test_triton_step(group: int) -> None:
    weights = random_orthogonal(2, 64, 128).to(torch.bfloat16)
    held = [drawn(1, 2, 2, 9, 64, dtype=torch.bfloat16) for _ in range(2)] + [draw_codes(3, 2, 2, 9, 4)]
    other = [tensor.clone() for tensor in held]
    query = drawn(6, 2, 2 * group, 1, 64, dtype=torch.bfloat16)
    key, value = (drawn(seed, 2, 1, 2, 64, dtype=torch.bfloat16).transpose(1, 2) for seed in (4, 5))
    expected = reference.hash_step(query, key, value, weights, *held, lengths(8, 3))
    assert torch.equal(triton.hash_step(query, key, value, weights, *other, lengths(8, 3)), expected)
    assert all(torch.equal(after, tensor) for after, tensor in zip(other, held, strict=True))


@pytest.mark.parametrize("words", [1, 2, 4, 8])
@pytest.mark.parametrize("group", [1, 2, 3, 4, 7, 8, 33])
def test_scores(words: int, group: int) -> None:
    query, keys = draw_codes(0, 2, 2 * group, 1, words), draw_codes(1, 2, 2, 1030, words)
    query[0, 0], keys[0, 0, 5] = keys[0, 0, 4, None], ~keys[0, 0, 4]  # the smallest and the largest distance
    for bounds in ((), (lengths(1030, 3),), (lengths(1029, 900), lengths(1, 0)), (lengths(0, 2000), lengths(0, 40))):
        expected = reference.hamming_scores(query, keys, *bounds)
        assert torch.equal(cpu.hamming_scores(query, keys, *bounds), expected)
        assert torch.equal(triton.hamming_scores(query, keys, *bounds), expected)


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.__name__.rpartition(".")[2])
@settings(max_examples=40)
@given(case=selections())
def test_selection(side: object, case: dict) -> None:
    scores = torch.tensor(case["scores"], dtype=torch.int32).view(1, 1, -1)
    asked = (
        lengths(case["end"]), case["budget"], case["sink"], case["recent"], lengths(case["begin"])
    )  # fmt: skip
    expected = reference.select_top_k(scores, *asked)
    assert torch.equal(side.select_top_k(scores, *asked, 512), expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.__name__.rpartition(".")[2])
@pytest.mark.parametrize("group", [1, 4])
def test_selection_over_several_stretches(side: object, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows longer than a program's stretch, where ties and sure ones are counted across programs."""
    monkeypatch.setattr(triton_select, "MOST_SPLITS", 4)
    capacity, bits = 3100, 32 * 4 * group
    query, keys = draw_codes(0, 1, 2 * group, 1, 4), draw_codes(1, 1, 2, capacity, 4)
    keys[0, 1] = keys[0, 1, :1]  # a row of nothing but ties
    for length, start in ((lengths(3090), None), (lengths(3100), lengths(1500))):
        scores = reference.hamming_scores(query, keys, length, start)
        for budget, sink, recent in ((94, 4, 16), (3085, 0, 0)):
            expected = reference.select_top_k(scores, length, budget, sink, recent, start)
            asked = (length, budget, sink, recent, start)
            assert torch.equal(side.select_top_k(scores, *asked, bits), expected)  # type: ignore[attr-defined]
            assert torch.equal(side.hamming_select(query, keys, *asked), expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize("largest", [32, 33, 63, 64, 65, 130, 384, 512, 1024])
def test_every_largest_score(largest: int) -> None:
    """The coarse and the fine bins together tell every two scores apart."""
    scores = torch.arange(largest + 1, dtype=torch.int32).flip(0).view(1, 1, -1)
    for budget in (1, 2, largest // 2, largest - 1, largest, largest + 1):
        expected = reference.select_top_k(scores, lengths(largest + 1), budget, 0, 0)
        chosen = triton_select.select_top_k(scores, lengths(largest + 1), budget, 0, 0, None, largest)
        assert torch.equal(chosen, expected), budget


def test_triton_selects_blocks() -> None:
    scores = reference.hamming_scores(draw_codes(0, 2, 4, 1, 4), draw_codes(1, 2, 2, 3000, 4), lengths(3000, 1700))
    for asked in ((4, 1, 2), (24, 1, 4), (40, 0, 1)):
        expected = reference.select_blocks(scores, lengths(3000, 1700), *asked)
        assert torch.equal(triton_select.select_blocks(scores, lengths(3000, 1700), *asked, 256), expected)


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.__name__.rpartition(".")[2])
def test_small_budgets_are_refused(side: object) -> None:
    with pytest.raises(ValueError, match="budget of 3 for 4 sink"):
        side.select_top_k(torch.zeros(1, 1, 9, dtype=torch.int32), lengths(9), 3, 4, 0, None, 32)  # type: ignore[attr-defined]
