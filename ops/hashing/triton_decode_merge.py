"""The fourth launch of `triton_decode`: the parts' outputs, merged."""

from __future__ import annotations

import triton
import triton.language as tl

from npukv.backends import cuda_launch


@triton.jit
def merge_kernel(
    outs, lses, out, lse, parts, rows_all,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """COLUMNS of a row (batch, query head): the parts' outputs weighted by their shares of the whole sum.

    Attention's own merge takes all columns at a time; two programs a row wait less than one.
    """
    row = tl.program_id(0)
    first = tl.program_id(1) * COLUMNS
    column = first + tl.arange(0, COLUMNS)
    in_width = column < WIDTH
    safe_column = column
    if WIDTH % COLUMNS != 0:  # only then: a choice per column would keep loads from being vectorised
        safe_column = tl.where(in_width, column, 0)
    if EARLY:
        cuda_launch.wait()
    most = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    mean = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        there = part < parts
        safe_part = tl.where(there, part, 0)
        each = tl.load(lses + safe_part * rows_all + row, mask=there, other=float("-inf"))
        place = (safe_part.to(tl.int64) * rows_all + row)[:, None] * WIDTH + safe_column[None, :]
        partial = tl.load(outs + place, mask=there[:, None] & in_width[None, :], other=0.0)
        partial = tl.where((each > float("-inf"))[:, None], partial, 0.0)  # what saw nothing may hold anything
        now = tl.maximum(most, tl.max(each, axis=0))
        base = tl.where(now == float("-inf"), 0.0, now)
        shrink = tl.exp2((most - base) * 1.4426950408889634)
        weights = tl.exp2((each - base) * 1.4426950408889634)
        total = total * shrink + tl.sum(weights, axis=0)
        mean = mean * shrink + tl.sum(weights[:, None] * partial, axis=0)
        most = now
    none = total == 0.0
    safe = tl.where(none, 1.0, total)
    to = out + row.to(tl.int64) * WIDTH + safe_column
    tl.store(to, (mean / safe).to(out.dtype.element_ty), mask=in_width)
    sums = tl.where(none, float("-inf"), most + tl.log2(safe) * 0.6931471805599453)
    tl.store(lse + row + tl.arange(0, 1), sums, mask=(first + tl.arange(0, 1)) == 0)
