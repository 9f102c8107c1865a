"""Selection by lists gives what the specification gives, exactly, and the fused form attends to just that."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npukv.ops.hashing import reference
from tests.ops.hashing.test_reference import draw_codes, drawn

pytest.importorskip("triton")
from npukv.ops.hashing import triton as scoring
from npukv.ops.hashing import triton_attend


def lengths(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several stretches of several steps in a small row, and a small sample of it."""
    for name, value in {"PROGRAMS": 8, "BLOCK": 128, "SAMPLE": 128}.items():
        monkeypatch.setitem(triton_attend.SIFT, name, value)
    for name, value in {"PROGRAMS": 14, "TILE": 64, "BLOCK": 16}.items():
        monkeypatch.setitem(triton_attend.ATTEND, name, value)


@st.composite
def cases(draw: st.DrawFn) -> dict:
    group, words = draw(st.sampled_from([1, 2, 3, 4, 8])), draw(st.sampled_from([1, 2, 4]))
    capacity = draw(st.integers(1, 2000))
    end = draw(st.integers(1, capacity))
    begin = draw(st.integers(0, end - 1))
    sink, recent = draw(st.integers(0, 40)), draw(st.integers(0, 40))
    budget = max(1, sink + recent) + draw(st.sampled_from([0, 1, 50, 700, 2000]))
    distinct = draw(st.sampled_from([1, 2, 50, 2000]))
    seed = draw(st.integers(0, 99))
    query, keys = draw_codes(seed, 1, group, 1, words), draw_codes(seed + 1, 1, 1, capacity, words)
    keys = keys[:, :, torch.arange(capacity) // 7 % distinct].contiguous()
    return {"codes": (query, keys), "rest": (lengths(end), budget, sink, recent, lengths(begin))}


@pytest.mark.parametrize(("group", "capacity", "width"), [(1, 900, 24), (4, 700, 32)])
def test_attention(group: int, capacity: int, width: int) -> None:
    query, codes = drawn(0, 2, 2 * group, 1, width), draw_codes(1, 2, 2 * group, 1, 4)
    keys = draw_codes(4, 2, 2, capacity, 4)
    key, value = (drawn(seed, 2, 2, capacity, width) for seed in (2, 3))
    keys[0, 1] = keys[0, 1, :1]  # a row of nothing but ties
    for length, start in ((lengths(capacity, 90), lengths(500, 80)), (lengths(capacity - 5, 0), None)):
        for x in (key, value):
            x[1, :, int(length[1]) :] = float("nan")
        for budget, sink, recent in ((94, 4, 16), (capacity - 9, 0, 0), (20, 4, 16)):
            asked = (length, budget, sink, recent, start)
            expected = reference.hashed_attention(query.double(), codes, keys, key.double(), value.double(), *asked)
            got = triton_attend.hashed_attention(query, codes, keys, key, value, *asked)
            for one, other in zip(got, expected, strict=True):
                torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=2e-5)


def test_attention_sees_exactly_what_is_selected() -> None:
    """With equal weights the output counts the chosen positions, by their quotients and remainders."""
    capacity, width = 900, 32
    codes, keys = draw_codes(1, 1, 4, 1, 4), draw_codes(4, 1, 2, capacity, 4)
    query, position = torch.zeros(1, 4, 1, width), torch.arange(capacity)
    asked = (lengths(capacity - 3), 77, 4, 16, lengths(9))
    chosen = reference.hamming_select(codes, keys, *asked)[0].long()
    for digit in (position % width, position // width):
        value = torch.eye(width)[digit].expand(1, 2, capacity, width)
        out, lse = triton_attend.hashed_attention(query, codes, keys, value, value, *asked)
        for head in range(4):
            assert torch.equal(
                (out[0, head, 0] * 77).round().long(), digit[chosen[head // 2]].bincount(minlength=width)
            )
        torch.testing.assert_close(lse, torch.full((1, 4, 1), 77.0).log())
