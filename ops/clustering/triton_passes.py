"""Clustering by products of 16-bit keys, as tensor cores have them: a launch per pass; a program does all of a chunk.

Likenesses are products of the keys as they are, exact, summed in float32 and divided by the lengths after. Rows stay
where they are, in a copy; a list says which are alive, and only centroids that gained a member are written again, as
products of the keys with the matrix of who joins whom. So a pass reads each key once from memory.
Where programs have no barriers, as on Ascend, what follows one is a launch of its own: a pass is four.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from npukv.ops.clustering.triton_rows import columns, padded
from npukv.ops.clustering.triton_start import prepare

#: Of a pass: sources and targets at a time when matched; targets, those who leave and, where these are more, so many of
#: the rest when joined; warps, registers and stages of loads, so that several programs share a multiprocessor.
SOURCES, TARGETS, JOIN, LEAVING, MORE, WARPS, REGISTERS, STAGES = 128, 64, 64, 128, 32, 4, 168, 1
#: Numbers that differ from pass to pass: a kernel is not compiled anew for each.
VARYING = ("length", "held", "size", "chunks", "merges", "passes", "each")


@triton.jit
def _rows(x, index, D: tl.constexpr, WIDTH: tl.constexpr):
    """Rows of x, all of them there: what stands behind D is zero."""
    at = x + index.to(tl.int64)[:, None] * D + columns(D, WIDTH)[None, :]
    return tl.load(at) if D == WIDTH else tl.load(at, mask=(tl.arange(0, WIDTH) < D)[None, :], other=0.0)


@triton.jit
def _chosen(score, there, count, HALF: tl.constexpr):
    """The `count` highest scores; of equal ones the first.

    Nothing is sorted: the lowest score that is chosen is found two bits at a time, from three counts in one number.
    """
    bits = (score + 0.0).to(tl.int32, bitcast=True)  # -0.0 becomes 0.0
    key = tl.where(there, bits ^ ((bits >> 31) & 0x7FFFFFFF), -2147483648)  # integers in the order of the scores
    number: tl.constexpr = tl.int32 if HALF <= 512 else tl.int64
    field: tl.constexpr = 10 if HALF <= 512 else 20
    least = -2147483648
    for step in range(16):
        unit = 1 << (30 - 2 * step)
        found = (key >= least + unit).to(number) + ((key >= least + 2 * unit).to(number) << field)
        found = tl.sum(found + ((key >= least + 3 * unit).to(number) << (2 * field)), axis=0)
        ones = (1 << field) - 1
        enough = ((found & ones) >= count).to(tl.int32) + (((found >> field) & ones) >= count).to(tl.int32)
        least += unit * (enough + ((found >> (2 * field)) >= count).to(tl.int32))
    above = key > least
    left = count - tl.sum(above.to(tl.int32), axis=0)
    level = (key == least).to(tl.int32)
    return (above | ((level == 1) & (tl.cumsum(level, axis=0) <= left))) & there


@triton.jit
def _gained(target, to, degree, rows, sums):
    """`sums` [targets, WIDTH] and the rows times their degrees that go to each target.

    Products of 16 bits: there, degrees beyond 256 (bfloat16; float16: 2048) are rounded as the rows themselves are.
    """
    belongs = to[None, :] == target[:, None]
    if rows.dtype == tl.float32:
        sums = tl.dot(tl.where(belongs, degree[None, :], 0.0), rows, sums, input_precision="ieee")
    elif rows.dtype == tl.float16:  # divided by a power of two, to stay within its range
        unit = tl.exp2(tl.floor(tl.log2(tl.max(degree, axis=0))))
        part = (degree / unit).to(rows.dtype)
        sums += tl.dot(tl.where(belongs, part[None, :], tl.zeros_like(part)[None, :]), rows) * unit
    else:
        part = degree.to(rows.dtype)
        sums = tl.dot(tl.where(belongs, part[None, :], tl.zeros_like(part)[None, :]), rows, sums)
    return sums


@triton.jit
def _leaving(x, order, goes, shares, begin, count, D: tl.constexpr, WIDTH: tl.constexpr, LEAVING: tl.constexpr):
    """A block of the list of a chunk's leaving sources: to whom, degrees, rows."""
    slot = begin + tl.arange(0, LEAVING)
    listed = slot < count
    to = tl.load(goes + slot, mask=listed, other=-1)
    degree = tl.load(shares + slot, mask=listed, other=0.0)
    return to, degree, _rows(x, tl.load(order + slot, mask=listed, other=0), D, WIDTH)


@triton.jit(do_not_specialize=VARYING)
def _pass_kernel(
    x, centre, alive, state, next_alive, next_state, scores, partners, order, step, length, held, size, chunks, merges,
    each, typical, D: tl.constexpr, WIDTH: tl.constexpr, SOURCES: tl.constexpr, TARGETS: tl.constexpr,
    JOIN: tl.constexpr, HALF: tl.constexpr, LEAVING: tl.constexpr, MORE: tl.constexpr, FULL: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, STAGE: tl.constexpr,
):  # fmt: skip
    """One chunk: the best target of each source, who leaves, where everybody goes, and the means of who was joined.

    x [rows, length, D]: a target's row becomes the mean, in place. alive [rows, length]: the rows of x that take part;
    state [3, rows, length], `each` numbers apart: their degrees, inverse lengths and closeness to the centre. next_*:
    those of the next pass. scores, partners, order [rows, length]: room of this chunk's. step: the place of each of the
    `held` alive keys. MORE: those who leave beyond LEAVING, at a time (0 = there are none); FULL: all blocks are whole.
    The program behind the last chunk does what is behind it.

    STAGE: 0 = everything, with barriers before what other threads stored is read; where programs have no barrier, a
    launch each for 1 = match, 2 = choose, 3 = follow to the partners' places, 4 = join. From 2 to 3, step holds -1 -
    the partner of a source that leaves.
    """
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    first = chunk * size
    x += row * length * D
    alive += row * length
    weights = state + row * length
    scale = weights + each
    near = scale + each
    next_alive += row * length
    next_weights = next_state + row * length
    next_scale = next_weights + each
    next_near = next_scale + each
    step += row * length
    behind = chunk == chunks if STAGE <= 1 else False
    if behind:
        for start in range(first, held, 32):
            at = start + tl.arange(0, 32)
            inside = at < held
            tl.store(step + at, at - merges, mask=inside)
            if not LAST:
                key = tl.load(alive + at, mask=inside, other=0)
                tl.store(next_alive + at - merges, key, mask=inside)
                tl.store(next_weights + at - merges, tl.load(weights + at, mask=inside, other=1.0), mask=inside)
                shrink = tl.load(scale + at, mask=inside, other=1.0)
                tl.store(next_scale + at - merges, shrink, mask=inside)
                if FIRST:
                    middle = tl.load(centre + row * D + tl.arange(0, WIDTH), mask=tl.arange(0, WIDTH) < D, other=0.0)
                    wide = _rows(x, key, D, WIDTH).to(tl.float32)
                    by = tl.sum(wide * middle[None, :], axis=1) * shrink * typical
                else:
                    by = tl.load(near + at, mask=inside, other=0.0)
                tl.store(next_near + at - merges, by, mask=inside)
    else:
        half = size // 2
        before = (merges.to(tl.int64) * chunk // chunks).to(tl.int32)
        count = (merges.to(tl.int64) * (chunk + 1) // chunks).to(tl.int32) - before
        middle = tl.load(centre + row * D + tl.arange(0, WIDTH), mask=tl.arange(0, WIDTH) < D, other=0.0)
        alive += first
        weights += first
        scale += first
        near += first
        scores += row * length + first
        partners += row * length + first
        order += row * length + first
        step += first
        if STAGE <= 1:
            for begin in range(0, half, SOURCES):
                source = begin + tl.arange(0, SOURCES)
                safe = 2 * (source if FULL else tl.minimum(source, half - 1))
                mine = _rows(x, first + safe if FIRST else tl.load(alive + safe), D, WIDTH)
                own = tl.load(scale + safe)
                if FIRST:
                    close = tl.sum(mine.to(tl.float32) * middle[None, :], axis=1) * own * typical
                    tl.store(near + safe, close, mask=source < half)
                else:
                    close = tl.load(near + safe)
                best = tl.full([SOURCES], float("-inf"), tl.float32)
                partner = tl.zeros([SOURCES], tl.int32)
                for start in range(0, half, TARGETS):
                    target = start + tl.arange(0, TARGETS)
                    other_at = 2 * (target if FULL else tl.minimum(target, half - 1)) + 1
                    other = _rows(x, first + other_at if FIRST else tl.load(alive + other_at), D, WIDTH)
                    shrink = tl.load(scale + other_at)
                    if FIRST:
                        by = tl.sum(other.to(tl.float32) * middle[None, :], axis=1) * shrink * typical
                        tl.store(near + other_at, by, mask=target < half)
                    else:
                        by = tl.load(near + other_at)
                    by = by if FULL else tl.where(target < half, by, float("-inf"))
                    likeness = tl.dot(mine, tl.trans(other), input_precision="ieee")
                    likeness = likeness * own[:, None] * shrink[None, :] + by[None, :]
                    most = tl.max(likeness, axis=1)
                    found = tl.min(tl.where(likeness == most[:, None], target[None, :], half), axis=1)
                    better = most > best
                    best = tl.where(better, most, best)
                    partner = tl.where(better, found, partner)
                tl.store(scores + source, best + close, mask=source < half)
                tl.store(partners + source, tl.minimum(partner, half - 1), mask=source < half)
        if STAGE == 0:
            tl.debug_barrier()  # what is read below, another thread may have stored

        source = tl.arange(0, HALF)
        there = source < half
        if STAGE > 0:  # triton-ascend loads first and masks after, and takes stores at 2 i and 2 i + 1 for one
            source = tl.minimum(source, half - 1)
        if STAGE == 0 or STAGE == 2:
            score = tl.load(scores + source, mask=there, other=float("-inf"))
            partner = tl.load(partners + source, mask=there, other=0)
            leaves = _chosen(score, there, count, HALF)
            gone = tl.cumsum(leaves.to(tl.int32), axis=0)
            place = first - before + 2 * source - gone  # of the source if it stays; its neighbour's is the next
            stays = there & (leaves == 0)
            tl.store(step + 2 * source + 1, place + 1, mask=there)
            if not LAST:
                index = tl.load(alive + 2 * source, mask=there, other=0)
                degree = tl.load(weights + 2 * source, mask=there, other=1.0)
                tl.store(next_alive + place, index, mask=stays)
                tl.store(next_weights + place, degree, mask=stays)
                tl.store(next_scale + place, tl.load(scale + 2 * source, mask=stays, other=1.0), mask=stays)
                tl.store(next_near + place, tl.load(near + 2 * source, mask=stays, other=0.0), mask=stays)
                tl.store(next_alive + place + 1, tl.load(alive + 2 * source + 1, mask=there, other=0), mask=there)
                held_by = tl.load(weights + 2 * source + 1, mask=there, other=1.0)
                tl.store(next_weights + place + 1, held_by, mask=there)
                if STAGE == 0:
                    tl.debug_barrier()  # all scores and partners are read: there is room for a list
                tl.store(order + gone - 1, index, mask=leaves)
                tl.store(partners + gone - 1, partner, mask=leaves)
                tl.store(scores + gone - 1, degree, mask=leaves)
        if STAGE == 2:
            tl.store(step + 2 * source, tl.where(leaves, -1 - partner, place), mask=there)
        if STAGE == 0:
            tl.debug_barrier()
        if STAGE == 3:
            place = tl.load(step + 2 * source, mask=there, other=0)
            leaves = place < 0
            partner = tl.maximum(-1 - place, 0)
            degree = tl.load(weights + 2 * source, mask=there, other=1.0)
        if STAGE == 0 or STAGE == 3:
            joined = tl.load(step + 2 * partner + 1, mask=leaves, other=0)
            tl.store(step + 2 * source, tl.where(leaves, joined, place), mask=there)
            if not LAST:
                tl.atomic_add(next_weights + joined, degree, mask=leaves, sem="relaxed")

        if not LAST and (STAGE == 0 or STAGE == 4):
            number = half
            if STAGE == 0:  # a list of the targets that were joined: half of them, or fewer
                tl.debug_barrier()
                held_at = 2 * tl.minimum(source, half - 1) + 1
                now = tl.load(next_weights + place + 1, mask=there, other=0.0, cache_modifier=".cg")
                joins = there & (now > tl.load(weights + held_at))
                listed = tl.cumsum(joins.to(tl.int32), axis=0)
                tl.store(order + half + listed - 1, source, mask=joins)
                number = tl.sum(joins.to(tl.int32), axis=0)
                same = there & (joins == 0)
                tl.store(next_scale + place + 1, tl.load(scale + held_at), mask=same)
                tl.store(next_near + place + 1, tl.load(near + held_at), mask=same)
                tl.debug_barrier()
            real = (tl.arange(0, WIDTH) < D)[None, :]
            _, _, rows = _leaving(x, order, partners, scores, 0, count, D, WIDTH, LEAVING)
            for start in range(0, number, JOIN):
                target = start + tl.arange(0, JOIN)
                present = target < number
                if STAGE == 0:
                    target = tl.load(order + half + target, mask=present, other=0)
                at = 2 * tl.minimum(target, half - 1) + 1
                goes_to = tl.load(step + at)
                own = tl.load(weights + at)
                total = tl.load(next_weights + goes_to, cache_modifier=".cg")
                grown = present & (total > own)
                to_row = x + tl.load(alive + at).to(tl.int64)[:, None] * D + columns(D, WIDTH)[None, :]
                changes = grown[:, None] & real
                sums = tl.load(to_row, mask=real, other=0.0).to(tl.float32) * own[:, None]
                slot = tl.arange(0, LEAVING)
                to = tl.load(partners + slot, mask=slot < count, other=-1)
                heavy = tl.load(scores + slot, mask=slot < count, other=0.0)
                sums = _gained(target, to, heavy, rows, sums)
                if MORE > 0:
                    for begin in tl.range(LEAVING, count, MORE, num_stages=1):
                        to2, heavy2, rows2 = _leaving(x, order, partners, scores, begin, count, D, WIDTH, MORE)
                        sums = _gained(target, to2, heavy2, rows2, sums)
                wide = sums / total[:, None] if x.dtype.element_ty == tl.float32 else sums * (1 / total)[:, None]
                tl.store(to_row, wide.to(x.dtype.element_ty), mask=changes)
                shrink = 1 / tl.maximum(tl.sqrt(tl.sum(wide * wide, axis=1)), 1e-12)
                # Loaded again: what is kept in registers through the loop is what there are too few for.
                again = tl.load(centre + row * D + tl.arange(0, WIDTH), mask=tl.arange(0, WIDTH) < D, other=0.0)
                by = tl.sum(wide * again[None, :], axis=1) * shrink * typical
                if STAGE == 4:
                    shrink = tl.where(grown, shrink, tl.load(scale + at))
                    by = tl.where(grown, by, tl.load(near + at))
                tl.store(next_scale + goes_to, shrink, mask=present)
                tl.store(next_near + goes_to, by, mask=present)


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


def more(left: int) -> int:
    """How many of the `left` leaving sources to take at a time: a block may have few."""
    return 0 if left <= 0 else MORE if left <= MORE else LEAVING


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
        together: a pass in one launch, with barriers, which triton-ascend passes on as a GPU's.
    """
    batch, heads, length, width = keys.shape
    rows, passes = batch * heads, len(plan) // 3
    if not plan:
        return torch.arange(length, device=keys.device, dtype=torch.int32).repeat(batch, heads, 1)
    degrees = degrees.contiguous()
    x, state, alive, centre = prepare(keys, degrees, cos, sin)
    steps = keys.new_empty(passes, rows, length, dtype=torch.int32)
    scores, (partners, order) = degrees.new_empty(rows, length), alive.new_empty(2, rows, length)
    held = length
    for number in range(passes):
        chunks, size, merges = plan[3 * number : 3 * number + 3]
        now, then = number % 2, 1 - number % 2
        half = padded(size // 2)
        sources, targets = min(SOURCES, half), min(TARGETS, half)
        last = number == passes - 1
        for stage in (0,) if together else range(1, 4 if last else 5):
            _pass_kernel[(rows, chunks + (stage <= 1))](
                x, centre, alive[now], state[now], alive[then], state[then], scores, partners, order, steps[number],
                length, held, size, chunks, merges, rows * length, typical, D=width, WIDTH=padded(width),
                SOURCES=sources, TARGETS=targets, JOIN=min(JOIN, half), HALF=half, LEAVING=min(LEAVING, half),
                MORE=0 if last else more(-(-merges // chunks) - LEAVING),
                FULL=size // 2 % max(sources, targets) == 0, FIRST=number == 0, LAST=last, STAGE=stage,
                num_warps=WARPS, maxnreg=REGISTERS, num_stages=STAGES,
            )  # fmt: skip
        held -= merges
    places = keys.new_empty(batch, heads, length, dtype=torch.int32)
    _follow_kernel[(rows, triton.cdiv(length, 512))](steps, places, length, passes, rows * length, TOKENS=512)
    return places
