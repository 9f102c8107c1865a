"""Attention to the keys that their codes select, in three launches: sift the codes, attend to what is left, merge.

A threshold of scores needs all scores first; an upper bound of it does not. Each program that scores tokens first
scores one and the same sample of its row, and takes as cutoff a score that so many of the sample lie below that surely
enough of the row do. It keeps a list of the tokens up to the cutoff, a few in a hundred, and counts their scores. From
the row's counts a program of the second launch knows the exact threshold; it takes an equal share of the row's listed
tokens, and attends to those of them that are chosen. Where the counts show that the sample misled (too few tokens
listed, or a threshold far below the cutoff) it scores the row again: slow, exact, and next to never.

On CUDA a program reads what its other threads wrote, after a barrier, which triton-ascend passes on as a GPU's: there,
what comes after a barrier is a launch of its own (five in all).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from npukv.ops.attention import triton as attending
from npukv.ops.hashing import reference
from npukv.ops.hashing import triton as scoring
from npukv.ops.hashing import triton_sift as sifting
from npukv.ops.hashing.triton_select import _bounds
from npukv.ops.hashing.triton_sift import SIFT

#: Programs, listed tokens and keys per step, warps and stages of the launch that attends.
ATTEND = {"PROGRAMS": 528, "TILE": 256, "BLOCK": 32, "num_warps": 4, "STAGES": 3}


@triton.jit
def _row_scores(
    query_ptr, codes_row, position, last, row, one,
    GROUP: tl.constexpr, WORDS: tl.constexpr, PLANES: tl.constexpr, CARRY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    least, pull, to_one = scoring._votes(query_ptr, row, GROUP, WORDS)
    safe = tl.minimum(position, last - 1)
    codes = tl.load(codes_row + safe[:, None] * WORDS + tl.arange(0, WORDS)[None, :]).to(tl.uint32, bitcast=True)
    score = scoring._distances(codes, least, pull, to_one, one, GROUP, PLANES, BLOCK, CARRY)
    return tl.where(position < last, score, 32767)


@triton.jit
def _rescored(
    query_ptr, codes_row, row, one, first, last, need,
    GROUP: tl.constexpr, WORDS: tl.constexpr, PLANES: tl.constexpr, CARRY: tl.constexpr, BITS: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """The threshold, and the first position at which a score equal to it is taken, from all of a row's codes."""
    lane = tl.arange(0, TILE)
    threshold, upto = 0, 0
    for b in range(BITS):
        above = threshold + ((1 << (BITS - 1)) >> b)
        lower = 0
        for at in range(first, last, TILE):
            score = _row_scores(query_ptr, codes_row, at + lane, last, row, one, GROUP, WORDS, PLANES, CARRY, TILE)
            lower += tl.sum((score < above).to(tl.int32), 0)
        if lower < need:
            threshold = above
        else:
            upto = lower  # in the end, the tokens up to the threshold: some score lies above every one
    skipped = upto - need
    since, equal = first, 0
    for at in range(first, last, TILE):
        score = _row_scores(query_ptr, codes_row, at + lane, last, row, one, GROUP, WORDS, PLANES, CARRY, TILE)
        same = score == threshold
        running = equal + tl.cumsum(same.to(tl.int32), 0)
        since += tl.sum(tl.where(same & (running == skipped + 1), at + lane - first, 0), 0)
        equal += tl.sum(same.to(tl.int32), 0)
    return threshold, since


@triton.jit
def _choose(
    query_codes_ptr, codes_ptr, list_ptr, fine_ptr, cutoff_ptr, chosen, length_ptr, start_ptr, row, part,
    capacity, kv_heads, budget, sink, recent, room,
    GROUP: tl.constexpr, WORDS: tl.constexpr, PLANES: tl.constexpr, BITS: tl.constexpr, CARRY: tl.constexpr,
    SPLITS: tl.constexpr, LEVELS: tl.constexpr, WITH_START: tl.constexpr, WINDOW: tl.constexpr, STEP: tl.constexpr,
    TILE: tl.constexpr, GATHER: tl.constexpr,
):  # fmt: skip
    """Writes the positions of the chosen ones of a share of a row's listed tokens; returns how many."""
    fine, stretch = tl.arange(0, WINDOW), tl.arange(0, SPLITS)
    counts = tl.load(fine_ptr + (row * SPLITS + stretch[:, None]) * WINDOW + fine[None, :])
    cutoff = tl.load(cutoff_ptr + row)
    begin, end = _bounds(length_ptr, start_ptr, row // kv_heads, capacity, WITH_START)
    lowest, free, need, sinks = sifting._free(begin, end, budget, sink, recent)
    end = tl.maximum(begin, end)
    forced = end - begin - free
    chunk = sifting._stretch(free, SPLITS, STEP)
    list_row = list_ptr + row * SPLITS * room

    binned = tl.sum(counts, 0)  # from the cutoff down
    listed = tl.sum(counts, 1)
    items = tl.sum(listed, 0)
    lower = items - tl.cumsum(binned, 0)  # below each of the scores
    under = tl.sum((lower >= need).to(tl.int32), 0)  # the threshold lies that far below the cutoff
    threshold = cutoff - under
    quota = need - tl.sum(tl.where(fine == under, lower, 0), 0)  # of those at the threshold, the last ones
    equal = tl.sum(tl.where(fine[None, :] == under, counts, 0), 1)
    later = tl.sum(equal, 0) - tl.cumsum(equal, 0)
    edge = (later < quota) & (later + equal >= quota)  # the stretch in which the first one lies
    skipped = tl.sum(tl.where(edge, later + equal - quota, 0), 0)
    at_edge = tl.sum(tl.where(edge, stretch, 0), 0)
    since = lowest + at_edge * chunk
    misled = (items < need) | ((under >= WINDOW - 1) & (threshold > 0))
    threshold = tl.where(items == need, cutoff + 1, threshold)  # all of them
    misled = misled & (items != need)
    total = tl.where(misled, free, items) + forced
    share = tl.cdiv(total, tl.num_programs(0))
    first = part * share
    last = tl.minimum(first + share, total)
    lane = tl.arange(0, TILE)
    if (skipped > 0) & (misled == 0):
        passed, stop = 0, tl.sum(tl.where(edge, listed, 0), 0)
        for offset in range(0, stop, TILE):
            inside = offset + lane < stop
            item = tl.load(list_row + at_edge * room + offset + lane, mask=inside, other=-1)
            same = (item >> 16) == threshold
            running = passed + tl.cumsum(same.to(tl.int32), 0)
            since += tl.sum(tl.where(same & (running == skipped + 1), item & 0xFFFF, 0), 0)
            passed += tl.sum(same.to(tl.int32), 0)
    codes_row, one = codes_ptr + row * capacity * WORDS, tl.minimum(capacity, 1)
    if misled:
        threshold, since = _rescored(
            query_codes_ptr, codes_row, row, one, lowest, lowest + free, need, GROUP, WORDS, PLANES, CARRY, BITS, TILE
        )

    since_items = tl.cumsum(listed, 0) - listed
    found = 0
    for offset in range(first, last, TILE):
        at = offset + lane
        inside = at < last
        free_one = at - forced  # the sink tokens, then the recent ones, then those of the lists
        if misled:
            position = lowest + tl.maximum(free_one, 0)
            score = _row_scores(
                query_codes_ptr, codes_row, position, lowest + free, row, one, GROUP, WORDS, PLANES, CARRY, TILE
            )
        else:
            # The item's stretch: the last one that begins at or before it.
            if GATHER:
                of = tl.zeros([TILE], tl.int32)
                for b in tl.static_range(LEVELS):
                    middle = of + (SPLITS >> (b + 1))
                    of = tl.where(tl.gather(since_items, middle, 0) <= free_one, middle, of)
                place = free_one - tl.gather(since_items, of, 0)
            else:
                begun = since_items[None, :] <= free_one[:, None]
                of = tl.maximum(tl.sum(begun.to(tl.int32), 1) - 1, 0)
                place = free_one - tl.max(tl.where(begun, since_items[None, :], 0), 1)
            mine = inside & (free_one >= 0)
            item = tl.load(list_row + tl.where(mine, of * room + place, 0), mask=mine, other=0)
            position = lowest + of * chunk + (item & 0xFFFF)
            score = item >> 16
        taken = (score < threshold) | ((score == threshold) & (position >= since))
        sure = free_one < 0
        position = tl.where(sure, tl.where(at < sinks, begin + at, end - forced + at), position)
        taken = inside & (sure | taken)
        running = tl.cumsum(taken.to(tl.int32), 0)
        tl.store(chosen + tl.where(taken, found + running - 1, 0), position, mask=taken)
        found += tl.sum(taken.to(tl.int32), 0)
    return found


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def _attend_kernel(
    query_codes_ptr, codes_ptr, list_ptr, fine_ptr, cutoff_ptr, chosen_ptr, numbers_ptr, length_ptr, start_ptr,
    query, key, value, outs, lses, scale, query_b, query_h, key_b, key_h, key_c, value_b, value_h, value_c,
    capacity, kv_heads, budget, sink, recent, room, rows_all,
    GROUP: tl.constexpr, WORDS: tl.constexpr, PLANES: tl.constexpr, BITS: tl.constexpr, CARRY: tl.constexpr,
    SPLITS: tl.constexpr, LEVELS: tl.constexpr, WITH_START: tl.constexpr, WINDOW: tl.constexpr, STEP: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, PADDED: tl.constexpr,
    TILE: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr, STAGE: tl.constexpr,
):  # fmt: skip
    """A share of a row's listed tokens, and attention to the chosen ones: outs [parts, B, Hq, 1, D], lses without D.

    `chosen` [rows, parts, ...] and their `numbers` [rows, parts] are scratch: a program reads what it wrote. STAGE: 0 =
    everything; where programs have no barrier, a launch for 1, choosing, and one for 2, attending.
    """
    part = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    batch, head = row // kv_heads, row % kv_heads
    vector = tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)
    real, in_width = vector < GROUP, column < WIDTH
    safe_column = tl.minimum(column, WIDTH - 1) if WIDTH != PADDED else column
    query_head = head * GROUP + tl.minimum(vector, GROUP - 1)
    q = tl.load(
        query + batch * query_b + query_head[:, None] * query_h + safe_column[None, :],
        mask=real[:, None] & in_width[None, :], other=0.0,
    )  # fmt: skip
    numbers = numbers_ptr + row * tl.num_programs(0) + part
    chosen = chosen_ptr + (row * tl.num_programs(0) + part) * tl.cdiv(SPLITS * room, tl.num_programs(0))
    if STAGE == 2:
        found = tl.load(numbers)
    else:
        found = _choose(
            query_codes_ptr, codes_ptr, list_ptr, fine_ptr, cutoff_ptr, chosen, length_ptr, start_ptr, row, part,
            capacity, kv_heads, budget, sink, recent, room, GROUP, WORDS, PLANES, BITS, CARRY, SPLITS, LEVELS,
            WITH_START, WINDOW, STEP, TILE, STAGE == 0,
        )  # fmt: skip
    if STAGE == 1:
        tl.store(numbers, found)
    else:
        if STAGE == 0:
            tl.debug_barrier()  # the positions are read by other threads than wrote them
        most = tl.full([ROWS], float("-inf"), tl.float32)
        weight = tl.zeros([ROWS], tl.float32)
        mean = tl.zeros([ROWS, PADDED], tl.float32)
        key_head = key + batch * key_b + head * key_h
        value_head = value + batch * value_b + head * value_h
        for at in tl.range(0, found, BLOCK, num_stages=STAGES):
            rank = at + tl.arange(0, BLOCK)
            present = rank < found
            place = tl.load(chosen + tl.where(present, rank, 0), mask=present, other=0).to(tl.int64)
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
    together: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference.

    Args:
        together: barriers instead of launches of their own; only for devices whose programs have them.
    """
    reference.check_budget(budget, sink, recent)
    batch, kv_heads, capacity = key_codes.shape[:3]
    heads, width = query.shape[1], query.shape[3]
    rows, group = batch * kv_heads, heads // kv_heads
    query_codes = query_codes.contiguous()
    listed, fine, cutoff, sizes = sifting.sift(query_codes, key_codes, length, start, budget, sink, recent, together)
    splits, room = listed.shape[1:]
    parts = max(1, ATTEND["PROGRAMS"] // rows)
    parts = parts if parts < attending.PARTS else parts // attending.PARTS * attending.PARTS
    parts = min(parts, triton.cdiv(budget, ATTEND["BLOCK"]))
    chosen = key_codes.new_empty(rows, parts, triton.cdiv(splits * room, parts))
    numbers = key_codes.new_empty(rows, parts)
    outs = query.new_empty((parts, *query.shape), dtype=torch.float32)
    lses = query.new_empty((parts, *query.shape[:3]), dtype=torch.float32)
    scale = width**-0.5 if scale is None else scale
    for stage in (0,) if together else (1, 2):
        _attend_kernel[(parts, rows)](
            query_codes, key_codes, listed, fine, cutoff, chosen, numbers, length, start, query, key, value, outs, lses,
            scale, *query.stride()[:2], *key.stride()[:3], *value.stride()[:3], capacity, kv_heads, budget, sink,
            recent, room, batch * heads, **sizes, LEVELS=splits.bit_length() - 1, STEP=SIFT["BLOCK"],
            WIDTH=width, ROWS=attending._padded(group), PADDED=attending._padded(width), TILE=ATTEND["TILE"],
            BLOCK=ATTEND["BLOCK"], STAGES=ATTEND["STAGES"], STAGE=stage, num_warps=ATTEND["num_warps"],
        )  # fmt: skip
    return attending._merge(outs, lses, query.dtype)
