"""The decode step's operators in Triton.

One token's products read every weight once and do next to nothing with it: time is bytes. So each program streams a
few rows of a weight while the token stays in the caches near it, and what is cheap is redone by every program (the
norm) or done where the result already is (residual, gate), instead of costing a launch of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

#: Weight rows per program, columns per step, warps and stages: for one token, and for several through tl.dot.
SINGLE = {"BLOCK_N": 8, "BLOCK_K": 512, "num_warps": 4, "num_stages": 4}
SEVERAL = {"BLOCK_N": 16, "BLOCK_K": 256, "num_warps": 4, "num_stages": 4}
#: Tokens a `tl.dot` takes at least.
ROWS = 16


@triton.jit
def _product(
    x, weight, norm, n, rows,
    K: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, NORM: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """x [rows, K] times the norm's weight, with rows n of a weight: [ROWS, BLOCK_N]; and x's sums of squares [ROWS]."""
    column = tl.arange(0, BLOCK_K)
    line = n.to(tl.int64)[:, None] * K
    if ROWS == 1:
        sums = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        squares = tl.zeros([BLOCK_K], tl.float32)
        for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
            w = tl.load(weight + line + (start + column)[None, :])
            token = tl.load(x + start + column).to(tl.float32)
            if NORM:
                squares += token * token
                token = token * tl.load(norm + start + column).to(tl.float32)
            sums += w.to(tl.float32) * token[None, :]
        return tl.sum(sums, axis=1)[None, :], tl.sum(squares, axis=0) + tl.zeros([1], tl.float32)
    else:
        row = tl.arange(0, ROWS)
        safe_row = tl.minimum(row, rows - 1)[:, None] * K
        sums = tl.zeros([ROWS, BLOCK_N], tl.float32)
        squares = tl.zeros([ROWS], tl.float32)
        for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
            w = tl.load(weight + line + (start + column)[None, :])
            tokens = tl.load(x + safe_row + (start + column)[None, :])
            if NORM:
                wide = tokens.to(tl.float32)
                squares += tl.sum(wide * wide, axis=1)
                tokens = (wide * tl.load(norm + start + column).to(tl.float32)[None, :]).to(w.dtype)
            sums += tl.dot(tokens, tl.trans(w), input_precision="ieee")
        return sums, squares


@triton.jit
def _project_kernel(
    x, weight0, weight1, weight2, bias0, bias1, bias2, norm, residual, out, eps, rows, n0, n1, n2, before, total,
    WEIGHTS: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    BIAS: tl.constexpr, NORM: tl.constexpr, RESIDUAL: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """BLOCK_N outputs of one of the weights, for all tokens; of `total` outputs, `before` lie before weight0's."""
    block = tl.program_id(0)
    weight = weight0
    first = before
    size = n0
    if BIAS:
        bias = bias0
    if WEIGHTS > 1:
        blocks0 = tl.cdiv(n0, BLOCK_N)
        blocks1 = tl.cdiv(n1, BLOCK_N)
        if block >= blocks0 + blocks1:
            block -= blocks0 + blocks1
            weight = weight2
            first += n0 + n1
            size = n2
            if BIAS:
                bias = bias2
        elif block >= blocks0:
            block -= blocks0
            weight = weight1
            first += n0
            size = n1
            if BIAS:
                bias = bias1
    wanted = block * BLOCK_N + tl.arange(0, BLOCK_N)
    n = tl.minimum(wanted, size - 1)
    sums, squares = _product(x, weight, norm, n, rows, K, ROWS, BLOCK_N, BLOCK_K, NORM, STAGES)
    if NORM:
        sums = sums * tl.rsqrt(squares / K + eps)[:, None]
    if BIAS:
        sums += tl.load(bias + n).to(tl.float32)[None, :]
    row = tl.arange(0, ROWS)
    place = tl.minimum(row, rows - 1)[:, None] * total + (first + n)[None, :]
    real = (row < rows)[:, None] & (wanted < size)[None, :]
    if RESIDUAL:
        sums += tl.load(residual + place, mask=real, other=0.0).to(tl.float32)
    tl.store(out + place, sums.to(out.dtype.element_ty), mask=real)


@triton.jit
def _gated_kernel(
    x, gate, up, norm, out, eps, rows, size,
    K: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, NORM: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """BLOCK_N outputs for all tokens: the same rows of both weights, one after the other."""
    wanted = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n = tl.minimum(wanted, size - 1)
    gates, squares = _product(x, gate, norm, n, rows, K, ROWS, BLOCK_N, BLOCK_K, NORM, STAGES)
    ups, _ = _product(x, up, norm, n, rows, K, ROWS, BLOCK_N, BLOCK_K, NORM, STAGES)
    if NORM:
        shrink = tl.rsqrt(squares / K + eps)[:, None]
        gates = gates * shrink
        ups = ups * shrink
    gates = gates / (1.0 + tl.exp(-gates)) * ups
    row = tl.arange(0, ROWS)
    place = tl.minimum(row, rows - 1)[:, None] * size + n[None, :]
    tl.store(out + place, gates.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (wanted < size)[None, :])


@triton.jit
def _rotate_kernel(
    projected, cos, sin, query_norm, key_norm, out, keys, values, slot, eps, capacity,
    keys_b, keys_h, keys_c, values_b, values_h, values_c,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, PADDED: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """One head of one token: a query, a key or a value."""
    batch = tl.program_id(0)
    head = tl.program_id(1)
    column = tl.arange(0, PADDED)
    held = column < HALF
    safe = tl.minimum(column, HALF - 1)
    source = projected + (batch * (HEADS + 2 * KV_HEADS) + head) * 2 * HALF
    first = tl.load(source + safe, mask=held, other=0.0).to(tl.float32)
    second = tl.load(source + HALF + safe, mask=held, other=0.0).to(tl.float32)
    if head < HEADS + KV_HEADS:
        if NORM:
            shrink = tl.rsqrt((tl.sum(first * first, axis=0) + tl.sum(second * second, axis=0)) / (2 * HALF) + eps)
            if head < HEADS:  # not a choice of pointers, which triton-ascend does not lower
                scale_first = tl.load(query_norm + safe, mask=held, other=0.0).to(tl.float32)
                scale_second = tl.load(query_norm + HALF + safe, mask=held, other=0.0).to(tl.float32)
            else:
                scale_first = tl.load(key_norm + safe, mask=held, other=0.0).to(tl.float32)
                scale_second = tl.load(key_norm + HALF + safe, mask=held, other=0.0).to(tl.float32)
            first = first * shrink * scale_first
            second = second * shrink * scale_second
        turn = batch * 2 * HALF + safe
        cos_first = tl.load(cos + turn, mask=held, other=0.0).to(tl.float32)
        sin_first = tl.load(sin + turn, mask=held, other=0.0).to(tl.float32)
        cos_second = tl.load(cos + turn + HALF, mask=held, other=0.0).to(tl.float32)
        sin_second = tl.load(sin + turn + HALF, mask=held, other=0.0).to(tl.float32)
        turned = first * cos_first - second * sin_first
        second = second * cos_second + first * sin_second
        first = turned
    if head < HEADS:
        asked = (batch * HEADS + head) * 2 * HALF
        tl.store(out + asked + safe, first.to(out.dtype.element_ty), mask=held)
        tl.store(out + asked + HALF + safe, second.to(out.dtype.element_ty), mask=held)
    else:
        token = tl.load(slot + batch)
        places = token + tl.zeros([PADDED], tl.int32)
        fits = held & (places >= 0) & (places < capacity)
        token = tl.minimum(tl.maximum(token, 0), capacity - 1).to(tl.int64)
        if head < HEADS + KV_HEADS:
            place = batch.to(tl.int64) * keys_b + (head - HEADS).to(tl.int64) * keys_h + token * keys_c
            tl.store(keys + place + safe, first.to(keys.dtype.element_ty), mask=fits)
            tl.store(keys + place + HALF + safe, second.to(keys.dtype.element_ty), mask=fits)
        else:
            place = batch.to(tl.int64) * values_b + (head - HEADS - KV_HEADS).to(tl.int64) * values_h + token * values_c
            tl.store(values + place + safe, first.to(values.dtype.element_ty), mask=fits)
            tl.store(values + place + HALF + safe, second.to(values.dtype.element_ty), mask=fits)


def project(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
    residual: torch.Tensor | None = None,
    together: bool = True,
) -> torch.Tensor:
    """As the reference; rounded once, at the end.

    ``together``: one launch for all weights; not for triton-ascend, which takes no pointer from a branch.
    """
    rows, width = x.shape
    options = _options(rows, width)
    out = x.new_empty(rows, sum(weight.shape[0] for weight in weights))
    before = 0
    for part in [range(len(weights))] if together else [[i] for i in range(len(weights))]:
        sizes = [weights[i].shape[0] for i in part]
        spare = 3 - len(sizes)
        three = [*[weights[i] for i in part], *[weights[0]] * spare]
        added = [*[biases[i] for i in part], *[biases[0]] * spare] if biases else [x, x, x]
        _project_kernel[(sum(triton.cdiv(size, options["BLOCK_N"]) for size in sizes),)](
            x, *three, *added, x if norm is None else norm, x if residual is None else residual, out, eps, rows,
            *sizes, *[0] * spare, before, out.shape[1], WEIGHTS=len(sizes),
            K=width, ROWS=1 if rows == 1 else ROWS, BIAS=bool(biases), NORM=norm is not None,
            RESIDUAL=residual is not None, STAGES=options["num_stages"], **options,
        )  # fmt: skip
        before += sum(sizes)
    return out


def gated(
    x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, norm: torch.Tensor | None = None, eps: float = 0.0
) -> torch.Tensor:
    """As the reference; rounded once, at the end."""
    rows, width = x.shape
    options = _options(rows, width)
    out = x.new_empty(rows, gate.shape[0])
    _gated_kernel[(triton.cdiv(gate.shape[0], options["BLOCK_N"]),)](
        x, gate, up, x if norm is None else norm, out, eps, rows, gate.shape[0],
        K=width, ROWS=1 if rows == 1 else ROWS, NORM=norm is not None, STAGES=options["num_stages"], **options,
    )  # fmt: skip
    return out


def rotate_append(
    projected: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slot: torch.Tensor,
    query_norm: torch.Tensor | None = None,
    key_norm: torch.Tensor | None = None,
    eps: float = 0.0,
) -> torch.Tensor:
    """As the reference."""
    batch, kv_heads, capacity, width = keys.shape
    heads = projected.shape[1] // width - 2 * kv_heads
    out = projected.new_empty(batch, heads, 1, width)
    _rotate_kernel[(batch, heads + 2 * kv_heads)](
        projected, cos, sin, *((query_norm, key_norm) if query_norm is not None else (cos, cos)),
        out, keys, values, slot, eps, capacity, *keys.stride()[:3], *values.stride()[:3],
        HEADS=heads, KV_HEADS=kv_heads, HALF=width // 2, PADDED=triton.next_power_of_2(width // 2),
        NORM=query_norm is not None, num_warps=1,
    )  # fmt: skip
    return out


def _options(rows: int, width: int) -> dict[str, int]:
    options = SINGLE if rows == 1 else SEVERAL
    return options | {"BLOCK_K": min(options["BLOCK_K"], width & -width)}  # a power of two that divides the width
