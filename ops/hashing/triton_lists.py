"""Triton kernels that select by lists: two passes see all tokens, the rest only those that may be chosen.

After the score kernel has counted its scores in coarse bins, each program lists those of its tokens whose scores do not
lie above the bin of the threshold (a few in a hundred, in ascending order), and counts the scores within that bin. From
the counts of its row a program of the last launch knows the exact threshold, how many each stretch contributes, and so
which ones have the ranks it is asked for: it writes its equal share of the row's positions, whatever stretches they
come from, and in the fused form attends to them at once.

For CUDA alone: a program reads what its other threads wrote, after a barrier, which triton-ascend passes on as a GPU's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from npukv.ops.attention import triton as attending
from npukv.ops.hashing import reference
from npukv.ops.hashing import triton as scoring
from npukv.ops.hashing.triton_select import _bounds, _forced_before, _threshold, shift_of

COARSE = 32
#: Programs that fill the card, the most a row is split into, and the tokens of a step of scoring.
PROGRAMS, MOST_SPLITS = 1024, 64
#: Tokens per step, and per thread, of the launch that lists.
LIST_TILE, LIST_EACH = 4096, 32
#: Listed tokens per step, programs and warps of the launch that picks without attending.
PICK = {"TILE": 512, "num_warps": 4}
PICK_PROGRAMS = 264
#: Listed tokens and keys per step, warps and stages of the launch that picks and attends.
ATTEND = {"TILE": 256, "BLOCK": 32, "num_warps": 4, "num_stages": 3}
ATTEND_PROGRAMS = 528


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def _list_kernel(
    scores_ptr, pairs_ptr, counts_ptr, fine_ptr, list_ptr, length_ptr, start_ptr,
    capacity, kv_heads, budget, sink, recent, chunk,
    TILE: tl.constexpr, AGAIN: tl.constexpr, SHIFT: tl.constexpr, COARSE: tl.constexpr, FINE: tl.constexpr,
    SPLITS: tl.constexpr, NONE: tl.constexpr, WITH_START: tl.constexpr,
):  # fmt: skip
    """list [rows, SPLITS, chunk]: score << 16 | place in the stretch, of scores up to the threshold's coarse bin.

    Scores are compared two at a time, as halves of a word; a thread's eight tokens then are bits of one number.
    fine [rows, SPLITS, FINE]: how many have each score of that bin.
    """
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    begin, end = _bounds(length_ptr, start_ptr, row // kv_heads, capacity, WITH_START)
    bins = tl.arange(0, COARSE)
    counts = tl.load(counts_ptr + (row * SPLITS + tl.arange(0, SPLITS)[:, None]) * COARSE + bins[None, :])
    need = tl.minimum(budget, end - begin) - _forced_before(end, begin, end, sink, recent)
    coarse_bin, _ = _threshold(tl.sum(counts, 0), need)
    base = coarse_bin << SHIFT
    above = tl.where(coarse_bin == COARSE - 1, NONE, base + (1 << SHIFT))
    above = tl.where(need > 0, above, 0)
    limit = ((above + 0x7FFF) * 0x10001).to(tl.uint32, bitcast=True)
    stretch = (row * SPLITS + split) * chunk
    found = 0
    for offset in range(0, chunk, TILE):
        first = split * chunk + offset
        if (first < end) & (first + TILE > begin):
            word = tl.load(pairs_ptr + (stretch + offset) // 2 + tl.arange(0, TILE // 2)).to(tl.uint32, bitcast=True)
            passed = limit - word  # the highest bit of each half stays where its score is low enough
            two = ((passed >> 15) & 1) | ((passed >> 30) & 2)
            four = tl.arange(0, 4)[None, :]
            mask = tl.sum(tl.reshape(two, [TILE // 8, 4]) << (2 * four), 1).to(tl.uint32, bitcast=True)
            number = scoring.popcount(mask)
            target = found + tl.cumsum(number, 0) - number
            place = offset + 8 * tl.arange(0, TILE // 8)
            for i in range(0, tl.max(number, 0)):
                held = i < number
                at = place + scoring.popcount((mask - 1) & (mask ^ 0xFFFFFFFF))  # of the lowest bit
                at = tl.where(held, at, 0)
                score = tl.load(scores_ptr + stretch + at, mask=held, other=0).to(tl.int32)
                tl.store(list_ptr + stretch + tl.where(held, target + i, 0), (score << 16) | at, mask=held)
                mask = mask & (mask - 1)
            found += tl.sum(number, 0)
    tl.debug_barrier()  # the list is read by other threads than wrote it
    fine = tl.arange(0, FINE)
    binned = tl.zeros([FINE], tl.int32)
    outside = 0
    for offset in range(0, found, AGAIN):
        item = offset + tl.arange(0, AGAIN)
        held = item < found
        score = tl.load(list_ptr + stretch + tl.minimum(item, chunk - 1), mask=held, other=0) >> 16
        within = held & (score >= base)
        binned += tl.histogram(tl.where(within, score - base, FINE - 1), FINE)
        outside += AGAIN - tl.sum(within.to(tl.int32), 0)
    binned -= tl.where(fine == FINE - 1, outside, 0)
    tl.store(fine_ptr + (row * SPLITS + split) * FINE + fine, binned)


@triton.jit
def _tally(
    counts_ptr, fine_ptr, row, need, SHIFT: tl.constexpr, COARSE: tl.constexpr, FINE: tl.constexpr, SPLITS: tl.constexpr
):  # fmt: skip
    """The threshold, and per stretch [SPLITS]: tokens listed, chosen, and at the threshold but too early for that."""
    bins, fine, stretch = tl.arange(0, COARSE), tl.arange(0, FINE), tl.arange(0, SPLITS)
    counts = tl.load(counts_ptr + (row * SPLITS + stretch[:, None]) * COARSE + bins[None, :])
    within = tl.load(fine_ptr + (row * SPLITS + stretch[:, None]) * FINE + fine[None, :])
    coarse_bin, lower = _threshold(tl.sum(counts, 0), need)
    fine_bin, lower_within = _threshold(tl.sum(within, 0), need - lower)
    quota = need - lower - lower_within  # of those at the threshold, the last ones
    listed = tl.sum(tl.where(bins[None, :] <= coarse_bin, counts, 0), 1)
    below = tl.sum(tl.where(bins[None, :] < coarse_bin, counts, 0), 1)
    below += tl.sum(tl.where(fine[None, :] < fine_bin, within, 0), 1)
    equal = tl.sum(tl.where(fine[None, :] == fine_bin, within, 0), 1)
    later = tl.sum(equal, 0) - tl.cumsum(equal, 0)
    taken = tl.minimum(equal, tl.maximum(quota - later, 0))
    return (coarse_bin << SHIFT) + fine_bin, listed, below + taken, equal - taken


@triton.jit
def _pick(
    list_ptr, counts_ptr, fine_ptr, indices_ptr, row, first, last, begin, end, capacity, budget, sink, recent, chunk,
    TILE: tl.constexpr, SHIFT: tl.constexpr, COARSE: tl.constexpr, FINE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Write the ranks from `first` to before `last` of one row's positions, in ascending order, to `indices`."""
    stretch = tl.arange(0, SPLITS)
    forced = _forced_before(end, begin, end, sink, recent)
    need = tl.minimum(budget, end - begin) - forced
    threshold, listed, chosen, early = _tally(counts_ptr, fine_ptr, row, need, SHIFT, COARSE, FINE, SPLITS)
    head = tl.minimum(begin + sink, end) - begin  # sink tokens come first, then the free, then the recent ones
    for offset in range(first, tl.minimum(last, head), TILE):
        rank = offset + tl.arange(0, TILE)
        tl.store(indices_ptr + tl.minimum(rank, budget - 1), begin + rank, mask=rank < tl.minimum(last, head))
    tail = head + need
    for offset in range(tl.maximum(first, tail), last, TILE):
        rank = offset + tl.arange(0, TILE)
        position = end - (forced - head) + rank - tail
        tl.store(indices_ptr + tl.minimum(rank, budget - 1), position, mask=rank < last)
    low, high = tl.maximum(first, head), tl.minimum(last, tail)
    until = head + tl.cumsum(chosen, 0)
    if low < high:
        for split in range(tl.sum((until <= low).to(tl.int32), 0), tl.sum((until < high).to(tl.int32), 0) + 1):
            here = stretch == split
            items = tl.sum(tl.where(here, listed, 0), 0)
            skipped = tl.sum(tl.where(here, early, 0), 0)
            written = tl.sum(tl.where(here, until - chosen, 0), 0)
            equals = 0
            for offset in range(0, items, TILE):
                item = offset + tl.arange(0, TILE)
                held = item < items
                listed_item = tl.load(
                    list_ptr + (row * SPLITS + split) * chunk + tl.minimum(item, chunk - 1), mask=held, other=0
                )
                score = listed_item >> 16
                sure, at = held & (score < threshold), held & (score == threshold)
                both = sure.to(tl.int32) + (at.to(tl.int32) << 16)
                running = tl.cumsum(both, 0)
                equals_until = equals + (running >> 16)
                rank = written + (running & 0xFFFF) + tl.maximum(equals_until - skipped, 0) - 1
                wanted = (sure | (at & (equals_until > skipped))) & (rank >= low) & (rank < high)
                target = tl.minimum(tl.maximum(rank, 0), budget - 1)
                tl.store(indices_ptr + target, split * chunk + (listed_item & 0xFFFF), mask=wanted)
                total = tl.sum(both, 0)
                written += total & 0xFFFF  # without those at the threshold, which `rank` adds as it goes
                equals += total >> 16


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def _pick_kernel(
    list_ptr, counts_ptr, fine_ptr, indices_ptr, length_ptr, start_ptr,
    capacity, kv_heads, budget, sink, recent, chunk,
    TILE: tl.constexpr, SHIFT: tl.constexpr, COARSE: tl.constexpr, FINE: tl.constexpr, SPLITS: tl.constexpr,
    WITH_START: tl.constexpr,
):  # fmt: skip
    """indices [rows, budget]: ascending, -1 after the last. One program per row and share of the ranks."""
    row = tl.program_id(0).to(tl.int64)
    begin, end = _bounds(length_ptr, start_ptr, row // kv_heads, capacity, WITH_START)
    total = tl.minimum(budget, end - begin)
    share = tl.cdiv(budget, tl.num_programs(1))
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, budget)
    indices_row = indices_ptr + row * budget
    _pick(
        list_ptr, counts_ptr, fine_ptr, indices_row, row, first, tl.minimum(last, total), begin, end, capacity, budget,
        sink, recent, chunk, TILE, SHIFT, COARSE, FINE, SPLITS,
    )  # fmt: skip
    for offset in range(tl.maximum(first, total), last, TILE):
        rank = offset + tl.arange(0, TILE)
        tl.store(indices_row + tl.minimum(rank, budget - 1), -1, mask=rank < last)


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def _attend_kernel(
    list_ptr, counts_ptr, fine_ptr, indices_ptr, length_ptr, start_ptr,
    query, key, value, outs, lses, scale, query_b, query_h, key_b, key_h, key_c, value_b, value_h, value_c,
    capacity, kv_heads, budget, sink, recent, chunk, rows_all,
    TILE: tl.constexpr, SHIFT: tl.constexpr, COARSE: tl.constexpr, FINE: tl.constexpr, SPLITS: tl.constexpr,
    WITH_START: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, PADDED: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A share of a row's chosen positions, and attention to them alone: outs [parts, B, Hq, 1, D], lses without D.

    `indices` [rows, budget] is scratch: a program reads what it wrote.
    """
    part = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    batch, head = row // kv_heads, row % kv_heads
    begin, end = _bounds(length_ptr, start_ptr, batch, capacity, WITH_START)
    total = tl.minimum(budget, end - begin)
    share = tl.cdiv(total, tl.num_programs(0))
    first = part * share
    last = tl.minimum(first + share, total)
    indices_row = indices_ptr + row * budget
    _pick(
        list_ptr, counts_ptr, fine_ptr, indices_row, row, first, last, begin, end, capacity, budget,
        sink, recent, chunk, TILE, SHIFT, COARSE, FINE, SPLITS,
    )  # fmt: skip
    tl.debug_barrier()  # the positions are read by other threads than wrote them
    vector = tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)
    real, in_width = vector < GROUP, column < WIDTH
    safe_column = column
    if WIDTH != PADDED:
        safe_column = tl.minimum(column, WIDTH - 1)
    query_head = head * GROUP + tl.minimum(vector, GROUP - 1)
    q = tl.load(
        query + batch * query_b + query_head[:, None] * query_h + safe_column[None, :],
        mask=real[:, None] & in_width[None, :], other=0.0,
    )  # fmt: skip
    most = tl.full([ROWS], float("-inf"), tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    mean = tl.zeros([ROWS, PADDED], tl.float32)
    key_head = key + batch * key_b + head * key_h
    value_head = value + batch * value_b + head * value_h
    for start in tl.range(first, last, BLOCK, num_stages=STAGES):
        rank = start + tl.arange(0, BLOCK)
        present = rank < last
        place = tl.load(indices_row + tl.where(present, rank, 0), mask=present, other=0).to(tl.int64)
        loaded = present[:, None]
        if WIDTH != PADDED:
            loaded = loaded & in_width[None, :]
        k = tl.load(key_head + place[:, None] * key_c + safe_column[None, :], mask=loaded, other=0.0)
        v = tl.load(value_head + place[:, None] * value_c + safe_column[None, :], mask=loaded, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * 1.4426950408889634)
        scores = tl.where(present[None, :], scores, float("-inf"))
        now = tl.maximum(most, tl.max(scores, axis=1))  # at least one is present: never -inf
        shrink = tl.exp2(most - now)
        weights = tl.exp2(scores - now[:, None])
        weight = weight * shrink + tl.sum(weights, axis=1)
        mean = mean * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        most = now
    none = weight == 0.0
    safe_weight = tl.where(none, 1.0, weight)
    mean = mean / safe_weight[:, None]
    lse = tl.where(none, float("-inf"), (most + tl.log2(safe_weight)) * 0.6931471805599453)
    out_row = part.to(tl.int64) * rows_all + batch * kv_heads * GROUP + query_head
    tl.store(outs + out_row[:, None] * WIDTH + safe_column[None, :], mean, mask=real[:, None] & in_width[None, :])
    tl.store(lses + out_row, lse, mask=real)


def plan(rows: int, capacity: int, step: int) -> tuple[int, int]:
    """(tokens per program, a multiple of step; programs per row, a power of 2). Places in a stretch fit 16 bits."""
    wanted = min(MOST_SPLITS, triton.next_power_of_2(triton.cdiv(PROGRAMS, rows)))
    wanted = max(wanted, triton.next_power_of_2(triton.cdiv(capacity, 1 << 15)))
    chunk = triton.cdiv(triton.cdiv(capacity, wanted), step) * step
    return chunk, triton.next_power_of_2(triton.cdiv(capacity, chunk))


def _listed(query_codes, key_codes, length, budget, sink, recent, start):
    """The three workspaces, and what the launches that read them share."""
    reference.check_budget(budget, sink, recent)
    batch, kv_heads, capacity, words = key_codes.shape
    rows = batch * kv_heads
    step = scoring.SCORE["BLOCK"]
    chunk, splits = plan(rows, capacity, step)
    largest = query_codes.shape[1] // kv_heads * words * 32
    shift = shift_of(largest)
    bins = triton.next_power_of_2(max(1 << shift, largest - (COARSE - 1 << shift) + 1))
    counts = key_codes.new_empty(rows, splits, COARSE)
    fine = key_codes.new_empty(rows, splits, bins)
    scores = key_codes.new_empty(rows, splits * chunk, dtype=torch.int16)
    listed = key_codes.new_empty(rows, splits * chunk)
    scoring.launch_scores(
        query_codes, key_codes, length, start, scores, counts, splits * chunk, sink, recent, chunk, splits, shift
    )
    bounds = (capacity, kv_heads, budget, sink, recent, chunk)
    sizes = {"SHIFT": shift, "COARSE": COARSE, "FINE": bins, "SPLITS": splits, "WITH_START": start is not None}
    tile = LIST_TILE
    while chunk % tile:
        tile //= 2
    _list_kernel[(rows, splits)](
        scores, scores.view(torch.int32), counts, fine, listed, length, start, *bounds,
        AGAIN=256, NONE=scoring.ABSENT_NARROW, **sizes,
        TILE=tile, num_warps=max(1, tile // (32 * LIST_EACH)),
    )  # fmt: skip
    return (listed, counts, fine), bounds, sizes


def hamming_select(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    work, bounds, sizes = _listed(query_codes, key_codes, length, budget, sink, recent, start)
    batch, kv_heads = key_codes.shape[:2]
    indices = key_codes.new_empty(batch, kv_heads, budget)
    shares = max(1, min(PICK_PROGRAMS // (batch * kv_heads), triton.cdiv(budget, 64)))
    _pick_kernel[(batch * kv_heads, shares)](*work, indices, length, start, *bounds, **sizes, **PICK)
    return indices


def hashed_attention(
    query: torch.Tensor,
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    start: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, heads, _, width = query.shape
    kv_heads = key.shape[1]
    work, bounds, sizes = _listed(query_codes, key_codes, length, budget, sink, recent, start)
    scale = width**-0.5 if scale is None else scale
    rows = batch * kv_heads
    parts = max(1, ATTEND_PROGRAMS // rows)
    parts = min(
        triton.cdiv(budget, ATTEND["BLOCK"]),
        parts if parts < attending.PARTS else parts // attending.PARTS * attending.PARTS,
    )
    scratch = key_codes.new_empty(rows, budget)
    outs = query.new_empty((parts, *query.shape), dtype=torch.float32)
    lses = query.new_empty((parts, *query.shape[:3]), dtype=torch.float32)
    group = heads // kv_heads
    _attend_kernel[(parts, rows)](
        *work, scratch, length, start, query, key, value, outs, lses, scale,
        *query.stride()[:2], *key.stride()[:3], *value.stride()[:3], *bounds, batch * heads, **sizes,
        GROUP=group, WIDTH=width, ROWS=attending._padded(group), PADDED=attending._padded(width),
        STAGES=ATTEND["num_stages"], **ATTEND,
    )  # fmt: skip
    return attending._merge(outs, lses, query.dtype)
