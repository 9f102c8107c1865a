"""What surrounds attention in one decode step of a Llama-like block, in plain torch: the specification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import linear, silu


def project(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """x through several linear maps, side by side, after an RMSNorm and onto a residual, where given.

    Args:
        x: [B, K].
        weights: up to three of [N, K].
        biases: one [N] per weight, or none at all.
        norm: the RMSNorm's weight, [K], and `eps` in its root; None = no norm.
        residual: [B, sum of N], added; None = nothing.

    Returns:
        [B, sum of N], in x's type.
    """
    x = rms_norm(x, norm, eps)
    out = torch.cat([linear(x, weight, *biases[i : i + 1]) for i, weight in enumerate(weights)], dim=-1)
    return out if residual is None else residual + out


def gated(
    x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, norm: torch.Tensor | None = None, eps: float = 0.0
) -> torch.Tensor:
    """SwiGLU's first half (arXiv 2002.05202): silu(x gate') * (x up'), after an RMSNorm where given.

    Args:
        x: [B, K]; gate, up: [N, K]; norm: [K].

    Returns:
        [B, N].
    """
    x = rms_norm(x, norm, eps)
    return silu(linear(x, gate)) * linear(x, up)


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
    """Queries and keys rotated (RoPE, halves side by side as in Llama); key and value written at `slot` of each row.

    Args:
        projected: [B, (Hq + 2 Hkv) D], queries, keys and values of one token.
        cos, sin: [B, D].
        keys, values: [B, Hkv, C, D], written to.
        slot: int32 [B]; a slot outside of C writes nothing.
        query_norm, key_norm: weights [D] of RMSNorms over each head before the rotation, `eps` in their roots.

    Returns:
        The queries, [B, Hq, 1, D].
    """
    batch, kv_heads, capacity, width = keys.shape
    heads = projected.view(batch, -1, width)  # [B, Hq + 2 Hkv, D]
    query, key, value = heads.split([heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
    query, key = rms_norm(query, query_norm, eps), rms_norm(key, key_norm, eps)
    cos, sin = cos[:, None], sin[:, None]

    def rotated(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    rows = torch.arange(batch, device=slot.device)
    fits = ((slot >= 0) & (slot < capacity))[:, None, None]
    place = slot.clamp(0, capacity - 1).long()
    keys[rows, :, place] = torch.where(fits, rotated(key), keys[rows, :, place])
    values[rows, :, place] = torch.where(fits, value, values[rows, :, place])
    return rotated(query)[:, :, None]


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """x over its root mean square along the last dimension, times the weight; None = x itself (arXiv 1910.07467)."""
    if weight is None:
        return x
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)
