"""The decode step's operators through torch_npu's fused norm and rotation."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear, silu

from npukv.backends.ascend import calls, legality
from npukv.ops.decode.operators import gated, project, rotate_append


def project_fused(a: Any) -> torch.Tensor:
    x = _normed(a.x, a.norm, a.eps)
    out = torch.cat([linear(x, weight, *a.biases[i : i + 1]) for i, weight in enumerate(a.weights)], dim=-1)
    return out if a.residual is None else a.residual + out


def gated_fused(a: Any) -> torch.Tensor:
    x = _normed(a.x, a.norm, a.eps)
    return silu(linear(x, a.gate)) * linear(x, a.up)


def rotate_fused(a: Any) -> torch.Tensor:
    batch, kv_heads, capacity, width = a.keys.shape
    heads = a.projected.view(batch, -1, 1, width)  # [B, Hq + 2 Hkv, 1, D]
    query, key, value = heads.split([heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
    turned = torch.cat([_normed(query, a.query_norm, a.eps), _normed(key, a.key_norm, a.eps)], dim=1)
    cos, sin = (x[:, None, None].to(a.projected.dtype).contiguous() for x in (a.cos, a.sin))
    query, key = calls.rotary_mul(turned, cos, sin).split([query.shape[1], kv_heads], dim=1)
    rows = torch.arange(batch, device=a.slot.device)
    fits = ((a.slot >= 0) & (a.slot < capacity))[:, None, None]
    place = a.slot.clamp(0, capacity - 1).long()
    for held, new in ((a.keys, key), (a.values, value)):
        held[rows, :, place] = torch.where(fits, new[:, :, 0].to(held.dtype), held[rows, :, place])
    return query


def _normed(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    return x if weight is None else calls.rms_norm(x.contiguous(), weight, eps)[0]


def check_norm(a: Any) -> tuple[bool, str]:
    return legality.rms_norm(a.x, a.x if a.norm is None else a.norm)


def check_rotate(a: Any) -> tuple[bool, str]:
    for norm in (a.query_norm, a.key_norm):
        if norm is not None and norm.dtype != a.projected.dtype:
            return False, f"takes norms of the type of what they norm, got {norm.dtype} and {a.projected.dtype}"
    heads = a.projected.view(a.keys.shape[0], -1, 1, a.keys.shape[3])
    return legality.rotary(heads, a.cos[:, None, None].to(a.projected.dtype))


def register() -> None:
    project.kernel_by_name(calls.DEVICE, "rms_norm", check_norm)(project_fused)
    gated.kernel_by_name(calls.DEVICE, "rms_norm", check_norm)(gated_fused)
    rotate_append.kernel_by_name(calls.DEVICE, "rotary_mul", check_rotate)(rotate_fused)


register()
