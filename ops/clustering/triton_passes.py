"""Clustering of 16-bit keys on tensor cores, for CUDA: the reference's passes, with a kernel for each of their steps.

Likenesses are products of the keys as they are, exact, summed in float32 and divided by the lengths after; nothing is
rounded that the reference does not round. Not for Ascend: these kernels have been lowered for CUDA only; triton.py's
are the ones that lower there, and take float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from npukv.ops.clustering.triton_merge import merged

#: Sources of a program that matches, and targets at a time; tokens at a time of the programs that sum unit keys.
SOURCES, TARGETS, TOKENS = 128, 64, 32
#: Numbers that differ from pass to pass: a kernel is not compiled anew for each.
VARYING = ("length", "held", "size", "chunks", "merges")


@triton.jit(do_not_specialize=VARYING)
def _centre_kernel(
    keys, degrees, partial, length, heads, key_b, key_h, key_l,
    D: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """The sum of STEPS blocks of tokens' normalised keys, times their degrees."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    real = column < D
    at = keys + (row // heads) * key_b + (row % heads) * key_h + column[None, :]
    total = tl.zeros([TOKENS, WIDTH], tl.float32)
    for step in range(STEPS):
        token = (tl.program_id(1) * STEPS + step) * TOKENS + tl.arange(0, TOKENS)
        inside = token < length
        x = tl.load(at + token.to(tl.int64)[:, None] * key_l, mask=inside[:, None] & real[None, :], other=0.0)
        x = x.to(tl.float32)
        degree = tl.load(degrees + row * length + token, mask=inside, other=0.0)
        total += x * (degree / tl.maximum(tl.sqrt(tl.sum(x * x, axis=1)), 1e-12))[:, None]
    out = partial + (row * tl.num_programs(1) + tl.program_id(1)) * D + column
    tl.store(out, tl.sum(total, axis=0), mask=real)


@triton.jit(do_not_specialize=VARYING)
def _match_kernel(
    x, centre, scores, partners, size, heads, typical, x_b, x_h, x_l,
    D: tl.constexpr, WIDTH: tl.constexpr, SOURCES: tl.constexpr, TARGETS: tl.constexpr,
):  # fmt: skip
    """The best target of each of a block of a chunk's sources, and its score: [rows, chunks, size / 2]."""
    row = tl.program_id(1).to(tl.int64)
    chunk = tl.program_id(2)
    half = size // 2
    column = tl.arange(0, WIDTH)
    real = column < D
    middle = tl.load(centre + row * D + column, mask=real, other=0.0)
    first = chunk.to(tl.int64) * size
    x += (row // heads) * x_b + (row % heads) * x_h + first * x_l + column[None, :]
    source = tl.program_id(0) * SOURCES + tl.arange(0, SOURCES)
    there = source < half
    mine = tl.load(x + (2 * source).to(tl.int64)[:, None] * x_l, mask=there[:, None] & real[None, :], other=0.0)
    wide = mine.to(tl.float32)
    scale = 1 / tl.maximum(tl.sqrt(tl.sum(wide * wide, axis=1)), 1e-12)
    close = tl.sum(wide * middle[None, :], axis=1) * scale * typical
    best = tl.full([SOURCES], float("-inf"), tl.float32)
    partner = tl.zeros([SOURCES], tl.int32)
    for start in range(0, half, TARGETS):
        target = start + tl.arange(0, TARGETS)
        present = target < half
        at = (2 * target + 1).to(tl.int64)
        other = tl.load(x + at[:, None] * x_l, mask=present[:, None] & real[None, :], other=0.0)
        broad = other.to(tl.float32)
        shrink = 1 / tl.maximum(tl.sqrt(tl.sum(broad * broad, axis=1)), 1e-12)
        near = tl.sum(broad * middle[None, :], axis=1) * shrink * typical
        near = tl.where(present, near, float("-inf"))
        likeness = tl.dot(mine, tl.trans(other), input_precision="ieee")
        likeness = likeness * scale[:, None] * shrink[None, :] + near[None, :]
        most = tl.max(likeness, axis=1)
        found = tl.min(tl.where(likeness == most[:, None], target[None, :], half), axis=1)
        better = most > best
        best = tl.where(better, most, best)
        partner = tl.where(better, found, partner)
    out = (row * tl.num_programs(2) + chunk) * half + source
    tl.store(scores + out, best + close, mask=there)
    tl.store(partners + out, tl.minimum(partner, half - 1), mask=there)


@triton.jit(do_not_specialize=VARYING)
def _rank_kernel(
    scores, partners, places, length, size, chunks, merges, HALF: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """A chunk's places [rows, length], from its sources' scores; the program behind the last does what is behind it."""
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    places += row * length
    source = tl.arange(0, HALF)
    if chunk == chunks:
        for start in range(chunks * size, length, HALF):
            at = start + source
            tl.store(places + at, at - merges, mask=at < length)
    else:
        half = size // 2
        before = (merges.to(tl.int64) * chunk // chunks).to(tl.int32)
        count = (merges.to(tl.int64) * (chunk + 1) // chunks).to(tl.int32) - before
        there = source < half
        mine = (row * chunks + chunk) * half
        score = tl.load(scores + mine + source, mask=there, other=float("-inf"))
        partner = tl.load(partners + mine + source, mask=there, other=0)
        rank = tl.zeros([HALF], tl.int32)  # how many are ahead
        for start in range(0, half, BLOCK):
            rival = start + tl.arange(0, BLOCK)
            other = tl.load(scores + mine + rival, mask=rival < half, other=float("-inf"))
            ahead = other[None, :] > score[:, None]
            ahead = ahead | ((other[None, :] == score[:, None]) & (rival[None, :] < source[:, None]))
            rank += tl.sum(ahead.to(tl.int32), axis=1)
        leaves = (rank < count) & there
        gone = tl.cumsum(leaves.to(tl.int32), axis=0)
        first = chunk * size
        place = first - before + 2 * source - gone
        tl.store(places + first + 2 * source + 1, place + 1, mask=there)
        tl.debug_barrier()  # a partner's place, just stored, may be another thread's
        joined = tl.load(places + first + 2 * partner + 1, mask=leaves, other=0)
        tl.store(places + first + 2 * source, tl.where(leaves, joined, place), mask=there)


@triton.jit(do_not_specialize=VARYING)
def _follow_kernel(step, places, length, held, TOKENS: tl.constexpr):
    """places [rows, length] among `held` keys, into those after their next pass. step: [rows, held]. In place."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = token < length
    at = tl.load(places + row * length + token, mask=inside, other=0)
    tl.store(places + row * length + token, tl.load(step + row * held + at, mask=inside, other=0), mask=inside)


def soft_match(
    keys: torch.Tensor, centre: torch.Tensor, chunks: int, chunk: int, merges: int, typical: float = 1.0
) -> torch.Tensor:
    """As the reference."""
    batch, heads, length, width = keys.shape
    rows, half = batch * heads, chunk // 2
    scores = centre.new_empty(rows, chunks, half)
    partners, places = (keys.new_empty(shape, dtype=torch.int32) for shape in (scores.shape, keys.shape[:3]))
    _match_kernel[(triton.cdiv(half, SOURCES), rows, chunks)](
        keys, centre, scores, partners, chunk, heads, typical, *keys.stride()[:3],
        D=width, WIDTH=_padded(width), SOURCES=SOURCES, TARGETS=TARGETS,
    )  # fmt: skip
    _rank_kernel[(rows, chunks + 1)](
        scores, partners, places, length, chunk, chunks, merges, HALF=_padded(half), BLOCK=32
    )
    return places


def cluster(keys: torch.Tensor, degrees: torch.Tensor, plan: list[int], typical: float = 1.0) -> torch.Tensor:
    """As the reference."""
    batch, heads, length, width = keys.shape
    rows = batch * heads
    degrees = degrees.contiguous()
    blocks = triton.cdiv(length, 8 * TOKENS)
    partial = degrees.new_empty(rows, blocks, width)
    _centre_kernel[(rows, blocks)](
        keys, degrees, partial, length, heads, *keys.stride()[:3], D=width, WIDTH=_padded(width), TOKENS=TOKENS, STEPS=8
    )
    centre = partial.sum(1) / degrees.view(rows, length).sum(-1, keepdim=True)
    if not plan:
        return torch.arange(length, device=keys.device, dtype=torch.int32).repeat(batch, heads, 1)
    places = step = soft_match(keys, centre, *plan[:3], typical)
    merges = plan[2]
    for at in range(3, len(plan), 3):
        kept = keys.shape[2] - merges
        (keys,), degrees = merged((keys,), degrees, step, kept)
        step = soft_match(keys, centre, *plan[at : at + 3], typical)
        _follow_kernel[(rows, triton.cdiv(length, 512))](step, places, length, kept, TOKENS=512)
        merges = plan[at + 2]
    return places


def _padded(size: int) -> int:
    """A size that tl.arange and tl.dot take."""
    return max(16, triton.next_power_of_2(size))
