"""Which segments are kept, against a slow and plain way of saying it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npukv.errors import InputError
from npukv.relevance.cut import Segment, cut
from npukv.relevance.pick import Keep, merge, parse_keep, pick, union_length


def segments_of(tokens: int, length: int, overlap: int) -> list[Segment]:
    return [Segment(i, start, end) for i, (start, end) in enumerate(cut(tokens, length, overlap))]


def union(segments: list[Segment], chosen: list[int]) -> int:
    return len({token for i in chosen for token in range(segments[i].start, segments[i].end)})


@st.composite
def texts(draw: st.DrawFn) -> tuple[np.ndarray, list[Segment], int]:
    """Scores (many of them equal), segments, and a budget that holds at least one segment."""
    length = draw(st.integers(1, 12))
    segments = segments_of(draw(st.integers(1, 120)), length, draw(st.integers(0, length - 1)))
    values = np.array([draw(st.integers(0, 6)) / 2 for _ in segments])
    one = segments[0].end - segments[0].start
    return values, segments, draw(st.integers(one, 60))


keeps = st.one_of(
    st.builds(Keep, count=st.integers(1, 9)),
    st.just(Keep(count=None)),
    st.builds(lambda margin: Keep(count=None, margin=margin), st.sampled_from((0.0, 0.5, 1.0, 2.5))),
)


def slowly(values: np.ndarray, segments: list[Segment], budget: int, keep: Keep) -> list[int]:
    chosen: list[int] = []
    for value, index in sorted((value, i) for i, value in enumerate(values)):
        if len(chosen) == keep.count or (keep.margin is not None and value > values.min() + keep.margin):
            break
        if union(segments, [*chosen, index]) > budget:
            break
        chosen.append(index)
    return sorted(chosen)


@given(texts(), keeps)
def test_best_first_until_the_budget_is_full(text: tuple[np.ndarray, list[Segment], int], keep: Keep) -> None:
    values, segments, budget = text
    assert pick(values, segments, budget, keep) == slowly(values, segments, budget, keep)


@given(texts(), keeps, st.integers(0, 3), st.booleans())
def test_whatever_is_asked_the_budget_holds(
    text: tuple[np.ndarray, list[Segment], int], keep: Keep, neighbours: int, keep_head: bool
) -> None:
    values, segments, budget = text
    budget += segments[0].end if keep_head else 0  # room for the head and one more
    chosen = pick(values, segments, budget, keep, neighbours, keep_head)
    assert chosen == sorted(set(chosen))
    assert union(segments, chosen) <= budget
    assert int(np.argmin(values)) in chosen
    assert not keep_head or 0 in chosen
    if keep.count is not None:
        assert len(chosen) <= keep.count * (1 + 2 * neighbours) + keep_head


@given(texts(), st.integers(1, 4), st.integers(1, 3))
def test_neighbours_on_both_sides_where_there_is_room(
    text: tuple[np.ndarray, list[Segment], int], count: int, neighbours: int
) -> None:
    values, segments, _ = text
    best = slowly(values, segments, 10_000, Keep(count))
    expected = {n for i in best for n in range(i - neighbours, i + neighbours + 1) if 0 <= n < len(segments)}
    assert set(pick(values, segments, 10_000, Keep(count), neighbours)) == expected


def test_of_equals_the_earlier() -> None:
    segments = segments_of(100, 10, 0)
    assert pick(np.zeros(10), segments, 35, Keep(None)) == [0, 1, 2]
    assert pick(np.array([3.0, 1, 2, 1, 1, 0, 9, 9, 9, 9]), segments, 100, Keep(3)) == [1, 3, 5]


def test_overlapping_tokens_count_once() -> None:
    segments = segments_of(22, 10, 4)  # 0-10, 6-16, 12-22
    values = np.array([0.0, 1.0, 2.0])
    assert pick(values, segments, 15, Keep(None)) == [0]
    assert pick(values, segments, 16, Keep(None)) == [0, 1]
    assert pick(values, segments, 22, Keep(None)) == [0, 1, 2]
    assert pick(values, segments, 22, Keep(2)) == [0, 1]


def test_margin_is_counted_from_the_best() -> None:
    values = np.array([5.0, 2.0, 2.4, 2.6, 9.0])
    segments = segments_of(50, 10, 0)
    assert pick(values, segments, 50, Keep(None, margin=0.5)) == [1, 2]
    assert pick(values, segments, 50, Keep(None, margin=0.0)) == [1]
    assert pick(values, segments, 20, Keep(None, margin=100)) == [1, 2]


def test_head_is_kept_beside_the_count() -> None:
    values = np.array([9.0, 5.0, 1.0, 2.0])
    segments = segments_of(40, 10, 0)
    assert pick(values, segments, 40, Keep(2), keep_head=True) == [0, 2, 3]
    assert pick(values, segments, 20, Keep(2), keep_head=True) == [0, 2]
    values[0] = 0.0
    assert pick(values, segments, 40, Keep(2), keep_head=True) == [0, 2]


def test_head_does_not_push_out_the_best() -> None:
    values = np.array([9.0, 5.0, 1.0, 2.0])
    segments = segments_of(40, 10, 0)
    assert pick(values, segments, 15, Keep(1), keep_head=True) == [2]
    assert pick(values, segments, 20, Keep(None), keep_head=True) == [0, 2]


def test_no_room_for_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"got segments of 10 tokens, expected at most 9, .*lower --segment"):
        pick(np.zeros(4), segments_of(40, 10, 0), 9, Keep(1))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 12)), max_size=12))
def test_merge_is_the_union(pieces: list[tuple[int, int]]) -> None:
    segments = [Segment(i, start, start + length) for i, (start, length) in enumerate(pieces)]
    spans = merge(segments)
    tokens = sorted({token for segment in segments for token in range(segment.start, segment.end)})
    assert [token for start, end in spans for token in range(start, end)] == tokens
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))
    assert union_length(segments) == len(tokens)


@pytest.mark.parametrize(
    ("given_as", "keep"),
    [
        (4, Keep(4)),
        ("4", Keep(4)),
        (" 12 ", Keep(12)),
        ("fill", Keep(None)),
        ("margin:0.5", Keep(None, 0.5)),
        ("passages", Keep(None, passages=True)),
        ("passages:0.5", Keep(None, margin=0.5, passages=True)),
        ("margin:0", Keep(None, 0.0)),
        (Keep(2, 1.0), Keep(2, 1.0)),
    ],
)
def test_parse_keep(given_as: int | str | Keep, keep: Keep) -> None:
    assert parse_keep(given_as) == keep


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "0",
        0,
        -1,
        "-4",
        "1.5",
        "all",
        "fill:3",
        "passages:-1",
        "passages:few",
        "margin",
        "margin:",
        "margin:-1",
        "margin:x",
        "margin:nan",
    ],
)
def test_unreadable_keep_is_refused(wrong: int | str) -> None:
    with pytest.raises(InputError, match="expected a number of segments") as error:
        parse_keep(wrong)
    assert repr(wrong) in str(error.value)
