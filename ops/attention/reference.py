"""The specification of causal attention, in plain torch."""

from __future__ import annotations

import torch


def causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """softmax(scale q k' + bottom-right causal mask) v: the last query sees every key, the one before it one key less.

    Args:
        query: [B, Hq, S, D], any floating type.
        key, value: [B, Hkv, L, D] with L >= S and Hq a multiple of Hkv; query head h reads head h // (Hq / Hkv).
        scale: factor on the scores; None = D ** -0.5.

    Returns:
        [B, Hq, S, D], in the query's type; computed in at least float32.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    group = query.shape[1] // key.shape[1]
    key = key.to(wide).repeat_interleave(group, dim=1)  # [B, Hq, L, D]
    value = value.to(wide).repeat_interleave(group, dim=1)
    scores = query.to(wide) @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    queries, keys = scores.shape[-2:]
    future = torch.ones(queries, keys, dtype=torch.bool, device=query.device).triu(keys - queries + 1)
    return (scores.masked_fill(future, float("-inf")).softmax(-1) @ value).to(query.dtype)
