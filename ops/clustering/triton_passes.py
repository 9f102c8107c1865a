"""Passes of clustering on tensor cores, for CUDA: one launch per pass, one program per chunk and head.

A program reads its chunk once: likenesses are products of the 16-bit keys as they are, exact, summed in float32 and
divided by the lengths after; who leaves is counted in registers; means are a product with the matrix that says who
joins whom. Centroids are stored close together in the type of the keys, as the reference does. Not for Ascend: a tile
of a whole chunk does not fit its unified buffer; triton.py's kernels are what lowers there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

#: Targets at a time; tokens of a program that sums unit keys.
TILE, TOKENS = 64, 64
#: Numbers that differ from pass to pass: a kernel is not compiled anew for each.
VARYING = ("length", "held", "size", "chunks", "merges", "passes", "step", "x_b", "x_h")


@triton.jit(do_not_specialize=("length",))
def _centre_kernel(
    keys, degrees, partial, length, heads, key_b, key_h, key_l,
    D: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """The sum of STEPS blocks of tokens' normalised keys, times their degrees."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    real = column < D
    at = keys + (row // heads) * key_b + (row % heads) * key_h + tl.minimum(column, D - 1)[None, :]
    total = tl.zeros([WIDTH], tl.float32)
    for step in range(STEPS):
        token = (tl.program_id(1) * STEPS + step) * TOKENS + tl.arange(0, TOKENS)
        inside = token < length
        x = tl.load(at + token.to(tl.int64)[:, None] * key_l, mask=inside[:, None] & real[None, :], other=0.0)
        x = x.to(tl.float32)
        degree = tl.load(degrees + row * length + token, mask=inside, other=0.0)
        total += tl.sum(x * (degree / tl.maximum(tl.sqrt(tl.sum(x * x, axis=1)), 1e-12))[:, None], axis=0)
    tl.store(partial + (row * tl.num_programs(1) + tl.program_id(1)) * D + column, total, mask=real)


@triton.jit(do_not_specialize=VARYING)
def _pass_kernel(
    x, degrees, centre, out, out_degrees, steps, held, size, chunks, merges, length, heads, typical, x_b, x_h, x_l,
    D: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr, TILE: tl.constexpr, WRITES: tl.constexpr,
):  # fmt: skip
    """One chunk of `held` keys: which sources leave, whom they join, and the rows that are left.

    x [rows, held, D] by strides, degrees [rows, held]; out and out_degrees: the same with held - merges; steps: int32
    [rows, length]. The program behind the last chunk moves up what is behind it.
    """
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    column = tl.arange(0, WIDTH)
    real = column < D
    x += (row // heads) * x_b + (row % heads) * x_h
    degrees += row * held
    steps += row * length
    out += row * (held - merges) * D
    out_degrees += row * (held - merges)
    tile = tl.arange(0, TILE)
    if chunk == chunks:
        for start in range(chunks * size, held, TILE):
            at = start + tile
            moved = at < held
            tl.store(steps + at, at - merges, mask=moved)
            if WRITES:
                both = moved[:, None] & real[None, :]
                kept = tl.load(x + at.to(tl.int64)[:, None] * x_l + column[None, :], mask=both)
                tl.store(out + (at - merges).to(tl.int64)[:, None] * D + column[None, :], kept, mask=both)
                tl.store(out_degrees + at - merges, tl.load(degrees + at, mask=moved), mask=moved)
    else:
        half = size // 2
        before = merges.to(tl.int64) * chunk // chunks
        count = (merges.to(tl.int64) * (chunk + 1) // chunks - before).to(tl.int32)
        first = chunk * size
        middle = tl.load(centre + row * D + column, mask=real, other=0.0)
        source = tl.arange(0, HALF)
        there = source < half
        rows = (first + 2 * source).to(tl.int64)
        mine = tl.load(x + rows[:, None] * x_l + column[None, :], mask=there[:, None] & real[None, :], other=0.0)
        wide = mine.to(tl.float32)
        scale = 1 / tl.maximum(tl.sqrt(tl.sum(wide * wide, axis=1)), 1e-12)
        close = tl.sum(wide * middle[None, :], axis=1) * scale * typical
        best = tl.full([HALF], float("-inf"), tl.float32)
        partner = tl.zeros([HALF], tl.int32)
        for start in range(0, half, TILE):
            target = start + tile
            present = target < half
            at = (first + 2 * target + 1).to(tl.int64)
            other = tl.load(
                x + at[:, None] * x_l + column[None, :], mask=present[:, None] & real[None, :], other=0.0
            )
            width = other.to(tl.float32)
            shrink = 1 / tl.maximum(tl.sqrt(tl.sum(width * width, axis=1)), 1e-12)
            near = tl.sum(width * middle[None, :], axis=1) * shrink * typical
            near = tl.where(present, near, float("-inf"))
            likeness = tl.dot(mine, tl.trans(other), input_precision="ieee")
            likeness = likeness * scale[:, None] * shrink[None, :] + near[None, :]
            most = tl.max(likeness, axis=1)
            found = tl.min(tl.where(likeness == most[:, None], target[None, :], half), axis=1)
            better = most > best
            best = tl.where(better, most, best)
            partner = tl.where(better, found, partner)
        partner = tl.minimum(partner, half - 1)
        score = tl.where(there, best + close, float("-inf"))

        # a source's rank is how many are ahead of it
        ahead = score[None, :] > score[:, None]
        ahead = ahead | ((score[None, :] == score[:, None]) & (source[None, :] < source[:, None]))
        goes = ((tl.sum(ahead.to(tl.int32), axis=1) < count) & there).to(tl.int32)
        gone = tl.cumsum(goes, axis=0)
        missing = tl.sum(tl.where(source[None, :] <= partner[:, None], goes[None, :], 0), axis=1)
        base = (first - before).to(tl.int32)
        place = tl.where(goes == 1, base + 2 * partner + 1 - missing, base + 2 * source - gone)
        tl.store(steps + rows, place, mask=there)
        tl.store(steps + rows + 1, base + 2 * source + 1 - gone, mask=there)
        if WRITES:
            stays = there & (goes == 0)
            degree = tl.load(degrees + rows, mask=there, other=0.0)
            tl.store(out_degrees + place, degree, mask=stays)
            tl.store(
                out + place.to(tl.int64)[:, None] * D + column[None, :], mine, mask=stays[:, None] & real[None, :]
            )
            weight = tl.where(goes == 1, tl.minimum(degree, 32768.0), 0.0)
            tl.debug_barrier()  # the places of the targets, stored above, are read again
            for start in range(0, half, TILE):
                target = start + tile
                present = target < half
                both = present[:, None] & real[None, :]
                at = (first + 2 * target + 1).to(tl.int64)
                joins = tl.where(partner[None, :] == target[:, None], weight[None, :], 0.0)
                own = tl.load(degrees + at, mask=present, other=1.0)
                other = tl.load(x + at[:, None] * x_l + column[None, :], mask=both, other=0.0).to(tl.float32)
                total = own + tl.sum(joins, axis=1)
                sums = tl.dot(joins.to(mine.dtype), mine, other * own[:, None], input_precision="ieee")
                to = tl.load(steps + at, mask=present, other=0).to(tl.int64)
                tl.store(out + to[:, None] * D + column[None, :], (sums / total[:, None]).to(mine.dtype), mask=both)
                tl.store(out_degrees + to, total, mask=present)


@triton.jit(do_not_specialize=VARYING)
def _follow_kernel(steps, places, length, passes, step, TOKENS: tl.constexpr):
    """Where each token is after the last pass. steps [passes, rows, length], `step` numbers apart."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = token < length
    at = token
    steps += row * length
    for _ in range(passes):
        at = tl.load(steps + at, mask=inside, other=0)
        steps += step
    tl.store(places + row * length + token, at, mask=inside)


def cluster(keys: torch.Tensor, degrees: torch.Tensor, plan: list[int], typical: float = 1.0) -> torch.Tensor:
    """As the reference; centroids are rounded to the type of the keys between passes, as there."""
    batch, heads, length, width = keys.shape
    rows, passes = batch * heads, len(plan) // 3
    degrees = degrees.reshape(rows, length).contiguous()
    if not plan:
        return torch.arange(length, device=keys.device, dtype=torch.int32).expand(batch, heads, -1).contiguous()
    options = {"D": width, "WIDTH": _padded(width)}
    blocks = triton.cdiv(length, 4 * TOKENS)
    partial = keys.new_empty(rows, blocks, width, dtype=torch.float32)
    _centre_kernel[(rows, blocks)](
        keys, degrees, partial, length, heads, *keys.stride()[:3], TOKENS=TOKENS, STEPS=4, **options
    )
    centre = partial.sum(1) / degrees.sum(-1, keepdim=True)
    steps = keys.new_empty(passes, rows, length, dtype=torch.int32)
    x, strides = keys, (*keys.stride()[:3],)
    held = length
    for number in range(passes):
        chunks, size, merges = plan[3 * number : 3 * number + 3]
        kept, writes = held - merges, number < passes - 1
        out = keys.new_empty(rows, kept if writes else 0, width)
        out_degrees = degrees.new_empty(rows, kept if writes else 0)
        half = _padded(size // 2)
        _pass_kernel[(rows, chunks + 1)](
            x, degrees, centre, out, out_degrees, steps[number], held, size, chunks, merges, length, heads, typical,
            *strides, HALF=half, TILE=min(TILE, half), WRITES=writes, num_warps=max(4, half // 32), **options,
        )  # fmt: skip
        x, degrees, held = out, out_degrees, kept
        strides = (heads * held * width, held * width, width)
    places = keys.new_empty(batch, heads, length, dtype=torch.int32)
    _follow_kernel[(rows, triton.cdiv(length, 512))](steps, places, length, passes, steps.stride(0), TOKENS=512)
    return places


def _padded(size: int) -> int:
    """A size that tl.arange and tl.dot take."""
    return max(16, triton.next_power_of_2(size))
