"""Every token in a window, all windows equal."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from npukv.errors import InputError
from npukv.relevance.cut import cut


@given(st.integers(0, 500), st.integers(1, 120), st.data())
def test_windows(tokens: int, length: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, length - 1))
    windows = cut(tokens, length, overlap)
    covered = [token for start, end in windows for token in range(start, end)]
    assert set(covered) == set(range(tokens))
    if tokens <= length:
        assert windows == ([(0, tokens)] if tokens else [])
        return
    assert all(end - start == length for start, end in windows)
    starts = [start for start, _ in windows]
    assert starts == sorted(set(starts))
    shared = [end - start for (_, end), (start, _) in itertools.pairwise(windows)]
    assert all(tokens_shared == overlap for tokens_shared in shared[:-1])
    assert shared[-1] >= overlap  # the last window is moved back
    assert windows[-1][1] == tokens
    assert len(windows) == 1 + -(-(tokens - length) // (length - overlap))  # no window more than needed


@given(st.integers(2, 500), st.integers(2, 60), st.data())
def test_a_fact_no_longer_than_the_overlap_is_whole_in_some_window(
    tokens: int, length: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(1, length - 1))
    assume(tokens >= overlap)
    start = data.draw(st.integers(0, tokens - overlap))
    assert any(first <= start and start + overlap <= end for first, end in cut(tokens, length, overlap))


@pytest.mark.parametrize(
    ("length", "overlap", "message"),
    [
        (0, 0, "got a segment of 0 tokens, expected at least 1; raise --segment"),
        (-3, 0, "got a segment of -3 tokens"),
        (4, 4, "got an overlap of 4 tokens for segments of 4, expected 0 to 3; lower --overlap"),
        (4, 9, "got an overlap of 9"),
        (4, -1, "got an overlap of -1"),
    ],
)
def test_impossible_windows_are_refused(length: int, overlap: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cut(100, length, overlap)
