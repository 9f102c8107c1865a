"""A decode step by hash codes in four launches, each of which begins before the one before it has ended.

1. begin: encode the group's queries and the new key, append it, and score a sample of the row with many programs, each
   of which leaves the counts of its part.
2. sift: the cutoff from those counts; then the codes, the next step's while this one's are scored. A token up to the
   cutoff is listed and counted. The first step's codes are on their way before anything else is known.
3. attend: the exact threshold from the row's counts, then an equal share of the row's listed tokens: which of them are
   chosen, and keys and values of these alone.
4. merge the shares.

Exact whatever the sample says: `triton_attend` explains lists, counts and the second chance. There the sample is scored
by every program that sifts, and the token appended by an operator of its own. For CUDA: programs read what their other
threads wrote, and from compute capability 9 on a launch waits for the one before it by itself, so that its programs
are in place and have loaded what no launch writes. For codes of 128 bits and groups of up to 8 queries.
"""

from __future__ import annotations

import torch
import triton

from npukv.backends.cuda_launch import early
from npukv.ops.attention import triton as attending
from npukv.ops.hashing import reference
from npukv.ops.hashing import triton as scoring
from npukv.ops.hashing import triton_sift as sifting
from npukv.ops.hashing.triton_decode_attend import attend_kernel
from npukv.ops.hashing.triton_decode_begin import begin_kernel
from npukv.ops.hashing.triton_decode_merge import merge_kernel
from npukv.ops.hashing.triton_decode_sift import sift_kernel

#: Programs over all rows, at most PIECES of one row, that draw SAMPLE tokens together, LEAST to PART each.
BEGIN = {"PROGRAMS": 128, "PIECES": 32, "SAMPLE": 8192, "LEAST": 256, "PART": 1024, "num_warps": 8}
#: Programs, most of a row, tokens per step, warps.
SIFT = {"PROGRAMS": 528, "SPLITS": 64, "BLOCK": 1024, "num_warps": 4}
#: Programs, keys per step, stages; listed tokens looked at per step and warps, for up to FEW rows and for more.
ATTEND = {"PROGRAMS": 528, "BLOCK": 64, "STAGES": 3}
FEW, ATTEND_FEW, ATTEND_MANY = 16, {"TILE": 128, "num_warps": 2}, {"TILE": 256, "num_warps": 4}
#: Columns of the output that a program of the merge adds up.
COLUMNS = 64
#: As in `triton_sift`; the sample counts scores up to MOST_BINS - 1 one by one.
MARGIN, WINDOW, MOST_BINS, WORDS = 6.0, 64, 128, 4


def plan(rows: int, capacity: int) -> tuple[int, int]:
    """(programs per row that sift, a power of 2; room for each one's tokens, which 16 bits tell apart)."""
    block, most = SIFT["BLOCK"], 8 * sifting.LANES.value
    if block > most:  # eight counts are bytes of one number when the list is written
        raise ValueError(f"got steps of {block} tokens, expected at most {most}")
    splits = max(1, SIFT["PROGRAMS"] // rows)
    splits = min(1 << splits.bit_length() - 1, SIFT["SPLITS"], triton.next_power_of_2(triton.cdiv(capacity, block)))
    splits = max(splits, triton.next_power_of_2(triton.cdiv(capacity, 1 << 15)))
    return splits, triton.cdiv(triton.cdiv(capacity, splits), block) * block


def sample(rows: int) -> tuple[int, int]:
    """(programs per row that draw the sample, a power of 2; tokens of each, likewise)."""
    pieces = max(1, min(BEGIN["PIECES"], BEGIN["PROGRAMS"] // rows))
    pieces = 1 << pieces.bit_length() - 1
    return pieces, min(BEGIN["PART"], max(BEGIN["LEAST"], BEGIN["SAMPLE"] // pieces))


def hash_decode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    weights: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    codes: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    start: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference."""
    reference.check_budget(budget, sink, recent)
    bounds = budget, sink, recent
    query, key, value = (scoring._rows(x) for x in (query, key, value))
    batch, kv_heads, capacity, words = codes.shape
    heads, width = query.shape[1], query.shape[3]
    rows, group = batch * kv_heads, heads // kv_heads
    count = scoring.planes(group)
    largest = group * words * 32 // (2 - group % 2)
    bins = min(MOST_BINS, triton.next_power_of_2(largest))
    pieces, part = sample(rows)
    splits, room = plan(rows, capacity)
    new, launch = codes.new_empty, early(codes.device)
    asked, masks, counts = new(batch, heads, words), new(rows, 2 * count, words), new(rows, pieces, bins)
    cutoff, totals = new(rows), new(rows, WINDOW)
    sizes = {"WORDS": words, "PLANES": count, "WITH_START": start is not None, "WINDOW": WINDOW} | launch
    drawn = {"PIECES": pieces, "PART": part, "BINS": bins}
    begin_kernel[(rows, pieces)](
        query, key, value, weights, keys, values, codes, length, start, asked, masks, counts, totals,
        query.stride(0), query.stride(1), key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        capacity, kv_heads, *bounds, GROUP=group, ROWS=max(16, triton.next_power_of_2(group + 1)),
        D=width, D_LIMIT=scoring._limit(width), WIDE=scoring._wide(key, weights),
        **sizes, **drawn, num_warps=BEGIN["num_warps"],
    )  # fmt: skip
    lists, listed, fine = new(rows, splits, room), new(rows, splits), new(rows, WINDOW, splits)
    sizes |= {"SPLITS": splits}
    sift_kernel[(rows, splits)](
        masks, counts, codes, length, start, lists, fine, totals, listed, cutoff,
        capacity, kv_heads, *bounds, room, largest,
        MARGIN=MARGIN, BLOCK=SIFT["BLOCK"], GUARD=capacity < SIFT["BLOCK"],
        **sizes, **drawn, num_warps=SIFT["num_warps"],
    )  # fmt: skip
    parts = max(1, ATTEND["PROGRAMS"] // rows)
    parts = parts if parts < attending.PARTS else parts // attending.PARTS * attending.PARTS
    parts = min(parts, triton.cdiv(budget, 8))
    chosen = new(rows, parts, triton.cdiv(splits * room, parts))
    outs = query.new_empty((parts, *query.shape), dtype=torch.float32)
    lses = query.new_empty((parts, *query.shape[:3]), dtype=torch.float32)
    attend_kernel[(parts, rows)](
        asked, codes, lists, fine, totals, listed, cutoff, chosen, length, start, query, keys, values, outs, lses,
        width**-0.5 if scale is None else scale,
        *query.stride()[:2], *keys.stride()[:3], *values.stride()[:3], capacity, kv_heads, *bounds, room, batch * heads,
        GROUP=group, BITS=(group * words * 32).bit_length(), LEVELS=splits.bit_length() - 1, STEP=SIFT["BLOCK"],
        WIDTH=width, ROWS=attending._padded(group), PADDED=attending._padded(width), BLOCK=ATTEND["BLOCK"],
        STAGES=ATTEND["STAGES"], **(ATTEND_FEW if rows <= FEW else ATTEND_MANY),
        **sizes,
    )  # fmt: skip
    out, lse = query.new_empty(query.shape), lses.new_empty(query.shape[:3])
    columns = min(COLUMNS, attending._padded(width))
    merge_kernel[(batch * heads, triton.cdiv(width, columns))](
        outs, lses, out, lse, parts, batch * heads, WIDTH=width, COLUMNS=columns,
        PARTS=min(attending.PARTS, attending._padded(parts)), num_warps=4, **launch,
    )  # fmt: skip
    return out, lse
