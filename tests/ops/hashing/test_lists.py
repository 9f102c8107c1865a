"""Selection by lists gives what the specification gives, exactly, and the fused form attends to just that."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npukv.ops.attention import reference as attention
from npukv.ops.hashing import reference
from tests.ops.hashing.test_reference import draw_codes, drawn

pytest.importorskip("triton")
from npukv.ops.hashing import triton_lists


def lengths(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several stretches of several steps in a small row."""
    monkeypatch.setattr(triton_lists, "MOST_SPLITS", 4)
    monkeypatch.setattr(triton_lists, "PICK_PROGRAMS", 6)
    monkeypatch.setattr(triton_lists, "ATTEND_PROGRAMS", 14)
    monkeypatch.setattr(triton_lists, "LIST_TILE", 512)
    monkeypatch.setitem(triton_lists.PICK, "TILE", 128)
    monkeypatch.setitem(triton_lists.ATTEND, "TILE", 64)
    monkeypatch.setitem(triton_lists.ATTEND, "BLOCK", 16)


@st.composite
def cases(draw: st.DrawFn) -> dict:
    group, words = draw(st.sampled_from([1, 2, 3, 4, 8])), draw(st.sampled_from([1, 2, 4]))
    capacity = draw(st.integers(1, 5000))
    end = draw(st.integers(1, capacity))
    begin = draw(st.integers(0, end - 1))
    sink, recent = draw(st.integers(0, 40)), draw(st.integers(0, 40))
    budget = max(1, sink + recent) + draw(st.sampled_from([0, 1, 50, 700, 5000]))
    distinct = draw(st.sampled_from([1, 2, 50, 5000]))
    seed = draw(st.integers(0, 99))
    query, keys = draw_codes(seed, 1, group, 1, words), draw_codes(seed + 1, 1, 1, capacity, words)
    keys = keys[:, :, torch.arange(capacity) // 7 % distinct].contiguous()
    return {"codes": (query, keys), "rest": (lengths(end), budget, sink, recent, lengths(begin))}


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_selection(case: dict) -> None:
    expected = reference.hamming_select(*case["codes"], *case["rest"])
    assert torch.equal(triton_lists.hamming_select(*case["codes"], *case["rest"]), expected)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("capacity", [900, 4200])
def test_attention(group: int, capacity: int) -> None:
    query, codes = drawn(0, 2, 2 * group, 1, 24), draw_codes(1, 2, 2 * group, 1, 4)
    key, value, keys = drawn(2, 2, 2, capacity, 24), drawn(3, 2, 2, capacity, 24), draw_codes(4, 2, 2, capacity, 4)
    keys[0, 1] = keys[0, 1, :1]  # a row of nothing but ties
    for length, start in ((lengths(capacity - 5, 700), None), (lengths(capacity, 90), lengths(500, 80))):
        for budget, sink, recent in ((94, 4, 16), (capacity - 9, 0, 0), (20, 4, 16)):
            asked = (length, budget, sink, recent, start)
            indices = reference.hamming_select(codes, keys, *asked)
            expected = attention.indexed_attention(query.double(), key.double(), value.double(), indices)[0]
            got = triton_lists.hashed_attention(query, codes, keys, key, value, *asked)
            torch.testing.assert_close(got.double(), expected, atol=2e-5, rtol=2e-5)
