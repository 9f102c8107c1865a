"""Attention to the keys that their codes select, in three launches: sift the codes, attend to what is left, merge.

A threshold of scores needs all scores first; an upper bound of it does not. Each program that scores tokens first
scores one and the same sample of its row, and takes as cutoff a score that so many of the sample lie below that surely
enough of the row do. It keeps a list of the tokens up to the cutoff, a few in a hundred, and counts their scores. From
the row's counts a program of the second launch knows the exact threshold; it takes an equal share of the row's listed
tokens, and attends to those of them that are chosen. Where the counts show that the sample misled (too few tokens
listed, or a threshold far below the cutoff) it scores the row again: slow, exact, and next to never.

For CUDA alone: a program reads what its other threads wrote, after a barrier, which triton-ascend passes on as a GPU's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from npukv.ops.attention import triton as attending
from npukv.ops.hashing import reference
from npukv.ops.hashing import triton as scoring
from npukv.ops.hashing.triton_select import _bounds

#: Programs that fill the card, tokens per step, stages, and how many of a row's tokens the sample holds.
SIFT = {"PROGRAMS": 1024, "BLOCK": 1024, "STAGES": 1, "SAMPLE": 1024}
#: The cutoff's rank in the sample is that of the threshold, and as many of its standard deviations more, and 10.
MARGIN = 6.0
#: Scores below the cutoff that are counted one by one.
WINDOW = 64
#: Programs, listed tokens and keys per step, warps and stages of the launch that attends.
ATTEND = {"PROGRAMS": 528, "TILE": 256, "BLOCK": 32, "num_warps": 4, "STAGES": 3}
#: Threads across which one step's tokens lie.
LANES = tl.constexpr(128)


@triton.jit
def _free(begin, end, budget, sink, recent):
    """The tokens that compete (first, number), how many of them are needed, and how many sink tokens there are."""
    end = tl.maximum(begin, end)
    head = tl.minimum(sink, end - begin)
    free = tl.maximum(end - begin - sink - recent, 0)
    forced = end - begin - free
    return begin + head, free, tl.minimum(budget, end - begin) - forced, head


@triton.jit
def _stretch(free, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """Tokens of a program: whole steps."""
    return tl.cdiv(tl.cdiv(free, SPLITS), BLOCK) * BLOCK


@triton.jit
def _sampled(
    codes_row, least, pull, to_one, one, first, free, need, capacity,
    GROUP: tl.constexpr, WORDS: tl.constexpr, PLANES: tl.constexpr, CARRY: tl.constexpr, BITS: tl.constexpr,
    SAMPLE: tl.constexpr, MARGIN: tl.constexpr,
):  # fmt: skip
    """The cutoff, from tokens drawn one each from SAMPLE equal parts of the row's free ones."""
    i = tl.arange(0, SAMPLE)
    wide = free // SAMPLE
    drawn = ((i.to(tl.uint32) * 2654435769) >> 16).to(tl.int32) & 0x7FFF
    place = first + i * wide + i * (free - wide * SAMPLE) // SAMPLE + (drawn * wide >> 15)
    place = tl.minimum(place, capacity - 1)  # where there is nothing to draw
    codes = tl.load(codes_row + place[:, None] * WORDS + tl.arange(0, WORDS)[None, :]).to(tl.uint32, bitcast=True)
    score = scoring._distances(codes, least, pull, to_one, one, GROUP, PLANES, SAMPLE, CARRY)
    expected = tl.maximum(need, 0).to(tl.float32) * SAMPLE / tl.maximum(free, 1).to(tl.float32)
    rank = tl.minimum((expected + MARGIN * tl.sqrt(expected)).to(tl.int32) + 10, SAMPLE)
    cutoff = 0
    for b in tl.static_range(BITS):
        above = cutoff + (1 << (BITS - 1 - b))
        cutoff = tl.where(tl.sum((score < above).to(tl.int32), 0) < rank, above, cutoff)
    return cutoff


@triton.jit
def _listed(list_ptr, score, place, passed, found, BLOCK: tl.constexpr):
    """Append score << 16 | place where `passed`, in order; returns the new length.

    Eight tokens of a thread, LANES apart, are eight bytes of one number, which is added up over the threads at once.
    """
    PARTS: tl.constexpr = BLOCK // LANES
    part = tl.arange(0, PARTS)
    held = tl.reshape(passed.to(tl.int64), [PARTS, LANES])
    packed = tl.sum(held << (8 * part)[:, None].to(tl.int64), 0)
    running = tl.cumsum(packed, 0) - packed
    total = tl.sum(packed, 0)
    before = tl.zeros([PARTS], tl.int32) + found
    for p in tl.static_range(PARTS):
        number = ((total >> (8 * p)) & 255).to(tl.int32)
        before += tl.where(part > p, number, 0)
        found += number
    target = before[:, None] + ((running[None, :] >> (8 * part)[:, None].to(tl.int64)) & 255).to(tl.int32)
    target = tl.reshape(target, [BLOCK])
    tl.store(list_ptr + target, (score << 16) | place, mask=passed)
    return found


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def _sift_kernel(
    query_ptr, codes_ptr, length_ptr, start_ptr, list_ptr, fine_ptr, cutoff_ptr,
    capacity, kv_heads, budget, sink, recent, room,
    GROUP: tl.constexpr, WORDS: tl.constexpr, PLANES: tl.constexpr, BITS: tl.constexpr, CARRY: tl.constexpr,
    SPLITS: tl.constexpr, WITH_START: tl.constexpr, WINDOW: tl.constexpr, MARGIN: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr, SAMPLE: tl.constexpr,
):  # fmt: skip
    """list [rows, SPLITS, room]: score << 16 | place, of scores up to the row's cutoff, ascending places.

    fine [rows, SPLITS, WINDOW]: how many lie 0, 1, ... below the cutoff, or at least WINDOW - 1; cutoff [rows].
    """
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    begin, end = _bounds(length_ptr, start_ptr, row // kv_heads, capacity, WITH_START)
    lowest, free, need, _ = _free(begin, end, budget, sink, recent)
    least, pull, to_one = scoring._votes(query_ptr, row, GROUP, WORDS)
    one = tl.minimum(capacity, 1)
    codes_row = codes_ptr + row * capacity * WORDS
    cutoff = _sampled(
        codes_row, least, pull, to_one, one, lowest, free, need, capacity, GROUP, WORDS, PLANES, CARRY, BITS, SAMPLE,
        MARGIN,
    )  # fmt: skip
    cutoff = tl.where(need < free, cutoff, GROUP * WORDS * 32)
    cutoff = tl.where(need > 0, cutoff, -1)
    chunk = _stretch(free, SPLITS, BLOCK)
    first = lowest + split * chunk
    last = tl.minimum(first + chunk, lowest + free)
    whole = first + tl.maximum(last - first, 0) // BLOCK * BLOCK
    list_row = list_ptr + (row * SPLITS + split) * room
    lane, word = tl.arange(0, BLOCK), tl.arange(0, WORDS)
    found = 0
    for at in tl.range(first, whole, BLOCK, num_stages=STAGES):
        codes = tl.load(codes_row + at * WORDS + lane[:, None] * WORDS + word[None, :]).to(tl.uint32, bitcast=True)
        score = scoring._distances(codes, least, pull, to_one, one, GROUP, PLANES, BLOCK, CARRY)
        found = _listed(list_row, score, at - first + lane, score <= cutoff, found, BLOCK)
    if whole < last:
        held = whole + lane < last
        safe = tl.minimum(whole + lane, last - 1)
        codes = tl.load(codes_row + safe[:, None] * WORDS + word[None, :]).to(tl.uint32, bitcast=True)
        score = scoring._distances(codes, least, pull, to_one, one, GROUP, PLANES, BLOCK, CARRY)
        found = _listed(list_row, score, whole - first + lane, held & (score <= cutoff), found, BLOCK)
    tl.debug_barrier()  # the list is read by other threads than wrote it
    fine = tl.arange(0, WINDOW)
    binned = tl.zeros([WINDOW], tl.int32)
    for offset in range(0, found, 256):
        item = offset + tl.arange(0, 256)
        below = cutoff - (tl.load(list_row + tl.minimum(item, found - 1)) >> 16)
        binned += tl.histogram(tl.where(item < found, tl.minimum(below, WINDOW - 1), WINDOW - 1), WINDOW)
    binned -= tl.where(fine == WINDOW - 1, tl.cdiv(found, 256) * 256 - found, 0)
    tl.store(fine_ptr + (row * SPLITS + split) * WINDOW + fine, binned)
    if split == 0:
        tl.store(cutoff_ptr + row, cutoff)


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


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def _attend_kernel(
    query_codes_ptr, codes_ptr, list_ptr, fine_ptr, cutoff_ptr, chosen_ptr, length_ptr, start_ptr,
    query, key, value, outs, lses, scale, query_b, query_h, key_b, key_h, key_c, value_b, value_h, value_c,
    capacity, kv_heads, budget, sink, recent, room, rows_all,
    GROUP: tl.constexpr, WORDS: tl.constexpr, PLANES: tl.constexpr, BITS: tl.constexpr, CARRY: tl.constexpr,
    SPLITS: tl.constexpr, LEVELS: tl.constexpr, WITH_START: tl.constexpr, WINDOW: tl.constexpr, STEP: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, PADDED: tl.constexpr,
    TILE: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A share of a row's listed tokens, and attention to the chosen ones: outs [parts, B, Hq, 1, D], lses without D.

    `chosen` [rows, parts, ...] is scratch: a program reads what it wrote.
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
    fine, stretch = tl.arange(0, WINDOW), tl.arange(0, SPLITS)
    counts = tl.load(fine_ptr + (row * SPLITS + stretch[:, None]) * WINDOW + fine[None, :])
    cutoff = tl.load(cutoff_ptr + row)
    begin, end = _bounds(length_ptr, start_ptr, batch, capacity, WITH_START)
    lowest, free, need, sinks = _free(begin, end, budget, sink, recent)
    end = tl.maximum(begin, end)
    forced = end - begin - free
    chunk = _stretch(free, SPLITS, STEP)
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
    chosen = chosen_ptr + (row * tl.num_programs(0) + part) * tl.cdiv(SPLITS * room, tl.num_programs(0))
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
            of = tl.zeros([TILE], tl.int32)  # the stretch: the last one that begins at or before the item
            for b in tl.static_range(LEVELS):
                middle = of + (SPLITS >> (b + 1))
                of = tl.where(tl.gather(since_items, middle, 0) <= free_one, middle, of)
            place = free_one - tl.gather(since_items, of, 0)
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


def plan(rows: int, capacity: int) -> tuple[int, int]:
    """(programs per row, a power of 2; room for each one's tokens, which 16 bits tell apart)."""
    block = SIFT["BLOCK"]
    splits = max(1, SIFT["PROGRAMS"] // rows)
    splits = 1 << splits.bit_length() - 1  # at most so many
    splits = min(splits, 64, triton.next_power_of_2(triton.cdiv(capacity, block)))
    splits = max(splits, triton.next_power_of_2(triton.cdiv(capacity, 1 << 15)))
    return splits, triton.cdiv(triton.cdiv(capacity, splits), block) * block


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
    reference.check_budget(budget, sink, recent)
    batch, kv_heads, capacity, words = key_codes.shape
    heads, width = query.shape[1], query.shape[3]
    rows, group = batch * kv_heads, heads // kv_heads
    splits, room = plan(rows, capacity)
    query_codes = query_codes.contiguous()
    listed, fine = key_codes.new_empty(rows, splits, room), key_codes.new_empty(rows, splits, WINDOW)
    cutoff = key_codes.new_empty(rows)
    bounds = (capacity, kv_heads, budget, sink, recent, room)
    sizes = {"GROUP": group, "WORDS": words, "PLANES": scoring.planes(group), "CARRY": scoring.CARRY and words == 4}
    sizes |= {"BITS": (group * words * 32).bit_length(), "SPLITS": splits, "WITH_START": start is not None}
    sizes |= {"WINDOW": WINDOW}
    _sift_kernel[(rows, splits)](
        query_codes, key_codes, length, start, listed, fine, cutoff, *bounds, **sizes, MARGIN=MARGIN,
        BLOCK=SIFT["BLOCK"], STAGES=SIFT["STAGES"], SAMPLE=SIFT["SAMPLE"], num_warps=4,
    )  # fmt: skip
    parts = max(1, ATTEND["PROGRAMS"] // rows)
    parts = parts if parts < attending.PARTS else parts // attending.PARTS * attending.PARTS
    parts = min(parts, triton.cdiv(budget, ATTEND["BLOCK"]))
    chosen = key_codes.new_empty(rows, parts, triton.cdiv(splits * room, parts))
    outs = query.new_empty((parts, *query.shape), dtype=torch.float32)
    lses = query.new_empty((parts, *query.shape[:3]), dtype=torch.float32)
    scale = width**-0.5 if scale is None else scale
    _attend_kernel[(parts, rows)](
        query_codes, key_codes, listed, fine, cutoff, chosen, length, start, query, key, value, outs, lses, scale,
        *query.stride()[:2], *key.stride()[:3], *value.stride()[:3], *bounds, batch * heads, **sizes,
        LEVELS=splits.bit_length() - 1, STEP=SIFT["BLOCK"],
        WIDTH=width, ROWS=attending._padded(group), PADDED=attending._padded(width),
        TILE=ATTEND["TILE"], BLOCK=ATTEND["BLOCK"], STAGES=ATTEND["STAGES"], num_warps=ATTEND["num_warps"],
    )  # fmt: skip
    return attending._merge(outs, lses, query.dtype)
