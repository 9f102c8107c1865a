"""A decode step's launches append, encode and attend exactly as the specification does, whatever their sample says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")
from npukv.ops.hashing import random_orthogonal, reference, triton_decode, triton_decode_attend
from tests.ops.hashing.test_reference import draw_codes, drawn


def lengths(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several stretches of several steps in a small row, several shares and pieces of a small sample."""
    begin = {"PROGRAMS": 4, "PIECES": 2, "SAMPLE": 256, "LEAST": 128, "PART": 128}
    monkeypatch.setattr(triton_decode, "BEGIN", triton_decode.BEGIN | begin)
    monkeypatch.setattr(triton_decode, "SIFT", triton_decode.SIFT | {"PROGRAMS": 8, "BLOCK": 128})
    monkeypatch.setattr(triton_decode, "ATTEND", triton_decode.ATTEND | {"PROGRAMS": 6, "BLOCK": 16})
    monkeypatch.setattr(triton_decode, "ATTEND_FEW", {"TILE": 32, "num_warps": 4})


def sees_the_selected(case: dict) -> None:
    """With equal weights the output counts the chosen positions, by their quotients and remainders."""
    group, capacity, width = case["group"], case["keys"].shape[2], 64
    weights = random_orthogonal(1, width, 128)
    length, start = lengths(case["end"]), lengths(case["begin"])
    slot, bounds = length - 1, case["bounds"]
    query, key = drawn(case["seed"] + 2, 1, group, 1, width), drawn(case["seed"] + 3, 1, 1, 1, width)
    held = torch.zeros(1, 1, capacity, width), torch.zeros(1, 1, capacity, width), case["keys"]
    if case["near"]:
        held[2][0, 0, 20 : 20 + case["near"]] = (
            reference.hash_encode(query, weights)[0, 0] ^ 3
        )  # the closest side by side
    asked = reference.hash_step(query, key, key, weights, *held, slot)
    chosen = reference.hamming_select(asked, held[2], length, *bounds, start)[0, 0]
    chosen = chosen[chosen >= 0].long()
    for digit in (torch.arange(capacity) % width, torch.arange(capacity) // width):
        value = torch.eye(width)[digit].expand(1, 1, capacity, width).contiguous()
        mine = torch.zeros(1, 1, capacity, width), value.clone(), held[2].clone()
        mine[2][0, 0, int(slot)] = 77  # what was there before
        token = key, value[:, :, int(slot), None]
        nothing_else = token[0] * 0  # equal weights: every key is zero
        out, lse = triton_decode.hash_decode(query, nothing_else, token[1], weights, *mine, length, *bounds, start, 0.0)
        same = reference.hash_encode(nothing_else, weights)[0, 0, 0]
        assert torch.equal(mine[2][0, 0, int(slot)], same)
        mine[2][0, 0, int(slot)] = held[2][0, 0, int(slot)]
        assert torch.equal(mine[2], held[2])
        assert torch.equal(mine[1], value)
        counted = digit[chosen].bincount(minlength=width)
        assert torch.equal((out[0, :, 0] * len(chosen)).round().long(), counted.expand(group, -1))
        torch.testing.assert_close(lse.exp(), torch.full((1, group, 1), float(len(chosen))))


@st.composite
def cases(draw: st.DrawFn) -> dict:
    group, capacity = draw(st.sampled_from([1, 2, 3, 4, 8])), draw(st.integers(1, 600))
    end = draw(st.integers(1, capacity))
    sink, recent = draw(st.integers(0, 30)), draw(st.integers(1, 30))
    budget, seed = sink + recent + draw(st.sampled_from([0, 1, 50, 300, 1000])), draw(st.integers(0, 99))
    keys = draw_codes(seed, 1, 1, capacity, 4)
    keys = keys[:, :, torch.arange(capacity) // 7 % draw(st.sampled_from([1, 2, 50, 2000]))].contiguous()
    begin, near = draw(st.integers(0, end - 1)), draw(st.sampled_from([0, 30, 200]))
    return {
        "group": group, "keys": keys, "end": end, "begin": begin, "bounds": (budget, sink, recent), "seed": seed,
        "near": near, "tile": draw(st.sampled_from([32, 128])),
    }  # fmt: skip


@settings(max_examples=3, deadline=None)
@given(case=cases())
def test_it_attends_to_exactly_what_is_selected(case: dict) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(triton_decode.ATTEND_FEW, "TILE", case["tile"])
        sees_the_selected(case)


@pytest.mark.parametrize("misled", [{"MARGIN": -9.0}, {"WINDOW": 4}], ids=["too few listed", "threshold out of sight"])
def test_a_sample_that_misleads_is_noticed(misled: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in misled.items():
        monkeypatch.setattr(triton_decode, name, value)
    monkeypatch.setitem(triton_decode.ATTEND, "PROGRAMS", 2)
    budget = 7 if "WINDOW" in misled else 200  # the chosen ones lie far below the cutoff
    case = {"group": 2, "keys": draw_codes(1, 1, 1, 400, 4), "end": 400, "begin": 0, "seed": 0}
    called = []
    again = triton_decode_attend._scored_again
    monkeypatch.setattr(triton_decode_attend, "_scored_again", lambda *a: called.append(1) or again(*a))
    sees_the_selected(case | {"bounds": (budget + 6, 2, 4), "near": 30 * ("WINDOW" in misled)})
    assert called


@pytest.mark.parametrize(("group", "capacity", "width"), [(1, 300, 24), (4, 250, 32)])
def test_in_float64(group: int, capacity: int, width: int) -> None:
    weights = random_orthogonal(2, width, 128)
    query, key, value = drawn(0, 2, 2 * group, 1, width), drawn(8, 2, 2, 1, width), drawn(9, 2, 2, 1, width)
    held = [drawn(seed, 2, 2, capacity, width) for seed in (2, 3)] + [draw_codes(4, 2, 2, capacity, 4)]
    held[2][0, 1] = held[2][0, 1, :1]  # a row of nothing but ties
    for length, start in ((lengths(capacity, 90), lengths(150, 80)), (lengths(capacity - 5, 1), None)):
        for x in held[:2]:
            x[1, :, int(length[1]) :] = float("nan")
        for budget, sink, recent in ((94, 4, 16), (20, 4, 16)):
            theirs, mine = ([x.clone() for x in held] for _ in range(2))
            codes = reference.hash_step(query, key, value, weights, *theirs, length - 1)
            asked = (length, budget, sink, recent, start)
            expected = reference.hashed_attention(
                query.double(), codes, theirs[2], theirs[0].double(), theirs[1].double(), *asked
            )
            got = triton_decode.hash_decode(query, key, value, weights, *mine, length, budget, sink, recent, start)
            for one, other in zip(mine, theirs, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
            for one, other in zip(got, expected, strict=True):
                torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=2e-5)


def test_steps_too_long_for_their_lists_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They wrote lists out of place, which a card reported as a misaligned address."""
    monkeypatch.setitem(triton_decode.SIFT, "BLOCK", 2048)
    with pytest.raises(ValueError, match="2048 tokens, expected at most 1024"):
        triton_decode.plan(8, 131072)
