"""Cutting a text into overlapping segments of equal length."""

from __future__ import annotations

from dataclasses import dataclass

from npukv.errors import InputError


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [start, end) of the text, which are its characters [char_start, char_end)."""

    index: int
    start: int
    end: int
    char_start: int = 0
    char_end: int = 0


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
    if length < 1:
        raise InputError(f"got a segment of {length} tokens, expected at least 1; raise --segment")
    if not 0 <= overlap < length:
        raise InputError(
            f"got an overlap of {overlap} tokens for segments of {length}, expected 0 to {length - 1}; lower --overlap"
        )
    if tokens <= length:
        return [(0, tokens)] if tokens else []
    stride = length - overlap
    starts = [*range(0, tokens - length, stride), tokens - length]
    return [(start, start + length) for start in starts]
