"""Triton kernels that encode, append and score. Selection is in `triton_select`.

Bits are counted by parallel sums: LLVM turns that form into the card's own instruction where it has one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from npukv.ops.hashing.reference import ABSENT

#: Numbers that a kernel is not compiled anew for.
UNSPECIALIZED = ("kv_heads", "budget", "sink", "recent")

#: A score no token has, where scores are kept as int16.
ABSENT_NARROW = 2**15 - 1

#: Tokens per step and warps of the score kernel; whether bits are added before they are counted.
SCORE = {"BLOCK": 1024, "num_warps": 4}
CARRY = True


@triton.jit
def popcount(x):
    """Set bits of uint32 words, as int32."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _signs(x, weights, ROWS: tl.constexpr, WORDS: tl.constexpr, WIDE: tl.constexpr):
    """Codes [ROWS, WORDS] of x [ROWS, D] by weights [D, 32 WORDS]."""
    if WIDE:  # mixed types: in float32, as the reference does
        projected = tl.dot(x.to(tl.float32), weights.to(tl.float32), input_precision="ieee")
    else:
        projected = tl.dot(x, weights, input_precision="ieee")
    bits = tl.reshape((projected > 0).to(tl.int32), [ROWS, WORDS, 32])
    return tl.sum(bits << tl.arange(0, 32)[None, None, :], 2)


@triton.jit
def _step_kernel(
    query_ptr, key_ptr, value_ptr, weights_ptr, keys_ptr, values_ptr, codes_ptr, length_ptr, query_codes_ptr,
    q_b, q_h, k_b, k_h, v_b, v_h, capacity, kv_heads,
    GROUP: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, D_LIMIT: tl.constexpr, WORDS: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """One program per (row and KV head, word): that word of the group's and the key's codes, and a share of k and v."""
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1)
    batch, head = row // kv_heads, row % kv_heads
    dim = tl.arange(0, D_LIMIT)
    inside = dim < D
    safe = dim
    if D < D_LIMIT:
        safe = tl.minimum(dim, D - 1)
    vector = tl.arange(0, ROWS)  # the group's queries, then the key
    length = tl.load(length_ptr + batch)
    place = row * capacity + tl.minimum(length, capacity - 1)
    weights = tl.load(
        weights_ptr + (head * D + safe[:, None]) * (WORDS * 32) + word * 32 + tl.arange(0, 32)[None, :],
        mask=inside[:, None], other=0.0,
    )  # fmt: skip
    new = tl.load(key_ptr + batch * k_b + head * k_h + safe, mask=inside, other=0.0)
    x = tl.where((vector == GROUP)[:, None], new[None, :], 0.0).to(new.dtype)
    if GROUP > 0:
        query_head = head * GROUP + tl.minimum(vector, GROUP - 1)
        x += tl.load(
            query_ptr + batch * q_b + query_head[:, None] * q_h + safe[None, :],
            mask=(vector < GROUP)[:, None] & inside[None, :], other=0.0,
        )  # fmt: skip
    codes = tl.reshape(_signs(x, weights, ROWS, 1, WIDE), [ROWS])
    if GROUP > 0:
        target = query_codes_ptr + (row * GROUP + tl.minimum(vector, GROUP - 1)) * WORDS + word
        tl.store(target, codes, mask=vector < GROUP)
    code = tl.sum(tl.where(vector == GROUP, codes, 0), 0)
    tl.store(codes_ptr + place * WORDS + word, code, mask=length < capacity)
    share = tl.where(length < capacity, dim // (D_LIMIT // WORDS), -1)  # of D, one per word; none beyond the buffers
    mine = inside & (share == word)
    key = tl.load(key_ptr + batch * k_b + head * k_h + safe, mask=mine, other=0.0)
    tl.store(keys_ptr + place * D + safe, key, mask=mine)
    value = tl.load(value_ptr + batch * v_b + head * v_h + safe, mask=mine, other=0.0)
    tl.store(values_ptr + place * D + safe, value, mask=mine)


@triton.jit
def _encode_kernel(
    x_ptr, value_ptr, weights_ptr, keys_ptr, values_ptr, codes_ptr, length_ptr,
    x_b, x_h, x_s, v_b, v_h, v_s, tokens, capacity, heads, group,
    D: tl.constexpr, D_LIMIT: tl.constexpr, WORDS: tl.constexpr, BLOCK: tl.constexpr,
    APPEND: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One program per (row and head, BLOCK tokens): their codes, and with APPEND a copy of k and v, at `length`."""
    row = tl.program_id(0).to(tl.int64)
    batch, head = row // heads, row % heads
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    dim = tl.arange(0, D_LIMIT)
    column = tl.arange(0, WORDS * 32)
    safe_token, safe_dim = tl.minimum(token, tokens - 1), dim
    if D < D_LIMIT:
        safe_dim = tl.minimum(dim, D - 1)
    held = (token < tokens)[:, None] & (dim < D)[None, :]
    x = tl.load(
        x_ptr + batch * x_b + head * x_h + safe_token[:, None].to(tl.int64) * x_s + safe_dim[None, :],
        mask=held,
        other=0.0,
    )
    weights = tl.load(
        weights_ptr + ((head // group) * D + safe_dim[:, None]) * (WORDS * 32) + column[None, :],
        mask=(dim < D)[:, None], other=0.0,
    )  # fmt: skip
    codes = _signs(x, weights, BLOCK, WORDS, WIDE)
    first = 0
    fits = token < tokens
    if APPEND:
        first = tl.load(length_ptr + batch)
        fits = fits & (first + token < capacity)
    place = row * capacity + tl.minimum(first + safe_token, capacity - 1)
    word = tl.arange(0, WORDS)
    tl.store(codes_ptr + place[:, None] * WORDS + word[None, :], codes, mask=fits[:, None])
    if APPEND:
        stored = held & fits[:, None]
        tl.store(keys_ptr + place[:, None] * D + safe_dim[None, :], x, mask=stored)
        value = tl.load(
            value_ptr + batch * v_b + head * v_h + safe_token[:, None].to(tl.int64) * v_s + safe_dim[None, :],
            mask=held, other=0.0,
        )  # fmt: skip
        tl.store(values_ptr + place[:, None] * D + safe_dim[None, :], value, mask=stored)


@triton.jit
def _votes(query_ptr, row, GROUP: tl.constexpr, WORDS: tl.constexpr):
    """What the group's queries say to each bit of a key: (least distance, pull [WORDS, 32], the same or 0).

    A key's bit differs from as many queries as hold the other value: from the minority of them if it takes the
    majority's side, else from `pull` more. Minorities add up to the least distance. Pulls are all even or all odd, and
    halved where even. The last result holds those towards a 1.
    """
    ones = tl.zeros([WORDS, 32], tl.int32)
    for g in tl.static_range(GROUP):
        query = tl.load(query_ptr + (row * GROUP + g) * WORDS + tl.arange(0, WORDS))
        ones += (query[:, None] >> tl.arange(0, 32)[None, :]) & 1
    majority = tl.maximum(ones, GROUP - ones)
    pull = (2 * majority - GROUP) // (2 - GROUP % 2)
    return tl.sum(tl.sum(GROUP - majority, 1), 0), pull, tl.where(2 * ones > GROUP, pull, 0)


@triton.jit
def _plane(counts, p: tl.constexpr):
    """Bit p of counts [WORDS, 32], packed to words [WORDS]."""
    return tl.sum(((counts >> p) & 1) << tl.arange(0, 32)[None, :], 1).to(tl.uint32, bitcast=True)


def planes(group: int) -> int:
    """Binary digits of the largest pull of a group's queries."""
    return (group if group % 2 else group // 2).bit_length()


@triton.jit
def _majority(a, b, c):
    return (a & b) | (c & (a | b))


@triton.jit
def _quarters(x, ROWS: tl.constexpr):
    """The four columns of [ROWS, 4]."""
    even, odd = tl.split(tl.reshape(x, [ROWS, 2, 2]))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def _carried(codes, pull, to_one, one, PLANES: tl.constexpr, BLOCK: tl.constexpr):
    """Pulls [BLOCK] of codes [BLOCK, 4]: three words are added to a sum and a carry before any bit is counted.

    Counting is the slowest of a card's integer instructions: 3 are left of 4 with one plane, 5 of 8 with two.
    `one` is 1, and not known to be: LLVM would merge a known shift into a count, and not know it again.
    """
    differ = tl.zeros([BLOCK], tl.int32)
    for p in tl.static_range(PLANES):
        mask, side = _plane(pull, p), _plane(to_one, p)
        a, b, c, d = _quarters(side[None, :] ^ (codes & mask[None, :]), BLOCK)
        total, carry = a ^ b ^ c, _majority(a, b, c)
        if p == 0:
            differ += popcount(total) + popcount(d)
            first = carry
        elif p == 1:
            differ += popcount(total ^ d ^ first) << one
            second = _majority(total, d, first)
            first = carry
        else:
            differ += (popcount(total) + popcount(d ^ first ^ second)) << p
            second = _majority(d, first, second)
            first = carry
    if PLANES == 1:
        differ += popcount(first) << one
    else:
        differ += (popcount(first) + popcount(second)) << PLANES
    return differ


@triton.jit
def _pulled(codes, pull, to_one, one, PLANES: tl.constexpr, BLOCK: tl.constexpr, CARRY: tl.constexpr):
    """Pulls summed over the bits on the minority's side: [BLOCK] of codes [BLOCK, WORDS].

    Pulls are laid out in bit planes, so that a token costs PLANES counts per word and not GROUP.
    """
    if CARRY:
        differ = _carried(codes, pull, to_one, one, PLANES, BLOCK)
    else:
        differ = tl.zeros([BLOCK], tl.int32)
        for p in tl.static_range(PLANES):
            mask, side = _plane(pull, p), _plane(to_one, p)
            # summed before it is shifted: LLVM would merge a shift into the count, and not know it again
            differ += tl.sum(popcount(side[None, :] ^ (codes & mask[None, :])), 1) << p
    return differ


@triton.jit
def _distances(
    codes, least, pull, to_one, one,
    GROUP: tl.constexpr, PLANES: tl.constexpr, BLOCK: tl.constexpr, CARRY: tl.constexpr,
):  # fmt: skip
    """Summed over the group: [BLOCK] of codes [BLOCK, WORDS]."""
    return least + _pulled(codes, pull, to_one, one, PLANES, BLOCK, CARRY) * (2 - GROUP % 2)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _score_kernel(
    query_ptr, codes_ptr, length_ptr, start_ptr, scores_ptr, counts_ptr,
    capacity, stride, kv_heads, sink, recent, chunk,
    GROUP: tl.constexpr, WORDS: tl.constexpr, PLANES: tl.constexpr, BLOCK: tl.constexpr,
    WITH_LENGTH: tl.constexpr, WITH_START: tl.constexpr,
    COUNT: tl.constexpr, SHIFT: tl.constexpr, COARSE: tl.constexpr, NONE: tl.constexpr, CARRY: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Scores of `chunk` tokens of one row and KV head; with COUNT also how many fall in each of COARSE bins."""
    row = tl.program_id(0).to(tl.int64)
    split, batch = tl.program_id(1), row // kv_heads
    end = capacity
    if WITH_LENGTH:
        end = tl.minimum(tl.load(length_ptr + batch), capacity)
    begin = 0
    if WITH_START:
        begin = tl.load(start_ptr + batch)
    word, lane = tl.arange(0, WORDS), tl.arange(0, BLOCK)
    least, pull, to_one = _votes(query_ptr, row, GROUP, WORDS)
    binned = tl.zeros([COARSE], tl.int32)
    one = tl.minimum(capacity, 1)
    whole, stop = stride, stride  # the steps of free tokens alone
    if COUNT:
        whole = tl.cdiv(tl.maximum(begin + sink, split * chunk), BLOCK) * BLOCK
        stop = tl.minimum(end - recent, (split + 1) * chunk) // BLOCK * BLOCK
        for first in tl.range(whole, stop, BLOCK, num_stages=STAGES):
            at = (row * capacity + first) * WORDS
            codes = tl.load(codes_ptr + at + lane[:, None] * WORDS + word[None, :]).to(tl.uint32, bitcast=True)
            differ = _distances(codes, least, pull, to_one, one, GROUP, PLANES, BLOCK, CARRY)
            tl.store(scores_ptr + row * stride + first + lane, differ.to(tl.int16))
            binned += tl.histogram(tl.minimum(differ >> SHIFT, COARSE - 1), COARSE)
    outside = 0
    for offset in range(0, chunk, BLOCK):
        first = split * chunk + offset
        position = first + lane
        if (first < stride) & ((first < whole) | (first >= stop)):
            if (first < end) & (first + BLOCK > begin):
                held = (position < end) & (position >= begin)
                safe = tl.minimum(position, capacity - 1)
                codes = tl.load(
                    codes_ptr + (row * capacity + safe)[:, None] * WORDS + word[None, :], mask=held[:, None], other=0
                ).to(tl.uint32, bitcast=True)
                differ = _distances(codes, least, pull, to_one, one, GROUP, PLANES, BLOCK, CARRY)
                score = tl.where(held, differ, NONE)
                if COUNT:
                    free = held & (position >= begin + sink) & (position < end - recent)
                    stored = tl.where(free, score, NONE).to(tl.int16)
                    tl.store(scores_ptr + row * stride + position, stored)  # the workspace is padded
                    coarse = tl.where(free, tl.minimum(score >> SHIFT, COARSE - 1), COARSE - 1)
                    binned += tl.histogram(coarse, COARSE)
                    outside += BLOCK - tl.sum(free.to(tl.int32), 0)
                else:
                    tl.store(scores_ptr + row * stride + position, score, mask=position < stride)
            elif COUNT:
                tl.store(scores_ptr + row * stride + position, tl.full([BLOCK], NONE, tl.int16))
            else:
                tl.store(scores_ptr + row * stride + position, tl.full([BLOCK], NONE, tl.int32), mask=position < stride)
    if COUNT:
        bins = tl.arange(0, COARSE)
        binned -= tl.where(bins == COARSE - 1, outside, 0)
        tl.store(counts_ptr + (row * tl.num_programs(1) + split) * COARSE + bins, binned)


def hash_encode(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    batch, heads, tokens, _ = x.shape
    codes = x.new_empty(batch, heads, tokens, weights.shape[-1] // 32, dtype=torch.int32)
    _encode(x, None, weights, None, None, codes, None)
    return codes


def hash_append(
    key: torch.Tensor,
    value: torch.Tensor,
    weights: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    codes: torch.Tensor,
    length: torch.Tensor,
) -> None:
    if key.shape[2] == 1:
        _step(None, key, value, weights, keys, values, codes, length)
    else:
        _encode(key, value, weights, keys, values, codes, length)


def hash_step(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    weights: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    codes: torch.Tensor,
    length: torch.Tensor,
) -> torch.Tensor:
    query_codes = codes.new_empty(*query.shape[:3], codes.shape[-1])
    _step(query, key, value, weights, keys, values, codes, length, query_codes)
    return query_codes


def _step(query, key, value, weights, keys, values, codes, length, query_codes=None):
    batch, kv_heads, _, width = key.shape
    key, value = _rows(key), _rows(value)
    query = None if query is None else _rows(query)
    group = 0 if query is None else query.shape[1] // kv_heads
    asked = key if query is None else query
    _step_kernel[(batch * kv_heads, codes.shape[-1])](
        asked, key, value, weights, keys, values, codes, length, codes if query_codes is None else query_codes,
        asked.stride(0), asked.stride(1), key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        keys.shape[2], kv_heads, GROUP=group, ROWS=max(16, triton.next_power_of_2(group + 1)),
        D=width, D_LIMIT=_limit(width), WORDS=codes.shape[-1], WIDE=_wide(key, weights), num_warps=4,
    )  # fmt: skip


def _encode(x, value, weights, keys, values, codes, length):
    batch, heads, tokens, width = x.shape
    append = keys is not None
    x = _rows(x)
    value = _rows(value) if append else x
    block = 16 if tokens <= 16 else 64
    _encode_kernel[(batch * heads, triton.cdiv(tokens, block))](
        x, value, weights, keys if append else x, values if append else x, codes, length if append else codes,
        *x.stride()[:3], *value.stride()[:3], tokens, codes.shape[2], heads, heads // weights.shape[0],
        D=width, D_LIMIT=_limit(width), WORDS=codes.shape[-1], BLOCK=block, APPEND=append, WIDE=_wide(x, weights),
        num_warps=4,
    )  # fmt: skip


def _limit(width: int) -> int:
    return max(16, triton.next_power_of_2(width))


def _wide(x: torch.Tensor, weights: torch.Tensor) -> bool:
    """Whether to multiply in float32. The interpreter, which runs on the CPU, multiplies bfloat16 as integers."""
    return x.dtype != weights.dtype or x.device.type == "cpu"


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def hamming_scores(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor | None = None,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    batch, kv_heads, capacity, _ = key_codes.shape
    scores = key_codes.new_empty(batch, kv_heads, capacity)
    launch_scores(
        query_codes, key_codes, length, start, scores, None, capacity, 0, 0, 1024, triton.cdiv(capacity, 1024)
    )
    return scores


def launch_scores(query_codes, key_codes, length, start, scores, counts, stride, sink, recent, chunk, splits, shift=0):
    """Fill `scores` [B * Hkv, stride] (int32, or int16 with `counts` [B * Hkv, splits, COARSE])."""
    batch, kv_heads, capacity, words = key_codes.shape
    group, counting = query_codes.shape[1] // kv_heads, counts is not None
    _score_kernel[(batch * kv_heads, splits)](
        query_codes.contiguous(), key_codes, length, start, scores, counts,
        capacity, stride, kv_heads, sink, recent, chunk,
        GROUP=group, WORDS=words, PLANES=planes(group), CARRY=CARRY and words == 4,
        WITH_LENGTH=length is not None, WITH_START=start is not None, COUNT=counting, SHIFT=shift,
        COARSE=counts.shape[-1] if counting else 2, NONE=ABSENT_NARROW if counting else ABSENT,
        STAGES=1 if group == 1 else 3, **SCORE,
    )  # fmt: skip
