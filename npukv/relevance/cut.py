"""Cutting a text into overlapping segments of equal length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from npukv.errors import InputError


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [start, end) of the text, which are its characters [char_start, char_end)."""

    index: int
    start: int
    end: int
    char_start: int = 0
    char_end: int = 0


class Windows(Sequence[Segment]):
    """All segments of a text, in its order, each made when it is asked for.

    Twenty million tokens are tens of thousands of segments, of which a rank, or a question answered from a shortlist,
    looks at a few; of the text's places only those are read.

    Args:
        tokens, length, overlap: as of `cut`.
        span: (start, end) in tokens -> (from, to) in characters.
    """

    def __init__(self, tokens: int, length: int, overlap: int, span: Callable[[int, int], tuple[int, int]]) -> None:
        _check(length, overlap)
        self.length = min(length, tokens)
        self.stride = length - overlap
        self.last = max(0, tokens - length)
        self._count = -(-self.last // self.stride) + 1 if tokens else 0
        self._span = span

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Segment, ...]: ...
    def __getitem__(self, index: int | slice) -> Segment | tuple[Segment, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(self._count)))
        place = range(self._count)[index]
        start = self.start(place)
        return Segment(place, start, start + self.length, *self._span(start, start + self.length))

    def start(self, index: int) -> int:
        """The first token of a segment; the last segment is moved back to the text's end."""
        return min(index * self.stride, self.last)


def starts_of(segments: Sequence[Segment], chosen: Sequence[int] | None = None) -> np.ndarray:
    """First tokens of all or some segments, int64 [n], without making the segments where that can be avoided."""
    rows = np.arange(len(segments)) if chosen is None else np.asarray(chosen, dtype=np.int64)
    if isinstance(segments, Windows):
        return np.minimum(rows * segments.stride, segments.last)
    return np.array([segments[int(row)].start for row in rows], dtype=np.int64)


def cut(tokens: int, length: int, overlap: int) -> list[tuple[int, int]]:
    """Windows [start, end) over `tokens` tokens, each `length` long, each `overlap` tokens into the one before.

    All are equally long: the last is moved back to the text's end (so it may overlap more), and a text shorter than
    one window is one window. Source: XL3M (arXiv 2405.17755), overlapping sliding window.

    Raises:
        InputError: a length below 1, or an overlap not in [0, length).

    >>> cut(10, 4, 1)
    [(0, 4), (3, 7), (6, 10)]
    >>> cut(9, 4, 1)
    [(0, 4), (3, 7), (5, 9)]
    """
    return [(segment.start, segment.end) for segment in Windows(tokens, length, overlap, lambda start, end: (0, 0))]


def _check(length: int, overlap: int) -> None:
    if length < 1:
        raise InputError(f"got a segment of {length} tokens, expected at least 1; raise --segment")
    if not 0 <= overlap < length:
        raise InputError(
            f"got an overlap of {overlap} tokens for segments of {length}, expected 0 to {length - 1}; lower --overlap"
        )
