"""Rows of keys and values in blocks that are a power of two wide."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def columns(D: tl.constexpr, WIDTH: tl.constexpr):
    """[WIDTH], none of them behind a row's end: triton-ascend's lowering loads first and masks after.

    On CUDA, loads stay as wide as the largest power of two in D lets them: columns that are loaded at once are either
    all before the end, where they follow each other, or all behind it, where nothing is loaded.
    """
    column = tl.arange(0, WIDTH)
    if D != WIDTH:
        wide: tl.constexpr = D & -D
        column = tl.max_contiguous(tl.multiple_of(tl.minimum(column, D - 1), wide), wide)
    return column


def padded(size: int) -> int:
    """A size that tl.arange and tl.dot take."""
    return max(16, triton.next_power_of_2(size))
