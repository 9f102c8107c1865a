"""Clustering in Triton, for CUDA and, through triton-ascend, for Ascend.

Keys stay where they are: a list says which rows are still alive, sources that merge are added to their targets' rows,
and every row knows whom it joined. A pass is two launches: match, and join. Nothing is sorted; ranks are counted.
Indices are clamped before masked loads, because triton-ascend's lowering loads first and selects after.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from npukv.ops.clustering.reference import turned_back

#: Sources, and targets at a time, of a match program; sources of a join program; tokens of the other kernels.
MATCH, JOIN, TOKENS = 64, 32, 32
#: Numbers that differ from pass to pass: a kernel is not compiled anew for each.
VARYING = ("length", "size", "chunks", "merges", "held", "kept", "passes")


@triton.jit(do_not_specialize=VARYING)
def _start_kernel(
    keys, degrees, sums, partial, parent, alive, length, heads, key_b, key_h, key_l,
    D: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """A block of tokens: keys times degrees in float32, and the sum of the normalised ones."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    token = block * TOKENS + tl.arange(0, TOKENS)
    inside = token < length
    safe = tl.minimum(token, length - 1)
    column = tl.arange(0, WIDTH)
    real = column < D
    at = keys + (row // heads) * key_b + (row % heads) * key_h
    loaded = inside[:, None] & real[None, :]
    x = tl.load(at + safe.to(tl.int64)[:, None] * key_l + tl.minimum(column, D - 1)[None, :], mask=loaded, other=0.0)
    x = x.to(tl.float32)
    degree = tl.load(degrees + row * length + safe, mask=inside, other=0.0)
    place = (row * length + safe)[:, None] * D + tl.minimum(column, D - 1)[None, :]
    tl.store(sums + place, x * degree[:, None], mask=loaded)
    size = tl.sqrt(tl.sum(x * x, axis=1))
    unit = x * (degree / tl.maximum(size, 1e-12))[:, None]
    out = (row * tl.num_programs(1) + block) * D + tl.minimum(column, D - 1)
    tl.store(partial + out, tl.sum(unit, axis=0), mask=real)
    tl.store(parent + row * length + safe, safe, mask=inside)
    tl.store(alive + row * length + safe, safe, mask=inside)


@triton.jit
def _unit_rows(sums, base, index, inside, column, real, D: tl.constexpr):
    """Rows of the sums, normalised; those outside are zero."""
    at = sums + (base + index)[:, None] * D + tl.minimum(column, D - 1)[None, :]
    x = tl.load(at, mask=inside[:, None] & real[None, :], other=0.0)
    return x / tl.maximum(tl.sqrt(tl.sum(x * x, axis=1)), 1e-12)[:, None]


@triton.jit(do_not_specialize=VARYING)
def _match_kernel(
    sums, alive, centre, scores, partners, length, size, typical,
    D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The best target of each of a block of a chunk's sources."""
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    half = size // 2
    source = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    there = source < half
    column = tl.arange(0, WIDTH)
    real = column < D
    middle = tl.load(centre + row * D + tl.minimum(column, D - 1), mask=real, other=0.0)
    first = row * length + chunk * size
    index = tl.load(alive + first + 2 * tl.minimum(source, half - 1))
    x = _unit_rows(sums, row * length, index, there, column, real, D)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    partner = tl.zeros([BLOCK], tl.int32)
    for start in range(0, half, BLOCK):
        target = start + tl.arange(0, BLOCK)
        present = target < half
        other = tl.load(alive + first + 2 * tl.minimum(target, half - 1) + 1)
        y = _unit_rows(sums, row * length, other, present, column, real, D)
        near = tl.sum(y * middle[None, :], axis=1) * typical
        likeness = tl.dot(x, tl.trans(y), input_precision=PRECISION) + near[None, :]
        likeness = tl.where(present[None, :], likeness, float("-inf"))
        most = tl.max(likeness, axis=1)
        found = tl.min(tl.where(likeness == most[:, None], target[None, :], half), axis=1)
        better = most > best
        best = tl.where(better, most, best)
        partner = tl.where(better, found, partner)
    best += tl.sum(x * middle[None, :], axis=1) * typical
    out = (row * tl.num_programs(1) + chunk) * half + tl.minimum(source, half - 1)
    tl.store(scores + out, best, mask=there)
    tl.store(partners + out, tl.minimum(partner, half - 1), mask=there)


@triton.jit(do_not_specialize=VARYING)
def _join_kernel(
    sums, alive, following, parent, ranks, scores, partners, length, size, chunks, merges, held,
    D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """A block of a chunk's sources, and the targets behind them: who leaves, whom it joins, where the others go.

    Programs beyond the last chunk move up what is behind it.
    """
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    if chunk == chunks:
        step = tl.num_programs(2) * BLOCK
        for start in range(chunks * size + tl.program_id(2) * BLOCK, held, step):
            at = start + tl.arange(0, BLOCK)
            moved = tl.load(alive + row * length + tl.minimum(at, held - 1))
            tl.store(following + row * length + tl.minimum(at, held - 1) - merges, moved, mask=at < held)
            tl.store(ranks + row * length + moved, tl.minimum(at, held - 1) - merges, mask=at < held)
    else:
        half = size // 2
        before = merges * chunk // chunks
        count = merges * (chunk + 1) // chunks - before
        mine = scores + (row * chunks + chunk) * half
        everyone = tl.arange(0, HALF)
        score = tl.load(mine + tl.minimum(everyone, half - 1), mask=everyone < half, other=float("-inf"))
        rank = tl.zeros([HALF], tl.int32)
        for start in range(0, half, BLOCK):
            other = start + tl.arange(0, BLOCK)
            rival = tl.load(mine + tl.minimum(other, half - 1), mask=other < half, other=float("-inf"))
            ahead = rival[None, :] > score[:, None]
            ahead = ahead | ((rival[None, :] == score[:, None]) & (other[None, :] < everyone[:, None]))
            rank += tl.sum((ahead & (other < half)[None, :]).to(tl.int32), axis=1)
        goes = ((rank < count) & (everyone < half)).to(tl.int32)

        source = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
        there = source < half
        safe = tl.minimum(source, half - 1)
        own = everyone[None, :] == safe[:, None]
        leaves = tl.sum(tl.where(own, goes[None, :], 0), axis=1)
        gone = tl.sum(tl.where(everyone[None, :] < safe[:, None], goes[None, :], 0), axis=1)
        first = row * length + chunk * size
        index = tl.load(alive + first + 2 * safe)
        target = tl.load(alive + first + 2 * safe + 1)
        place = chunk * size - before + 2 * safe - gone
        stays = there & (leaves == 0)
        tl.store(following + row * length + place, index, mask=stays)
        tl.store(ranks + row * length + index, place, mask=stays)
        place = place + 1 - leaves
        tl.store(following + row * length + place, target, mask=there)
        tl.store(ranks + row * length + target, place, mask=there)

        joins = there & (leaves == 1)
        partner = tl.load(partners + (row * chunks + chunk) * half + safe)
        joined = tl.load(alive + first + 2 * partner + 1)
        tl.store(parent + row * length + index, joined, mask=joins)
        column = tl.arange(0, WIDTH)
        real = column < D
        dim = tl.minimum(column, D - 1)[None, :]
        moves = joins[:, None] & real[None, :]
        x = tl.load(sums + (row * length + index)[:, None] * D + dim, mask=moves, other=0.0)
        tl.atomic_add(sums + (row * length + joined)[:, None] * D + dim, x, mask=moves)


@triton.jit(do_not_specialize=VARYING)
def _place_kernel(parent, ranks, places, length, passes, TOKENS: tl.constexpr):
    """Follow each token to whom it joined, and whom that one joined, at most once per pass."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    safe = tl.minimum(token, length - 1)
    at = safe
    for _ in range(passes):
        at = tl.load(parent + row * length + at)
    tl.store(places + row * length + safe, tl.load(ranks + row * length + at), mask=token < length)


@triton.jit(do_not_specialize=VARYING)
def _add_kernel(
    x, degrees, places, sums, totals, length, kept, heads, x_b, x_h, x_l,
    D: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Add a block of tokens, times their degrees, to the centroids they belong to."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = token < length
    safe = tl.minimum(token, length - 1)
    column = tl.arange(0, WIDTH)
    real = column < D
    dim = tl.minimum(column, D - 1)[None, :]
    loaded = inside[:, None] & real[None, :]
    at = x + (row // heads) * x_b + (row % heads) * x_h
    rows = tl.load(at + safe.to(tl.int64)[:, None] * x_l + dim, mask=loaded, other=0.0).to(tl.float32)
    degree = tl.load(degrees + row * length + safe, mask=inside, other=0.0)
    place = tl.load(places + row * length + safe)
    tl.atomic_add(sums + (row * kept + place)[:, None] * D + dim, rows * degree[:, None], mask=loaded)
    tl.atomic_add(totals + row * kept + place, degree, mask=inside)


def cluster(
    keys: torch.Tensor,
    degrees: torch.Tensor,
    plan: list[int],
    typical: float = 1.0,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    coarse: str = "tf32",
) -> torch.Tensor:
    """As the reference; centroids stay in float32 between passes.

    Args:
        coarse: what Triton calls the device's products of shortened float32, good enough for 16-bit keys; Ascend's are
            "hf32".
    """
    if cos is not None and sin is not None:
        keys = turned_back(keys, cos, sin)
    batch, heads, length, width = keys.shape
    rows = batch * heads
    degrees = degrees.contiguous()
    options = {"D": width, "WIDTH": _padded(width)}
    sums = keys.new_empty(rows, length, width, dtype=torch.float32)
    parent, alive, following, ranks, places = keys.new_empty(5, rows, length, dtype=torch.int32)
    blocks = triton.cdiv(length, TOKENS)
    partial = keys.new_empty(rows, blocks, width, dtype=torch.float32)
    _start_kernel[(rows, blocks)](
        keys, degrees, sums, partial, parent, alive, length, heads, *keys.stride()[:3], TOKENS=TOKENS, **options
    )
    centre = partial.sum(1) / degrees.view(rows, length).sum(-1, keepdim=True)
    if not plan:
        return alive.view(batch, heads, length)
    scores = keys.new_empty(rows, length, dtype=torch.float32)
    partners = keys.new_empty(rows, length, dtype=torch.int32)
    precision = coarse if keys.element_size() < 4 else "ieee"
    held = length
    for at in range(0, len(plan), 3):
        chunks, size, merges = plan[at : at + 3]
        _match_kernel[(rows, chunks, triton.cdiv(size // 2, MATCH))](
            sums, alive, centre, scores, partners, length, size, typical, BLOCK=MATCH, PRECISION=precision, **options
        )
        _join_kernel[(rows, chunks + 1, triton.cdiv(size // 2, JOIN))](
            sums, alive, following, parent, ranks, scores, partners, length, size, chunks, merges, held,
            BLOCK=JOIN, HALF=_padded(size // 2), **options,
        )  # fmt: skip
        alive, following = following, alive
        held -= merges
    _place_kernel[(rows, triton.cdiv(length, 256))](parent, ranks, places, length, len(plan) // 3, TOKENS=256)
    return places.view(batch, heads, length)


def merge_centroids(x: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int) -> torch.Tensor:
    """As the reference; the order in which float32 numbers are added may differ from call to call."""
    batch, heads, length, width = x.shape
    sums = x.new_zeros(batch, heads, kept, width, dtype=torch.float32)
    totals = x.new_zeros(batch, heads, kept, 1, dtype=torch.float32)
    _add_kernel[(batch * heads, triton.cdiv(length, TOKENS))](
        x, degrees.contiguous(), places.contiguous(), sums, totals, length, kept, heads, *x.stride()[:3],
        D=width, WIDTH=_padded(width), TOKENS=TOKENS,
    )  # fmt: skip
    return torch.div(sums, totals, out=x.new_empty(sums.shape))  # no float32 copy between


def _padded(size: int) -> int:
    """A size that tl.arange and tl.dot take."""
    return max(16, triton.next_power_of_2(size))
