"""What the passes over 16-bit keys begin with: a copy of the keys as they were before RoPE, their state, the centre."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from npukv.ops.clustering.triton_rows import padded

#: Tokens at a time, and how many times that a program takes.
TOKENS, STEPS = 32, 8
#: Numbers that differ from call to call: a kernel is not compiled anew for each.
VARYING = ("length", "heads", "each", "blocks")


@triton.jit(do_not_specialize=VARYING)
def _start_kernel(
    keys, degrees, cos, sin, x, state, alive, partial, amounts, length, heads, each, key_b, key_h, key_l, turn_row,
    D: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, STEPS: tl.constexpr, TURNED: tl.constexpr,
):  # fmt: skip
    """STEPS blocks of tokens: their keys as they were before RoPE, degrees, inverse lengths, and sums for the centre.

    WIDTH holds D / 2 columns: the halves are turned against each other.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    real = column < D // 2
    keys += (row // heads) * key_b + (row % heads) * key_h
    total = tl.zeros([TOKENS, WIDTH], tl.float32)
    others = tl.zeros([TOKENS, WIDTH], tl.float32)
    amount = tl.zeros([TOKENS], tl.float32)
    for step in range(STEPS):
        token = (tl.program_id(1) * STEPS + step) * TOKENS + tl.arange(0, TOKENS)
        inside = token < length
        both = inside[:, None] & real[None, :]
        at = keys + token.to(tl.int64)[:, None] * key_l + column[None, :]
        one = tl.load(at, mask=both, other=0.0)
        two = tl.load(at + D // 2, mask=both, other=0.0)
        if TURNED:
            place = row * turn_row + token[:, None] * (D // 2) + column[None, :]
            c = tl.load(cos + place, mask=both, other=0.0).to(tl.float32)
            s = tl.load(sin + place, mask=both, other=0.0).to(tl.float32)
            wide, other = one.to(tl.float32), two.to(tl.float32)
            first, second = wide * c + other * s, other * c - wide * s
        else:
            first, second = one.to(tl.float32), two.to(tl.float32)
        to = x + (row * length + token)[:, None] * D + column[None, :]
        tl.store(to, first.to(x.dtype.element_ty), mask=both)
        tl.store(to + D // 2, second.to(x.dtype.element_ty), mask=both)
        degree = tl.load(degrees + row * length + token, mask=inside, other=0.0)
        tl.store(state + row * length + token, degree, mask=inside)
        tl.store(alive + row * length + token, token, mask=inside)
        shrink = 1 / tl.maximum(tl.sqrt(tl.sum(first * first + second * second, axis=1)), 1e-12)
        tl.store(state + each + row * length + token, shrink, mask=inside)
        share = (degree * shrink)[:, None]
        total += first * share
        others += second * share
        amount += degree
    block = row * tl.num_programs(1) + tl.program_id(1)
    tl.store(amounts + block, tl.sum(amount, axis=0))
    out = partial + block * D + column
    tl.store(out, tl.sum(total, axis=0), mask=real)
    tl.store(out + D // 2, tl.sum(others, axis=0), mask=real)


@triton.jit(do_not_specialize=VARYING)
def _centre_kernel(partial, amounts, centre, blocks, D: tl.constexpr, WIDTH: tl.constexpr):
    """The mean of the normalised keys, [rows, D], from sums over blocks of them."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    total = tl.zeros([WIDTH], tl.float32)
    degrees = tl.zeros([16], tl.float32)
    for start in range(0, blocks, 16):
        block = start + tl.arange(0, 16)
        here = block < blocks
        at = partial + (row * blocks + block)[:, None] * D + column[None, :]
        total += tl.sum(tl.load(at, mask=here[:, None] & (column < D)[None, :], other=0.0), axis=0)
        degrees += tl.load(amounts + row * blocks + block, mask=here, other=0.0)
    tl.store(centre + row * D + column, total / tl.sum(degrees, axis=0), mask=column < D)


def prepare(
    keys: torch.Tensor, degrees: torch.Tensor, cos: torch.Tensor | None, sin: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of keys [B, H, L, D], with rows = B * H: x [rows, L, D], state, alive and the centre [rows, D].

    state [2, 3, rows, L] and alive [2, rows, L]: the first half filled, the second room for the next pass.
    """
    batch, heads, length, width = keys.shape
    rows = batch * heads
    x, state = keys.new_empty(rows, length, width), degrees.new_empty(2, 3, rows, length)
    alive = keys.new_empty(2, rows, length, dtype=torch.int32)
    blocks = triton.cdiv(length, STEPS * TOKENS)
    partial, amounts, centre = (degrees.new_empty(rows, *shape) for shape in ((blocks, width), (blocks,), (width,)))
    turn_row = length * width // 2 if cos is not None and cos.ndim == 4 else 0
    _start_kernel[(rows, blocks)](
        keys, degrees, keys if cos is None else cos.contiguous(), keys if sin is None else sin.contiguous(), x, state,
        alive, partial, amounts, length, heads, rows * length, *keys.stride()[:3], turn_row,
        D=width, WIDTH=padded(width // 2), TOKENS=TOKENS, STEPS=STEPS, TURNED=cos is not None,
    )  # fmt: skip
    _centre_kernel[(rows,)](partial, amounts, centre, blocks, D=width, WIDTH=padded(width))
    return x, state, alive, centre
