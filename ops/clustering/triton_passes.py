"""Clustering by products of 16-bit keys, as tensor cores have them: match, rank and join, one launch each per pass.

Likenesses are products of the keys as they are, exact, summed in float32 and divided by the lengths after. Rows stay
where they are, in a copy; a list says which are alive, and only centroids that gained a member are written again.
Where programs have no barriers, as on Ascend, ranking takes three launches.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from npukv.ops.clustering.triton_merge import members, precision

#: Sources of a program that matches, and targets at a time; tokens at a time of the others; warps that match.
SOURCES, TARGETS, TOKENS, WARPS = 128, 64, 32, 8
#: Numbers that differ from pass to pass: a kernel is not compiled anew for each.
VARYING = ("length", "heads", "held", "size", "chunks", "merges", "passes", "each")


@triton.jit(do_not_specialize=VARYING)
def _start_kernel(
    keys, degrees, cos, sin, x, weights, alive, partial, length, heads, key_b, key_h, key_l, turn_row,
    D: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, STEPS: tl.constexpr, TURNED: tl.constexpr,
):  # fmt: skip
    """STEPS blocks of tokens: their keys as they were before RoPE, degrees, and the sum of the normalised keys.

    WIDTH holds D / 2 columns: the halves are turned against each other.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    real = column < D // 2
    keys += (row // heads) * key_b + (row % heads) * key_h
    total = tl.zeros([TOKENS, WIDTH], tl.float32)
    others = tl.zeros([TOKENS, WIDTH], tl.float32)
    for step in range(STEPS):
        token = (tl.program_id(1) * STEPS + step) * TOKENS + tl.arange(0, TOKENS)
        inside = token < length
        both = inside[:, None] & real[None, :]
        at = keys + token.to(tl.int64)[:, None] * key_l + column[None, :]
        one = tl.load(at, mask=both, other=0.0)
        two = tl.load(at + D // 2, mask=both, other=0.0)
        if TURNED:
            place = row * turn_row + token[:, None] * (D // 2) + column[None, :]
            c = tl.load(cos + place, mask=both, other=0.0).to(tl.float32)
            s = tl.load(sin + place, mask=both, other=0.0).to(tl.float32)
            first, second = one.to(tl.float32), two.to(tl.float32)
            one = (first * c + second * s).to(x.dtype.element_ty)
            two = (second * c - first * s).to(x.dtype.element_ty)
        to = x + (row * length + token)[:, None] * D + column[None, :]
        tl.store(to, one, mask=both)
        tl.store(to + D // 2, two, mask=both)
        degree = tl.load(degrees + row * length + token, mask=inside, other=0.0)
        tl.store(weights + row * length + token, degree, mask=inside)
        tl.store(alive + row * length + token, token, mask=inside)
        first, second = one.to(tl.float32), two.to(tl.float32)
        size = tl.sqrt(tl.sum(first * first + second * second, axis=1))
        share = (degree / tl.maximum(size, 1e-12))[:, None]
        total += first * share
        others += second * share
    out = partial + (row * tl.num_programs(1) + tl.program_id(1)) * D + column
    tl.store(out, tl.sum(total, axis=0), mask=real)
    tl.store(out + D // 2, tl.sum(others, axis=0), mask=real)


@triton.jit(do_not_specialize=VARYING)
def _match_kernel(
    x, alive, centre, scores, partners, length, size, typical,
    D: tl.constexpr, WIDTH: tl.constexpr, SOURCES: tl.constexpr, TARGETS: tl.constexpr,
):  # fmt: skip
    """The best target of each of a block of a chunk's sources, and its score: [rows, chunks, size / 2].

    x [rows, length, D], alive [rows, length]: the rows of x that take part.
    """
    row = tl.program_id(1).to(tl.int64)
    chunk = tl.program_id(2)
    half = size // 2
    column = tl.arange(0, WIDTH)
    real = column < D
    middle = tl.load(centre + row * D + column, mask=real, other=0.0)
    alive += row * length + chunk * size
    x += row * length * D + (tl.minimum(column, D - 1) if D != WIDTH else column)[None, :]
    source = tl.program_id(0) * SOURCES + tl.arange(0, SOURCES)
    there = source < half
    index = tl.load(alive + 2 * source, mask=there, other=0)
    mine = tl.load(x + index.to(tl.int64)[:, None] * D, mask=there[:, None] & real[None, :], other=0.0)
    wide = mine.to(tl.float32)
    scale = 1 / tl.maximum(tl.sqrt(tl.sum(wide * wide, axis=1)), 1e-12)
    close = tl.sum(wide * middle[None, :], axis=1) * scale * typical
    best = tl.full([SOURCES], float("-inf"), tl.float32)
    partner = tl.zeros([SOURCES], tl.int32)
    for start in range(0, half, TARGETS):
        target = start + tl.arange(0, TARGETS)
        present = target < half
        at = tl.load(alive + 2 * target + 1, mask=present, other=0)
        other = tl.load(x + at.to(tl.int64)[:, None] * D, mask=present[:, None] & real[None, :], other=0.0)
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
    scores, partners, turns, alive, step, counts, ends, order, ordered, length, held, size, chunks, merges,
    HALF: tl.constexpr, BLOCK: tl.constexpr, STAGE: tl.constexpr,
):  # fmt: skip
    """A chunk's places, from its sources' scores, and the list of who is at which place, a target before its sources.

    All [rows, length]. step: the place of each of the `held` alive keys; order, ordered: rows of x and their places,
    sorted by place; ends: where each place's part of the list ends; counts: zeros, that become the sources of a place.
    The program behind the last chunk does what is behind it.

    STAGE: 0 = everything, with barriers before what other threads stored is read; where programs have no barrier, a
    launch each for 1, 2 and 3. turns: scratch between them, -1 for a source that stays.
    """
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    alive += row * length
    step += row * length
    counts += row * length
    ends += row * length
    order += row * length
    ordered += row * length
    source = tl.arange(0, HALF)
    if chunk == chunks:
        for start in range(chunks * size, held, HALF):
            at = start + source
            tl.store(step + at, at - merges, mask=at < held)
            tl.store(ordered + at, at - merges, mask=at < held)
            tl.store(ends + at - merges, at + 1, mask=at < held)
            tl.store(order + at, tl.load(alive + at, mask=at < held, other=0), mask=at < held)
    else:
        half = size // 2
        before = (merges.to(tl.int64) * chunk // chunks).to(tl.int32)
        count = (merges.to(tl.int64) * (chunk + 1) // chunks).to(tl.int32) - before
        there = source < half
        safe = tl.minimum(source, half - 1)
        first = chunk * size
        mine = (row * chunks + chunk) * half
        partner = tl.load(partners + mine + source, mask=there, other=0)
        if STAGE <= 1:
            score = tl.load(scores + mine + source, mask=there, other=float("-inf"))
            rank = tl.zeros([HALF], tl.int32)  # how many are ahead
            for start in range(0, half, BLOCK):
                rival = start + tl.arange(0, BLOCK)
                other = tl.load(scores + mine + rival, mask=rival < half, other=float("-inf"))
                ahead = other[None, :] > score[:, None]
                ahead = ahead | ((other[None, :] == score[:, None]) & (rival[None, :] < source[:, None]))
                rank += tl.sum(ahead.to(tl.int32), axis=1)
            leaves = (rank < count) & there
            # Those that stay add 0: triton-ascend drops the mask where the old value is asked for.
            turn = tl.atomic_add(counts + first + partner, leaves.to(tl.int32), mask=leaves)
            if STAGE == 1:
                tl.store(turns + mine + source, tl.where(leaves, turn, -1), mask=there)
        else:
            turn = tl.load(turns + mine + source, mask=there, other=-1)
            leaves = turn >= 0
        gone = tl.cumsum(leaves.to(tl.int32), axis=0)
        place = first - before + 2 * safe - gone  # of the source if it stays; its neighbour's is the next
        if STAGE <= 1:
            tl.store(step + first + 2 * safe + 1, place + 1, mask=there)
        if STAGE == 0:
            tl.debug_barrier()  # what is read below, another thread may have stored
        if STAGE != 1:
            gains = tl.load(counts + first + source, mask=there, other=0, cache_modifier=".cg")
            at = first + 2 * safe + 1 - gone + tl.cumsum(gains, axis=0) - gains  # the target's slot
            stays = there & (leaves == 0)
            if STAGE != 3:
                tl.store(ends + place + 1, at + 1 + gains, mask=there)
                tl.store(ordered + at, place + 1, mask=there)
                tl.store(order + at, tl.load(alive + first + 2 * safe + 1, mask=there, other=0), mask=there)
                tl.store(ends + place, at, mask=stays)
            if STAGE == 0:
                tl.debug_barrier()
            if STAGE != 2:
                joined = tl.load(step + first + 2 * partner + 1, mask=leaves, other=0)
                index = tl.load(alive + first + 2 * safe, mask=there, other=0)
                behind = tl.load(ends + joined, mask=leaves, other=1)
                total = tl.load(counts + first + partner, mask=leaves, other=0, cache_modifier=".cg")
                slot = tl.where(leaves, behind - total + turn, at - 1)
                place = tl.where(leaves, joined, place)
                tl.store(ordered + slot, place, mask=there)
                tl.store(order + slot, index, mask=there)
                tl.store(step + first + 2 * safe, place, mask=there)


@triton.jit(do_not_specialize=VARYING)
def _join_kernel(
    x, weights, alive, order, ordered, ends, length, held,
    D: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, PRECISION: tl.constexpr, BARRIER: tl.constexpr,
):  # fmt: skip
    """The places that begin in a block of the list: the target's row becomes the mean of its members, in place.

    alive: written, the rows of the next pass. A row is read and written by its place's program only, and what is
    written depends on all that is read; so the barrier is for programs of several threads alone.
    """
    row = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * TOKENS
    slot = begin + tl.arange(0, TOKENS)
    inside = slot < held
    safe = tl.minimum(slot, held - 1)
    x += row * length * D
    weights += row * length
    alive += row * length
    order += row * length
    ordered += row * length
    place = tl.load(ordered + safe, mask=inside, other=-2)
    begins = inside & (place != tl.load(ordered + tl.maximum(safe - 1, 0), mask=inside & (slot > 0), other=-1))
    last = tl.max(tl.where(begins, place, -1), axis=0)
    first = tl.min(tl.where(begins, place, held), axis=0)
    token = tl.load(order + safe, mask=inside, other=0)
    tl.store(alive + tl.maximum(place, 0), token, mask=begins)
    follows = inside & (tl.load(ordered + tl.minimum(slot + 1, held - 1), mask=slot + 1 < held, other=-1) == place)
    several = inside & (place >= first) & (follows | (begins == 0))
    degree = tl.load(weights + token, mask=several, other=0.0)
    here = first + tl.arange(0, TOKENS)
    belongs = several[None, :] & (place[None, :] == here[:, None])
    head = tl.sum(tl.where(belongs & begins[None, :], token[None, :] + 1, 0), axis=1) - 1
    column = tl.arange(0, WIDTH)
    real = column < D
    dim = (tl.minimum(column, D - 1) if D != WIDTH else column)[None, :]
    rows = tl.load(x + token.to(tl.int64)[:, None] * D + dim, mask=several[:, None] & real[None, :], other=0.0)
    total = tl.sum(tl.where(belongs, degree[None, :], 0.0), axis=1)
    sums = tl.dot(belongs.to(tl.float32), rows.to(tl.float32) * degree[:, None], input_precision=PRECISION)
    begin += TOKENS
    end = tl.where(last >= 0, tl.load(ends + row * length + tl.maximum(last, 0)), begin)
    rest, more = members(x, weights, order, begin, end, D, D, WIDTH, TOKENS)
    sums += tl.where((here == last)[:, None], rest[None, :], 0.0)
    total += tl.where(here == last, more, 0.0)
    if BARRIER:
        tl.debug_barrier()  # everything is read before anything is written
    written = head >= 0
    head = tl.maximum(head, 0)
    mean = sums / tl.where(written, total, 1.0)[:, None]
    to = x + head.to(tl.int64)[:, None] * D + dim
    tl.store(to, mean.to(x.dtype.element_ty), mask=written[:, None] & real[None, :])
    tl.store(weights + head, total, mask=written)


@triton.jit(do_not_specialize=VARYING)
def _follow_kernel(steps, places, length, passes, each, TOKENS: tl.constexpr):
    """Where each token is after the last pass. steps [passes, rows, length], `each` numbers a pass."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = token < length
    at = tl.minimum(token, length - 1)
    steps += row * length
    for _ in range(passes):
        at = tl.load(steps + at, mask=inside, other=0)
        steps += each
    tl.store(places + row * length + token, at, mask=inside)


def cluster(
    keys: torch.Tensor,
    degrees: torch.Tensor,
    plan: list[int],
    typical: float = 1.0,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    together: bool = True,
) -> torch.Tensor:
    """As the reference, but for the order in which numbers are added and, with cos and sin, one rounding less.

    Args:
        together: a pass's ranking in one launch, with barriers, which triton-ascend passes on as a GPU's.
    """
    batch, heads, length, width = keys.shape
    rows, passes = batch * heads, len(plan) // 3
    if not plan:
        return torch.arange(length, device=keys.device, dtype=torch.int32).repeat(batch, heads, 1)
    degrees = degrees.contiguous()
    x, weights = keys.new_empty(rows, length, width), degrees.new_empty(rows, length)
    alive, ends, order, ordered = keys.new_empty(4, rows, length, dtype=torch.int32)
    steps, counts = keys.new_empty(passes, rows, length, dtype=torch.int32), alive.new_zeros(passes, rows, length)
    blocks = triton.cdiv(length, 8 * TOKENS)
    partial = degrees.new_empty(rows, blocks, width)
    turn_row = length * width // 2 if cos is not None and cos.ndim == 4 else 0
    _start_kernel[(rows, blocks)](
        keys, degrees, keys if cos is None else cos.contiguous(), keys if sin is None else sin.contiguous(), x, weights,
        alive, partial, length, heads, *keys.stride()[:3], turn_row,
        D=width, WIDTH=_padded(width // 2), TOKENS=TOKENS, STEPS=8, TURNED=cos is not None,
    )  # fmt: skip
    centre = partial.sum(1) / degrees.view(rows, length).sum(-1, keepdim=True)
    scores = degrees.new_empty(rows, length)
    partners, turns = keys.new_empty(2, rows, length, dtype=torch.int32)
    options = {"D": width, "WIDTH": _padded(width)}
    held = length
    for number in range(passes):
        chunks, size, merges = plan[3 * number : 3 * number + 3]
        _match_kernel[(triton.cdiv(size // 2, SOURCES), rows, chunks)](
            x, alive, centre, scores, partners, length, size, typical, SOURCES=SOURCES, TARGETS=TARGETS,
            num_warps=WARPS, **options,
        )  # fmt: skip
        half = _padded(size // 2)
        for stage in (0,) if together else (1, 2, 3):
            _rank_kernel[(rows, chunks + 1)](
                scores, partners, turns, alive, steps[number], counts[number], ends, order, ordered, length, held, size,
                chunks, merges, HALF=half, BLOCK=max(1, min(32, 8192 // half)), STAGE=stage, num_warps=8,
            )  # fmt: skip
        if number < passes - 1:
            _join_kernel[(rows, triton.cdiv(held, TOKENS))](
                x, weights, alive, order, ordered, ends, length, held, TOKENS=TOKENS,
                PRECISION=precision(x, together), BARRIER=together, **options,
            )  # fmt: skip
        held -= merges
    places = keys.new_empty(batch, heads, length, dtype=torch.int32)
    _follow_kernel[(rows, triton.cdiv(length, 512))](steps, places, length, passes, rows * length, TOKENS=512)
    return places


def _padded(size: int) -> int:
    """A size that tl.arange and tl.dot take."""
    return max(16, triton.next_power_of_2(size))
