"""Small kernels in the style of the package's own: they try the tools themselves, whatever the operators look like."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _attend(query, key, value, out, scale, length, stride, width: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, width)
    q = tl.load(query + row * width + columns).to(tl.float32)
    highest = -float("inf")
    total = 0.0
    mixed = tl.zeros((width,), tl.float32)
    for start in range(0, length, block):
        places = start + tl.arange(0, block)
        there = places < length
        k = tl.load(key + places[:, None] * stride + columns[None, :], mask=there[:, None], other=0.0).to(tl.float32)
        score = tl.sum(k * q[None, :], 1) * scale
        score = tl.where(there, score, -float("inf"))
        now = tl.maximum(highest, tl.max(score, 0))
        weight = tl.exp(score - now)
        fade = tl.exp(highest - now)
        v = tl.load(value + places[:, None] * stride + columns[None, :], mask=there[:, None], other=0.0).to(tl.float32)
        mixed = mixed * fade + tl.sum(weight[:, None] * v, 0)
        total = total * fade + tl.sum(weight, 0)
        highest = now
    tl.store(out + row * width + columns, (mixed / total).to(out.dtype.element_ty))


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """softmax(scale q k') v; query [S, D], key and value [C, D] with rows `stride` apart."""
    out = torch.empty_like(query)
    _attend[(query.shape[0],)](
        query, key, value, out, scale, key.shape[0], key.stride(0), width=query.shape[1], block=32
    )
    return out


@triton.jit
def _distances(query, codes, out, tokens, words: tl.constexpr, block: tl.constexpr):
    places = tl.program_id(0) * block + tl.arange(0, block)
    there = places < tokens
    word = tl.arange(0, words)
    bits = tl.load(codes + places[:, None] * words + word[None, :], mask=there[:, None], other=0)
    bits = bits ^ tl.load(query + word)[None, :]
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    bits = (bits * 0x01010101) >> 24
    tl.store(out + places, tl.sum(bits & 0x3F, 1), mask=there)


def distances(query: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Hamming distances of codes [N, words] from one code [words], int32."""
    out = codes.new_empty(codes.shape[0])
    _distances[(triton.cdiv(codes.shape[0], 64),)](query, codes, out, codes.shape[0], words=codes.shape[1], block=64)
    return out


@triton.jit
def _gather(table, indices, out, rows, count, width: tl.constexpr, block: tl.constexpr):
    places = tl.program_id(0) * block + tl.arange(0, block)
    columns = tl.arange(0, width)
    there = places < count
    index = tl.load(indices + places, mask=there, other=-1)
    valid = (index >= 0) & (index < rows)
    safe = tl.where(valid, index, 0)
    got = tl.load(table + safe[:, None] * width + columns[None, :], mask=valid[:, None], other=0.0)
    tl.store(out + places[:, None] * width + columns[None, :], got, mask=there[:, None])


def gather(table: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Rows of a table [N, D] by int32 indices; zeros for an index outside the table."""
    out = table.new_empty(len(indices), table.shape[1])
    grid = (triton.cdiv(len(indices), 16),)
    _gather[grid](table, indices, out, table.shape[0], len(indices), width=table.shape[1], block=16)
    return out
