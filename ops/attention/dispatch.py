"""Which kernel serves causal attention."""

from __future__ import annotations

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from npukv.ops.attention import cpu


def explain(device_type: str, dtype: torch.dtype) -> tuple[str, str]:
    """(kernel, reason) for tensors on that type of device: "blocked" or "sdpa"."""
    if device_type != "cpu":
        return "sdpa", "torch's fused kernels serve this device"
    if dtype is torch.float32:
        return "sdpa", "in float32 torch's own kernel is as fast"
    return "blocked", "one large product per block of queries runs at the matrix library's rate"


def causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """Bottom-right causal attention; see `reference.causal_attention` for shapes and meaning."""
    kernel, _ = explain(query.device.type, query.dtype)
    if kernel == "blocked":
        return cpu.causal_attention(query, key, value, scale)
    queries, keys = query.shape[2], key.shape[2]
    if queries == 1:
        return scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=True)
    if queries == keys:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
    mask = causal_lower_right(queries, keys)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True)
