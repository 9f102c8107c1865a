"""The third launch of `triton_decode`: attention to the chosen ones of a row's listed tokens."""

from __future__ import annotations

import triton
import triton.language as tl

from npukv.backends import cuda_launch
from npukv.ops.hashing import triton as scoring
from npukv.ops.hashing import triton_attend as sampled
from npukv.ops.hashing import triton_sift as sifting
from npukv.ops.hashing.triton_select import _bounds


@triton.jit
def _scored_again(
    query_codes_ptr, codes_row, chosen, row, one, lowest, free, need, forced, begin, end, sinks, first, last,
    GROUP: tl.constexpr, WORDS: tl.constexpr, PLANES: tl.constexpr, BITS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Where the sample misled: writes the chosen positions of a share of all tokens; returns how many. Slow, exact."""
    threshold, since = sampled._rescored(
        query_codes_ptr, codes_row, row, one, lowest, lowest + free, need, GROUP, WORDS, PLANES, True, BITS, TILE
    )
    found = 0
    for offset in range(first, last, TILE):
        at = offset + tl.arange(0, TILE)
        position = lowest + tl.maximum(at - forced, 0)
        score = sampled._row_scores(
            query_codes_ptr, codes_row, position, lowest + free, row, one, GROUP, WORDS, PLANES, True, TILE
        )
        sure = at < forced
        taken = sure | (score < threshold) | ((score == threshold) & (position >= since))
        taken = taken & (at < last)
        position = tl.where(sure, tl.where(at < sinks, begin + at, end - forced + at), position)
        running = tl.cumsum(taken.to(tl.int32), 0)
        tl.store(chosen + tl.where(taken, found + running - 1, 0), position, mask=taken)
        found += tl.sum(taken.to(tl.int32), 0)
    tl.debug_barrier()  # the positions are read by other threads than wrote them
    return found


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def attend_kernel(
    query_codes_ptr, codes_ptr, list_ptr, fine_ptr, totals_ptr, listed_ptr, cutoff_ptr, chosen_ptr, length_ptr,
    start_ptr, query, key, value, outs, lses, scale,
    query_b, query_h, key_b, key_h, key_c, value_b, value_h, value_c,
    capacity, kv_heads, budget, sink, recent, room, rows_all,
    GROUP: tl.constexpr, WORDS: tl.constexpr, PLANES: tl.constexpr, BITS: tl.constexpr, SPLITS: tl.constexpr,
    LEVELS: tl.constexpr, WITH_START: tl.constexpr, WINDOW: tl.constexpr, STEP: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """A share of a row's listed tokens, and attention to the chosen ones: outs [parts, B, Hq, 1, D], lses without D.

    `chosen` is scratch.
    """
    part, parts = tl.program_id(0), tl.num_programs(0)
    row = tl.program_id(1).to(tl.int64)
    batch, head = row // kv_heads, row % kv_heads
    vector, column = tl.arange(0, ROWS), tl.arange(0, PADDED)
    real, in_width = vector < GROUP, column < WIDTH
    safe_column = tl.minimum(column, WIDTH - 1) if WIDTH != PADDED else column
    query_head = head * GROUP + tl.minimum(vector, GROUP - 1)
    q = tl.load(
        query + batch * query_b + query_head[:, None] * query_h + safe_column[None, :],
        mask=real[:, None] & in_width[None, :], other=0.0,
    )  # fmt: skip
    begin, end = _bounds(length_ptr, start_ptr, batch, capacity, WITH_START)
    fine, stretch = tl.arange(0, WINDOW), tl.arange(0, SPLITS)
    if EARLY:
        cuda_launch.wait()
    binned = tl.load(totals_ptr + row * WINDOW + fine)  # from the cutoff down
    listed = tl.load(listed_ptr + row * SPLITS + stretch)
    cutoff = tl.load(cutoff_ptr + row)
    lowest, free, need, sinks = sifting._free(begin, end, budget, sink, recent)
    end = tl.maximum(begin, end)
    forced = end - begin - free
    chunk = sifting._stretch(free, SPLITS, STEP)

    items = tl.sum(binned, 0)
    lower = items - tl.cumsum(binned, 0)  # below each of the scores
    under = tl.sum((lower >= need).to(tl.int32), 0)  # the threshold lies that far below the cutoff
    quota = need - tl.max(tl.where(lower < need, lower, 0), 0)  # of those at the threshold, the last ones
    equal = tl.load(fine_ptr + (row * WINDOW + tl.minimum(under, WINDOW - 1)) * SPLITS + stretch)
    since_equal = tl.cumsum(equal, 0)
    before = tl.cumsum(listed, 0) - listed
    later = tl.sum(equal, 0) - since_equal
    edge = (later < quota) & (later + equal >= quota)  # the stretch in which the first one lies
    # that stretch, how many of its equals are skipped, its length and the items before it, added up as one number
    facts = stretch.to(tl.int64) | ((later + equal - quota).to(tl.int64) << 7) | (listed.to(tl.int64) << 23)
    facts = tl.sum(tl.where(edge, facts | (before.to(tl.int64) << 39), 0), 0)
    at_edge, skipped = (facts & 127).to(tl.int32), ((facts >> 7) & 0xFFFF).to(tl.int32)
    edge_length, edge_before = ((facts >> 23) & 0xFFFF).to(tl.int32), (facts >> 39).to(tl.int32)
    since = lowest + at_edge * chunk
    threshold = cutoff - under
    misled = ((items < need) | ((under >= WINDOW - 1) & (threshold > 0))) & (items != need)
    threshold = tl.where(items == need, cutoff + 1, threshold)  # all of them
    total = tl.where(misled, free, items) + forced
    share = tl.cdiv(total, parts)
    first = part * share
    last = tl.minimum(first + share, total)
    mine = (first - forced < edge_before + edge_length) & (last - forced > edge_before)
    list_row = list_ptr + row * SPLITS * room
    if mine & (skipped > 0) & (misled == 0):
        passed, lanes = 0, tl.arange(0, 256)
        for offset in range(0, edge_length, 256):
            inside = offset + lanes < edge_length
            item = tl.load(list_row + at_edge * room + offset + lanes, mask=inside, other=-1)
            same = ((item >> 16) == threshold).to(tl.int32)
            running = passed + tl.cumsum(same, 0)
            since += tl.sum(tl.where((same > 0) & (running == skipped + 1), item & 0xFFFF, 0), 0)
            passed += tl.sum(same, 0)
    chosen = chosen_ptr + (row * parts + part) * tl.cdiv(SPLITS * room, parts)
    if misled:
        last = _scored_again(
            query_codes_ptr, codes_ptr + row * capacity * WORDS, chosen, row, tl.minimum(capacity, 1), lowest, free,
            need, forced, begin, end, sinks, first, last, GROUP, WORDS, PLANES, BITS, 128,
        )  # fmt: skip
    found = last
    if misled == 0:
        found = 0
        for at in range(first, last, TILE):
            index = at + tl.arange(0, TILE)
            free_one = index - forced  # the sink tokens, then the recent ones, then those of the lists
            of = tl.zeros([TILE], tl.int32)  # the list: the last one that begins at or before the item
            for b in tl.static_range(LEVELS):
                middle = of + (SPLITS >> (b + 1))
                of = tl.where(tl.gather(before, middle, 0) <= free_one, middle, of)
            offset = of * room + free_one - tl.gather(before, of, 0)
            in_list = (index < last) & (free_one >= 0)
            item = tl.load(list_row + tl.where(in_list, offset, 0), mask=in_list, other=0)
            position = lowest + of * chunk + (item & 0xFFFF)
            score = item >> 16
            taken = in_list & ((score < threshold) | ((score == threshold) & (position >= since)))
            sure = (free_one < 0) & (index < last)
            position = tl.where(sure, tl.where(index < sinks, begin + index, end - forced + index), position)
            taken = (taken | sure).to(tl.int32)
            running = tl.cumsum(taken, 0)
            tl.store(chosen + tl.where(taken > 0, found + running - 1, 0), position, mask=taken > 0)
            found += tl.sum(taken, 0)
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
    if EARLY:
        cuda_launch.let_the_next_begin()
    none = weight == 0.0
    safe_weight = tl.where(none, 1.0, weight)
    mean = mean / safe_weight[:, None]
    sums = tl.where(none, float("-inf"), (most + tl.log2(safe_weight)) * 0.6931471805599453)
    out_row = part.to(tl.int64) * rows_all + batch * kv_heads * GROUP + query_head
    tl.store(outs + out_row[:, None] * WIDTH + safe_column[None, :], mean, mask=real[:, None] & in_width[None, :])
    tl.store(lses + out_row, sums, mask=real)
