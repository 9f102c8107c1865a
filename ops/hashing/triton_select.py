"""Triton kernels that select: scores are small integers, so their threshold is found by counting, not by sorting.

Three launches, none of which waits for the host or for another program of its own: count scores in 32 coarse bins per
stretch of tokens (`_score_kernel` does it as it scores); find the bin of the threshold and count the scores within it;
write the positions. Every program of the last two adds up its row's counts for itself, from which it knows the
threshold, how many equal scores to take, and where its first position goes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from npukv.ops.hashing import reference
from npukv.ops.hashing import triton as scoring

COARSE = 32
#: Programs that fill the card, and the most a row is split into. On an H200, of seven settings (up to 4096 tokens a
#: step, 16 warps, 128 splits) none was faster at all of 8 and 32 KV heads, 128K to 512K tokens.
PROGRAMS, MOST_SPLITS = 1024, 64
BLOCK = 1024


@triton.jit
def _bounds(length_ptr, start_ptr, batch, capacity, WITH_START: tl.constexpr):
    end = tl.minimum(tl.load(length_ptr + batch), capacity)
    begin = 0
    if WITH_START:
        begin = tl.load(start_ptr + batch)
    return begin, end


@triton.jit
def _forced_before(position, begin, end, sink, recent):
    """How many of the sink and recent tokens lie before a position."""
    head = tl.maximum(tl.minimum(position, tl.minimum(begin + sink, end)) - begin, 0)
    first_recent = tl.maximum(end - recent, tl.minimum(begin + sink, end))
    return head + tl.maximum(tl.minimum(position, end) - first_recent, 0)


@triton.jit
def _threshold(counts, need):
    """The bin in which the need-th lowest lies, and how many lie below it. counts: [BINS]."""
    passed = tl.cumsum(counts, 0) < need
    return tl.sum(passed.to(tl.int32), 0), tl.sum(tl.where(passed, counts, 0), 0)


@triton.jit
def _load_scores(row_ptr, position, stride, WHOLE: tl.constexpr):
    """WHOLE: the rows are padded to the programs' stretches, so that loads need no mask and are wide."""
    if WHOLE:
        return tl.load(row_ptr + position).to(tl.int32)
    return tl.load(row_ptr + tl.minimum(position, stride - 1)).to(tl.int32)


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def _coarse_kernel(
    scores_ptr, counts_ptr, length_ptr, start_ptr, capacity, kv_heads, sink, recent, chunk,
    BLOCK: tl.constexpr, SHIFT: tl.constexpr, COARSE: tl.constexpr, WITH_START: tl.constexpr,
):  # fmt: skip
    """counts [rows, splits, COARSE] of given int32 scores."""
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    begin, end = _bounds(length_ptr, start_ptr, row // kv_heads, capacity, WITH_START)
    binned = tl.zeros([COARSE], tl.int32)
    outside = 0
    for offset in range(0, chunk, BLOCK):
        position = split * chunk + offset + tl.arange(0, BLOCK)
        free = (position >= begin + sink) & (position < end - recent)
        score = tl.load(scores_ptr + row * capacity + tl.minimum(position, capacity - 1), mask=free, other=0)
        binned += tl.histogram(tl.where(free, tl.minimum(score >> SHIFT, COARSE - 1), COARSE - 1), COARSE)
        outside += BLOCK - tl.sum(free.to(tl.int32), 0)
    bins = tl.arange(0, COARSE)
    binned -= tl.where(bins == COARSE - 1, outside, 0)
    tl.store(counts_ptr + (row * tl.num_programs(1) + split) * COARSE + bins, binned)


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def _fine_kernel(
    scores_ptr, counts_ptr, fine_ptr, length_ptr, start_ptr, capacity, stride, kv_heads, budget, sink, recent, chunk,
    BLOCK: tl.constexpr, SHIFT: tl.constexpr, COARSE: tl.constexpr, FINE: tl.constexpr, SPLITS: tl.constexpr,
    WITH_START: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """fine [rows, splits, FINE]: the scores within the coarse bin that holds the threshold."""
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    begin, end = _bounds(length_ptr, start_ptr, row // kv_heads, capacity, WITH_START)
    bins = tl.arange(0, COARSE)
    stretch = tl.arange(0, SPLITS)
    counts = tl.load(counts_ptr + (row * SPLITS + stretch[:, None]) * COARSE + bins[None, :])
    need = tl.minimum(budget, end - begin) - _forced_before(end, begin, end, sink, recent)
    coarse_bin, _ = _threshold(tl.sum(counts, 0), need)
    binned = tl.zeros([FINE], tl.int32)
    outside = 0
    for offset in range(0, chunk, BLOCK):
        first = split * chunk + offset
        if first < end:
            position = first + tl.arange(0, BLOCK)
            free = (position >= begin + sink) & (position < end - recent)
            score = _load_scores(scores_ptr + row * stride, position, stride, WHOLE)
            free = free & (tl.minimum(score >> SHIFT, COARSE - 1) == coarse_bin)
            binned += tl.histogram(tl.where(free, score - (coarse_bin << SHIFT), FINE - 1), FINE)
            outside += BLOCK - tl.sum(free.to(tl.int32), 0)
    fine = tl.arange(0, FINE)
    binned -= tl.where(fine == FINE - 1, outside, 0)
    tl.store(fine_ptr + (row * SPLITS + split) * FINE + fine, binned)


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def _compact_kernel(
    scores_ptr, counts_ptr, fine_ptr, indices_ptr, length_ptr, start_ptr,
    capacity, stride, kv_heads, budget, sink, recent, chunk,
    BLOCK: tl.constexpr, SHIFT: tl.constexpr, COARSE: tl.constexpr, FINE: tl.constexpr, SPLITS: tl.constexpr,
    WITH_START: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """indices [rows, budget]: positions below the threshold, the last of those at it, sink and recent; ascending."""
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    begin, end = _bounds(length_ptr, start_ptr, row // kv_heads, capacity, WITH_START)
    bins, fine = tl.arange(0, COARSE), tl.arange(0, FINE)
    stretch = tl.arange(0, SPLITS)
    counts = tl.load(counts_ptr + (row * SPLITS + stretch[:, None]) * COARSE + bins[None, :])
    within = tl.load(fine_ptr + (row * SPLITS + stretch[:, None]) * FINE + fine[None, :])
    chosen = tl.minimum(budget, end - begin)
    need = chosen - _forced_before(end, begin, end, sink, recent)
    coarse_bin, lower = _threshold(tl.sum(counts, 0), need)
    fine_bin, lower_within = _threshold(tl.sum(within, 0), need - lower)
    quota = need - lower - lower_within  # of those at the threshold, the last ones
    threshold = (coarse_bin << SHIFT) + fine_bin
    below = tl.sum(tl.where(bins[None, :] < coarse_bin, counts, 0), 1)
    below += tl.sum(tl.where(fine[None, :] < fine_bin, within, 0), 1)  # [SPLITS]
    equal = tl.sum(tl.where(fine[None, :] == fine_bin, within, 0), 1)
    equal_here = tl.sum(tl.where(stretch == split, equal, 0), 0)
    equal_after = tl.sum(tl.where(stretch > split, equal, 0), 0)
    taken_from_here = tl.minimum(quota, equal_here + equal_after)
    skipped = equal_here - (taken_from_here - tl.minimum(quota, equal_after))
    written = tl.sum(tl.where(stretch < split, below, 0), 0) + quota - taken_from_here
    written += _forced_before(split * chunk, begin, end, sink, recent)
    equals = 0
    for offset in range(0, chunk, BLOCK):
        first = split * chunk + offset
        if (first < end) & (first + BLOCK > begin):
            position = first + tl.arange(0, BLOCK)
            held = (position >= begin) & (position < end)
            free = held & (position >= begin + sink) & (position < end - recent)
            score = _load_scores(scores_ptr + row * stride, position, stride, WHOLE)
            at_threshold = free & (score == threshold)
            sure = held & ((free == 0) | (score < threshold))
            both = sure.to(tl.int32) + (at_threshold.to(tl.int32) << 16)
            running = tl.cumsum(both, 0)
            equals_until = equals + (running >> 16)
            place = written + (running & 0xFFFF) + tl.maximum(equals_until - skipped, 0) - 1
            take = sure | (at_threshold & (equals_until > skipped))
            target = tl.minimum(tl.maximum(place, 0), budget - 1)
            tl.store(indices_ptr + row * budget + target, position, mask=take)
            total = tl.sum(both, 0)
            equals_now = equals + (total >> 16)
            written += total & 0xFFFF
            equals = equals_now
    if split == 0:
        for offset in range(0, budget - chosen, BLOCK):
            place = chosen + offset + tl.arange(0, BLOCK)
            tl.store(indices_ptr + row * budget + tl.minimum(place, budget - 1), -1, mask=place < budget)


@triton.jit
def _lowest_kernel(scores_ptr, lowest_ptr, capacity, blocks, PAGE: tl.constexpr, BLOCKS: tl.constexpr):
    """The lowest score of every PAGE tokens; [rows, capacity] -> [rows, blocks]."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    position = block[:, None] * PAGE + tl.arange(0, PAGE)[None, :]
    held = position < capacity
    scores = tl.load(scores_ptr + row * capacity + tl.minimum(position, capacity - 1), mask=held, other=2147483647)
    tl.store(lowest_ptr + row * blocks + tl.minimum(block, blocks - 1), tl.min(scores, 1), mask=block < blocks)


def plan(rows: int, capacity: int) -> tuple[int, int]:
    """(tokens per program, a multiple of BLOCK; programs per row, a power of 2)."""
    wanted = min(MOST_SPLITS, triton.next_power_of_2(triton.cdiv(PROGRAMS, rows)))
    chunk = triton.cdiv(triton.cdiv(capacity, wanted), BLOCK) * BLOCK
    return chunk, triton.next_power_of_2(triton.cdiv(capacity, chunk))


def shift_of(largest: int) -> int:
    """Low bits of a score that its coarse bin leaves out; the last bin also takes what would need one bin more."""
    shift = 0
    while largest > COARSE << shift:
        shift += 1
    return shift


def select_top_k(
    scores: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    start: torch.Tensor | None = None,
    largest: int = 0,
) -> torch.Tensor:
    reference.check_budget(budget, sink, recent)
    batch, kv_heads, capacity = scores.shape
    scores = scores.contiguous()
    chunk, splits = plan(batch * kv_heads, capacity)
    counts = scores.new_empty(batch * kv_heads, splits, COARSE)
    shift = shift_of(largest)
    _coarse_kernel[(batch * kv_heads, splits)](
        scores, counts, length, start, capacity, kv_heads, sink, recent, chunk,
        BLOCK=BLOCK, SHIFT=shift, COARSE=COARSE, WITH_START=start is not None, num_warps=4,
    )  # fmt: skip
    whole = capacity == splits * chunk
    bounds = (length, start, capacity, capacity, budget, sink, recent, chunk, shift, largest)
    return _choose(scores, counts, *bounds, whole)


def hamming_select(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    reference.check_budget(budget, sink, recent)
    batch, kv_heads, capacity, words = key_codes.shape
    rows = batch * kv_heads
    chunk, splits = plan(rows, capacity)
    largest = query_codes.shape[1] // kv_heads * words * 32
    shift = shift_of(largest)
    counts = key_codes.new_empty(rows, splits, COARSE)
    scores = key_codes.new_empty(rows, splits * chunk, dtype=torch.int16)
    scoring.launch_scores(
        query_codes, key_codes, length, start, scores, counts, splits * chunk, sink, recent, chunk, splits, shift
    )
    bounds = (length, start, capacity, splits * chunk, budget, sink, recent, chunk, shift, largest)
    return _choose(scores, counts, *bounds, True)


def _choose(scores, counts, length, start, capacity, stride, budget, sink, recent, chunk, shift, largest, whole):
    rows, splits, _ = counts.shape
    kv_heads = rows // length.shape[0]
    bins = triton.next_power_of_2(max(1 << shift, largest - (COARSE - 1 << shift) + 1))
    fine = counts.new_empty(rows, splits, bins)
    indices = counts.new_empty(rows // kv_heads, kv_heads, budget)
    bounds = (length, start, capacity, stride, kv_heads, budget, sink, recent, chunk)
    sizes = {"BLOCK": BLOCK, "SHIFT": shift, "COARSE": COARSE, "FINE": bins, "SPLITS": splits}
    sizes |= {"WITH_START": start is not None, "WHOLE": whole, "num_warps": 4}
    _fine_kernel[(rows, splits)](scores, counts, fine, *bounds, **sizes)
    _compact_kernel[(rows, splits)](scores, counts, fine, indices, *bounds, **sizes)
    return indices


def select_blocks(
    scores: torch.Tensor,
    length: torch.Tensor,
    blocks: int,
    sink_blocks: int,
    recent_blocks: int,
    largest: int = 0,
) -> torch.Tensor:
    batch, kv_heads, capacity = scores.shape
    total = triton.cdiv(capacity, reference.BLOCK)
    lowest = scores.new_empty(batch, kv_heads, total)
    _lowest_kernel[(batch * kv_heads, triton.cdiv(total, 16))](
        scores.contiguous(), lowest, capacity, total, PAGE=reference.BLOCK, BLOCKS=16, num_warps=4
    )
    held = (length + (reference.BLOCK - 1)) // reference.BLOCK
    return select_top_k(lowest, held, blocks, sink_blocks, recent_blocks, None, largest)
