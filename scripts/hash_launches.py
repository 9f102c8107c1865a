"""Decode attention by hash codes in launches that share out its work anew, to be tried (`try_hash_selection.py`).

1. begin: encode the group's queries and the new key, append it, and score a sample of the row with many programs, each
   of which leaves the counts of its part. The operators' first launch scores a smaller sample in every program.
2. sift: the cutoff from those counts; then the codes, the next step's while this one's are scored. A token up to the
   cutoff is listed and counted. The first step's codes are on their way before anything else is known.
3. attend: the exact threshold from the row's counts, then an equal share of the row's listed tokens: which of them are
   chosen, and keys and values of these alone.
4. merge: attention's own.

Exact whatever the sample says: see ops/hashing/triton_attend.py, whose lists, counts and second chance these are. For
codes of 128 bits and groups of up to 8 queries.
"""

from __future__ import annotations

import hash_attend
import torch
import triton
import triton.language as tl

from npukv.ops.attention import triton as attending
from npukv.ops.hashing import triton as scoring
from npukv.ops.hashing import triton_sift as sifting
from npukv.ops.hashing.triton_select import _bounds

#: Programs over all rows, at most PIECES of one row, that draw PART tokens each.
BEGIN = {"PROGRAMS": 2048, "PIECES": 32, "PART": 256, "num_warps": 4}
#: Programs, most of a row, tokens per step, warps; how the list is counted at its end: "atomics" or "histogram".
SIFT = {"PROGRAMS": 528, "SPLITS": 64, "BLOCK": 1024, "COUNT": "histogram", "num_warps": 4}
#: Programs, listed tokens looked at and keys loaded per step, stages, warps.
ATTEND = {"PROGRAMS": 528, "TILE": 256, "BLOCK": 32, "STAGES": 3, "num_warps": 4}
MARGIN, WINDOW, MOST_BINS, WORDS = 6.0, 64, 128, 4


@triton.jit
def _pulled(codes, mask0, side0, mask1, side1, mask2, side2, one, PLANES: tl.constexpr, BLOCK: tl.constexpr):
    """As `scoring._carried`, of masks that are loaded."""
    a, b, c, d = scoring._quarters(side0[None, :] ^ (codes & mask0[None, :]), BLOCK)
    total, first = a ^ b ^ c, scoring._majority(a, b, c)
    differ = scoring.popcount(total) + scoring.popcount(d)
    if PLANES == 1:
        differ += scoring.popcount(first) << one
    else:
        a, b, c, d = scoring._quarters(side1[None, :] ^ (codes & mask1[None, :]), BLOCK)
        total, carry = a ^ b ^ c, scoring._majority(a, b, c)
        differ += scoring.popcount(total ^ d ^ first) << one
        second = scoring._majority(total, d, first)
        first = carry
        if PLANES == 3:
            a, b, c, d = scoring._quarters(side2[None, :] ^ (codes & mask2[None, :]), BLOCK)
            total, carry = a ^ b ^ c, scoring._majority(a, b, c)
            differ += (scoring.popcount(total) + scoring.popcount(d ^ first ^ second)) << 2
            second = scoring._majority(d, first, second)
            first = carry
        differ += (scoring.popcount(first) + scoring.popcount(second)) << PLANES
    return differ


@triton.jit
def _masks(masks_ptr, row, PLANES: tl.constexpr, WORDS: tl.constexpr):
    at = masks_ptr + row * (2 * PLANES * WORDS) + tl.arange(0, WORDS)
    last: tl.constexpr = 2 * PLANES - 2  # repeated where there are fewer than three
    second: tl.constexpr = 2 if PLANES > 1 else 0
    mask0, side0 = tl.load(at), tl.load(at + WORDS)
    mask1, side1 = tl.load(at + second * WORDS), tl.load(at + (second + 1) * WORDS)
    mask2, side2 = tl.load(at + last * WORDS), tl.load(at + (last + 1) * WORDS)
    u = tl.uint32
    return (
        mask0.to(u, bitcast=True), side0.to(u, bitcast=True), mask1.to(u, bitcast=True), side1.to(u, bitcast=True),
        mask2.to(u, bitcast=True), side2.to(u, bitcast=True),
    )  # fmt: skip


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def _begin_kernel(
    query_ptr, key_ptr, value_ptr, weights_ptr, keys_ptr, values_ptr, codes_ptr, slot_ptr, length_ptr, start_ptr,
    query_codes_ptr, masks_ptr, sample_ptr, totals_ptr,
    q_b, q_h, k_b, k_h, v_b, v_h, capacity, kv_heads, budget, sink, recent,
    GROUP: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, D_LIMIT: tl.constexpr, WORDS: tl.constexpr,
    WIDE: tl.constexpr, PLANES: tl.constexpr, WITH_START: tl.constexpr, PIECES: tl.constexpr, PART: tl.constexpr,
    BINS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """sample [rows, PIECES, BINS]: counted pulls, the last bin those from it on; masks [rows, 2 PLANES, WORDS]; zeros
    to totals."""
    row = tl.program_id(0).to(tl.int64)
    piece = tl.program_id(1)
    batch, head = row // kv_heads, row % kv_heads
    dim, column = tl.arange(0, D_LIMIT), tl.arange(0, WORDS * 32)
    word, vector = tl.arange(0, WORDS), tl.arange(0, ROWS)
    inside = dim < D
    safe = dim
    if D < D_LIMIT:
        safe = tl.minimum(dim, D - 1)
    weights = tl.load(
        weights_ptr + (head * D + safe[:, None]) * (WORDS * 32) + column[None, :], mask=inside[:, None], other=0.0
    )
    new = tl.load(key_ptr + batch * k_b + head * k_h + safe, mask=inside, other=0.0)
    x = tl.where((vector == GROUP)[:, None], new[None, :], 0.0).to(new.dtype)
    query_head = head * GROUP + tl.minimum(vector, GROUP - 1)
    x += tl.load(
        query_ptr + batch * q_b + query_head[:, None] * q_h + safe[None, :],
        mask=(vector < GROUP)[:, None] & inside[None, :], other=0.0,
    )  # fmt: skip
    begin, end = _bounds(length_ptr, start_ptr, batch, capacity, WITH_START)
    first, free, _, _ = sifting._free(begin, end, budget, sink, recent)
    i = piece * PART + tl.arange(0, PART)
    wide = free // (PIECES * PART)
    drawn = ((i.to(tl.uint32) * 2654435769) >> 16).to(tl.int32) & 0x7FFF
    place = first + i * wide + i * (free - wide * PIECES * PART) // (PIECES * PART) + (drawn * wide >> 15)
    place = tl.minimum(place, capacity - 1)  # where there is nothing to draw
    codes_row = codes_ptr + row * capacity * WORDS
    codes = tl.load(codes_row + place[:, None] * WORDS + word[None, :]).to(tl.uint32, bitcast=True)

    if WIDE:
        projected = tl.dot(x.to(tl.float32), weights.to(tl.float32), input_precision="ieee")
    else:
        projected = tl.dot(x, weights, input_precision="ieee")
    bits = (projected > 0).to(tl.int32)
    ones = tl.reshape(tl.sum(tl.where((vector < GROUP)[:, None], bits, 0), 0), [WORDS, 32])
    majority = tl.maximum(ones, GROUP - ones)
    pull = (2 * majority - GROUP) // (2 - GROUP % 2)
    to_one = tl.where(2 * ones > GROUP, pull, 0)
    one = tl.minimum(capacity, 1)
    score = scoring._pulled(codes, pull, to_one, one, PLANES, PART, True)
    bins = tl.arange(0, BINS)
    counted = tl.histogram(tl.minimum(score, BINS - 1), BINS)
    tl.store(sample_ptr + (row * PIECES + piece) * BINS + bins, counted)
    if piece == 0:
        for p in tl.static_range(PLANES):
            at = masks_ptr + (row * PLANES + p) * (2 * WORDS) + word
            tl.store(at, scoring._plane(pull, p).to(tl.int32, bitcast=True))
            tl.store(at + WORDS, scoring._plane(to_one, p).to(tl.int32, bitcast=True))
        tl.store(totals_ptr + row * WINDOW + tl.arange(0, WINDOW), tl.zeros([WINDOW], tl.int32))
    if piece == PIECES - 1:
        slot = tl.load(slot_ptr + batch)
        fits = tl.where(slot < capacity, D, 0)
        at = row * capacity + tl.minimum(slot, capacity - 1)
        packed = tl.sum(tl.reshape(bits, [ROWS, WORDS, 32]) << tl.arange(0, 32)[None, None, :], 2)
        target = query_codes_ptr + (row * GROUP + tl.minimum(vector, GROUP - 1))[:, None] * WORDS + word[None, :]
        tl.store(target, packed, mask=(vector < GROUP)[:, None])
        code = tl.sum(tl.where((vector == GROUP)[:, None], packed, 0), 0)
        tl.store(codes_ptr + at * WORDS + word, code, mask=word < fits)
        value = tl.load(value_ptr + batch * v_b + head * v_h + safe, mask=inside, other=0.0)
        tl.store(keys_ptr + at * D + safe, new, mask=dim < fits)
        tl.store(values_ptr + at * D + safe, value, mask=dim < fits)


@triton.jit
def _whole(at, capacity, BLOCK: tl.constexpr, GUARD: tl.constexpr):
    """Where a step's loads begin: earlier than the step where it would leave the row."""
    return at if GUARD else tl.minimum(at, capacity - BLOCK)


@triton.jit
def _step(codes_row, at, capacity, lane, word, WORDS: tl.constexpr, BLOCK: tl.constexpr, GUARD: tl.constexpr):
    """A step's codes [BLOCK, WORDS]; GUARD: of a row shorter than a step."""
    whole = _whole(at, capacity, BLOCK, GUARD)
    codes = codes_row + whole.to(tl.int64) * WORDS + lane[:, None] * WORDS + word[None, :]
    if GUARD:
        codes = codes_row + tl.minimum(whole + lane, capacity - 1)[:, None] * WORDS + word[None, :]
    return tl.load(codes)


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def _sift_kernel(
    masks_ptr, sample_ptr, codes_ptr, length_ptr, start_ptr, list_ptr, fine_ptr, totals_ptr, listed_ptr, cutoff_ptr,
    capacity, kv_heads, budget, sink, recent, room, largest,
    WORDS: tl.constexpr, PLANES: tl.constexpr, SPLITS: tl.constexpr, WITH_START: tl.constexpr, WINDOW: tl.constexpr,
    MARGIN: tl.constexpr, PIECES: tl.constexpr, PART: tl.constexpr, BINS: tl.constexpr,
    BLOCK: tl.constexpr, GUARD: tl.constexpr, ATOMICS: tl.constexpr,
):  # fmt: skip
    """list [rows, SPLITS, room]: pull << 16 | place, of pulls up to the row's cutoff, ascending places.

    fine [rows, WINDOW, SPLITS]: how many lie 0, 1, ... below the cutoff, or at least WINDOW - 1; totals [rows, WINDOW]
    without SPLITS, listed [rows, SPLITS] without WINDOW; cutoff [rows].
    """
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    begin, end = _bounds(length_ptr, start_ptr, row // kv_heads, capacity, WITH_START)
    lowest, free, need, _ = sifting._free(begin, end, budget, sink, recent)
    chunk = sifting._stretch(free, SPLITS, BLOCK)
    first = lowest + split * chunk
    last = tl.minimum(first + chunk, lowest + free)
    codes_row = codes_ptr + row * capacity * WORDS
    lane, word = tl.arange(0, BLOCK), tl.arange(0, WORDS)
    codes = _step(codes_row, first, capacity, lane, word, WORDS, BLOCK, GUARD)
    mask0, side0, mask1, side1, mask2, side2 = _masks(masks_ptr, row, PLANES, WORDS)
    bins, fine = tl.arange(0, BINS), tl.arange(0, WINDOW)
    pieces = tl.arange(0, PIECES)[:, None] * BINS + bins[None, :]
    counted = tl.sum(tl.load(sample_ptr + row * (PIECES * BINS) + pieces), 0)
    fine_own, totals = fine_ptr + row * WINDOW * SPLITS + split, totals_ptr + row * WINDOW
    if ATOMICS:
        tl.store(fine_own + fine * SPLITS, tl.zeros([WINDOW], tl.int32))
    one = tl.minimum(capacity, 1)
    expected = tl.maximum(need, 0).to(tl.float32) * (PIECES * PART) / tl.maximum(free, 1).to(tl.float32)
    rank = (expected + MARGIN * tl.sqrt(expected)).to(tl.int32) + 10
    cutoff = tl.sum((tl.cumsum(counted, 0) < rank).to(tl.int32), 0)
    cutoff = tl.where(cutoff < BINS - 1, tl.minimum(cutoff, largest), largest)  # the last bin holds all from it on
    cutoff = tl.where(need < free, cutoff, largest)
    cutoff = tl.where(need > 0, cutoff, -1)
    list_row = list_ptr + (row * SPLITS + split) * room
    found = 0
    for at in tl.range(first, last, BLOCK):
        here = codes.to(tl.uint32, bitcast=True)
        ahead = tl.where(at + BLOCK < last, at + BLOCK, at)  # after the last one, what is at hand
        codes = _step(codes_row, ahead, capacity, lane, word, WORDS, BLOCK, GUARD)
        score = _pulled(here, mask0, side0, mask1, side1, mask2, side2, one, PLANES, BLOCK)
        left = lane - (at - _whole(at, capacity, BLOCK, GUARD))  # below 0: a token of the step before
        passed = (score <= cutoff) & (left.to(tl.uint32, bitcast=True) < (last - at).to(tl.uint32))
        found = sifting._listed(list_row, score, at - first + left, passed, found, BLOCK)
    tl.debug_barrier()  # the list is read by other threads than wrote it
    if ATOMICS:
        for offset in range(0, found, 256):
            item = offset + tl.arange(0, 256)
            below = cutoff - (tl.load(list_row + tl.minimum(item, found - 1)) >> 16)
            below = tl.minimum(below, WINDOW - 1)
            tl.atomic_add(fine_own + below * SPLITS, 1, mask=item < found, sem="relaxed")
            tl.atomic_add(totals + below, 1, mask=item < found, sem="relaxed")
    else:
        binned = tl.zeros([WINDOW], tl.int32)
        for offset in range(0, found, 256):
            item = offset + tl.arange(0, 256)
            below = cutoff - (tl.load(list_row + tl.minimum(item, found - 1)) >> 16)
            binned += tl.histogram(tl.where(item < found, tl.minimum(below, WINDOW - 1), WINDOW - 1), WINDOW)
        binned -= tl.where(fine == WINDOW - 1, tl.cdiv(found, 256) * 256 - found, 0)
        tl.store(fine_own + fine * SPLITS, binned)
        tl.atomic_add(totals + fine, binned, mask=binned > 0, sem="relaxed")
    tl.store(listed_ptr + row * SPLITS + split, found)
    if split == 0:
        tl.store(cutoff_ptr + row, cutoff)


def plan(rows: int, capacity: int) -> tuple[int, int]:
    """(programs per row, a power of 2; room for each one's tokens, which 16 bits tell apart)."""
    block, most = SIFT["BLOCK"], 8 * sifting.LANES.value
    if block > most:  # eight counts are bytes of one number when the list is written
        raise ValueError(f"got steps of {block} tokens, expected at most {most}")
    splits = max(1, SIFT["PROGRAMS"] // rows)
    splits = min(1 << splits.bit_length() - 1, SIFT["SPLITS"], triton.next_power_of_2(triton.cdiv(capacity, block)))
    splits = max(splits, triton.next_power_of_2(triton.cdiv(capacity, 1 << 15)))
    return splits, triton.cdiv(triton.cdiv(capacity, splits), block) * block


def hash_decode(
    query: torch.Tensor,
    token: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    cache: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    slot: torch.Tensor,
    length: torch.Tensor,
    bounds: tuple[int, int, int],
    start: torch.Tensor | None = None,
    scale: float | None = None,
    stop: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`hash_step` at `slot`, which is length - 1, then `hashed_attention`; cache: keys, values, codes, contiguous.

    `bounds`: budget, sink and recent, which is at least 1. `stop`: after "begin" or "sift", to time them.
    """
    key, value = (scoring._rows(x) for x in token)
    keys, values, codes = cache
    query = scoring._rows(query)
    batch, kv_heads, capacity, words = codes.shape
    heads, width = query.shape[1], query.shape[3]
    rows, group = batch * kv_heads, heads // kv_heads
    count = scoring.planes(group)
    if words != WORDS or count > 3 or bounds[2] < 1:
        raise ValueError(f"got {words} words, a group of {group}, recent {bounds[2]}: expected 4, up to 8, at least 1")
    pieces = max(1, min(BEGIN["PIECES"], BEGIN["PROGRAMS"] // rows))
    pieces = 1 << pieces.bit_length() - 1
    largest = group * words * 32 // (2 - group % 2)
    bins = min(MOST_BINS, triton.next_power_of_2(largest))
    splits, room = plan(rows, capacity)
    new = codes.new_empty
    asked, masks, sample = new(batch, heads, words), new(rows, 2 * count, words), new(rows, pieces, bins)
    cutoff, totals = new(rows), new(rows, WINDOW)
    sizes = {"WORDS": words, "PLANES": count, "WITH_START": start is not None, "WINDOW": WINDOW}
    drawn = {"PIECES": pieces, "PART": BEGIN["PART"], "BINS": bins}
    _begin_kernel[(rows, pieces)](
        query, key, value, weights, keys, values, codes, slot, length, start, asked, masks, sample, totals,
        query.stride(0), query.stride(1), key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        capacity, kv_heads, *bounds, GROUP=group, ROWS=max(16, triton.next_power_of_2(group + 1)),
        D=width, D_LIMIT=scoring._limit(width), WIDE=scoring._wide(key, weights),
        **sizes, **drawn, num_warps=BEGIN["num_warps"],
    )  # fmt: skip
    if stop == "begin":
        return query, masks
    lists, listed, fine = new(rows, splits, room), new(rows, splits), new(rows, WINDOW, splits)
    sizes |= {"SPLITS": splits}
    _sift_kernel[(rows, splits)](
        masks, sample, codes, length, start, lists, fine, totals, listed, cutoff,
        capacity, kv_heads, *bounds, room, largest,
        MARGIN=MARGIN, BLOCK=SIFT["BLOCK"], GUARD=capacity < SIFT["BLOCK"], ATOMICS=SIFT["COUNT"] == "atomics",
        **sizes, **drawn, num_warps=SIFT["num_warps"],
    )  # fmt: skip
    if stop == "sift":
        return query, lists
    parts = max(1, ATTEND["PROGRAMS"] // rows)
    parts = parts if parts < attending.PARTS else parts // attending.PARTS * attending.PARTS
    parts = min(parts, triton.cdiv(bounds[0], 8))
    chosen = new(rows, parts, triton.cdiv(splits * room, parts))
    outs = query.new_empty((parts, *query.shape), dtype=torch.float32)
    lses = query.new_empty((parts, *query.shape[:3]), dtype=torch.float32)
    hash_attend._attend_kernel[(parts, rows)](
        asked, codes, lists, fine, totals, listed, cutoff, chosen, length, start, query, keys, values, outs, lses,
        width**-0.5 if scale is None else scale,
        *query.stride()[:2], *keys.stride()[:3], *values.stride()[:3], capacity, kv_heads, *bounds, room, batch * heads,
        GROUP=group, BITS=(group * words * 32).bit_length(), LEVELS=splits.bit_length() - 1, STEP=SIFT["BLOCK"],
        WIDTH=width, ROWS=attending._padded(group), PADDED=attending._padded(width), TILE=ATTEND["TILE"],
        BLOCK=ATTEND["BLOCK"], STAGES=ATTEND["STAGES"], num_warps=ATTEND["num_warps"],
        **sizes,
    )  # fmt: skip
    return attending._merge(outs, lses, query.dtype)
