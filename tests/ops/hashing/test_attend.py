"""The attention kernels attend to exactly what the specification selects, and come out as it does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npukv.ops.hashing import reference
from tests.ops.hashing.test_reference import draw_codes, drawn

pytest.importorskip("triton")
from npukv.ops.hashing import triton_attend, triton_sift


def lengths(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several stretches of several steps in a small row, and a small sample of it."""
    for name, value in {"PROGRAMS": 8, "BLOCK": 128, "SAMPLE": 128}.items():
        monkeypatch.setitem(triton_sift.SIFT, name, value)
    for name, value in {"PROGRAMS": 6, "TILE": 64, "BLOCK": 16}.items():
        monkeypatch.setitem(triton_attend.ATTEND, name, value)


@st.composite
def cases(draw: st.DrawFn) -> dict:
    group, words = draw(st.sampled_from([1, 2, 3, 4, 8])), draw(st.sampled_from([1, 2, 4]))
    capacity = draw(st.integers(1, 1100))
    end = draw(st.integers(0, capacity + 3))
    begin = draw(st.integers(0, end))
    sink, recent = draw(st.integers(0, 30)), draw(st.integers(0, 30))
    budget = max(1, sink + recent) + draw(st.sampled_from([0, 1, 50, 300, 1000]))
    seed, distinct = draw(st.integers(0, 99)), draw(st.sampled_from([1, 2, 50, 2000]))
    query, keys = draw_codes(seed, 1, group, 1, words), draw_codes(seed + 1, 1, 1, capacity, words)
    keys = keys[:, :, torch.arange(capacity) // 7 % distinct].contiguous()
    if draw(st.booleans()):
        keys[0, 0, : capacity // 3] = query[0, 0] ^ 3  # the closest side by side
    return {"codes": (query, keys), "rest": (lengths(end), budget, sink, recent, lengths(begin))}


def sees_the_selected(codes: tuple[torch.Tensor, torch.Tensor], rest: tuple, together: bool = True) -> None:
    """With equal weights the output counts the chosen positions, by their quotients and remainders."""
    asked, keys = codes
    group, capacity, width = asked.shape[1], keys.shape[2], 64
    chosen = reference.hamming_select(asked, keys, *rest)[0, 0]
    chosen = chosen[chosen >= 0].long()
    for digit in (torch.arange(capacity) % width, torch.arange(capacity) // width):
        value = torch.eye(width)[digit].expand(1, 1, capacity, width)
        query = torch.zeros(1, group, 1, width)
        out, lse = triton_attend.hashed_attention(query, asked, keys, value, value, *rest, together=together)
        counted = digit[chosen].bincount(minlength=width)
        assert torch.equal((out[0, :, 0] * len(chosen)).round().long(), counted.expand(group, -1))
        torch.testing.assert_close(lse.exp(), torch.full((1, group, 1), float(len(chosen))))


@settings(max_examples=8, deadline=None)
@given(case=cases(), together=st.booleans())
def test_it_attends_to_exactly_what_is_selected(case: dict, together: bool) -> None:
    """With barriers, and with launches of their own instead."""
    sees_the_selected(case["codes"], case["rest"], together)


@pytest.mark.parametrize("misled", [{"MARGIN": -9.0}, {"WINDOW": 4}], ids=["too few listed", "threshold out of sight"])
def test_a_sample_that_misleads_is_noticed(misled: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is scored again; here so that it must be, and with a threshold that is shared by several."""
    for name, value in misled.items():
        monkeypatch.setattr(triton_sift, name, value)
    for name, value in {"PROGRAMS": 2, "TILE": 256}.items():
        monkeypatch.setitem(triton_attend.ATTEND, name, value)
    asked, keys, budget = draw_codes(0, 1, 2, 1, 1), draw_codes(1, 1, 1, 500, 1), 200
    if "WINDOW" in misled:
        keys[0, 0, 100:130], budget = asked[0, 0] ^ 3, 7  # all chosen ones lie far below the cutoff
    scores = reference.hamming_scores(asked, keys)[0, 0, 2:496].sort().values
    assert scores[budget - 2] == scores[budget - 1] == scores[budget]
    sees_the_selected((asked, keys), (lengths(500), budget + 6, 2, 4, lengths(0)))


@pytest.mark.parametrize(("group", "capacity", "width"), [(1, 600, 24), (4, 400, 32)])
def test_in_float64(group: int, capacity: int, width: int) -> None:
    query, codes = drawn(0, 2, 2 * group, 1, width), draw_codes(1, 2, 2 * group, 1, 4)
    keys = draw_codes(4, 2, 2, capacity, 4)
    key, value = (drawn(seed, 2, 2, capacity, width) for seed in (2, 3))
    keys[0, 1] = keys[0, 1, :1]  # a row of nothing but ties
    for length, start in ((lengths(capacity, 90), lengths(300, 80)), (lengths(capacity - 5, 0), None)):
        for x in (key, value):
            x[1, :, int(length[1]) :] = float("nan")
        for budget, sink, recent in ((94, 4, 16), (20, 4, 16)):
            asked = (length, budget, sink, recent, start)
            expected = reference.hashed_attention(query.double(), codes, keys, key.double(), value.double(), *asked)
            got = triton_attend.hashed_attention(query, codes, keys, key, value, *asked)
            for one, other in zip(got, expected, strict=True):
                torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=2e-5)
