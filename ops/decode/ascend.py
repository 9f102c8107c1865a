"""The decode step's operators through torch_npu's fused norm and rotation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import linear, silu

from npukv.backends.ascend import calls, legality
from npukv.ops.decode.operators import gated, project, rotate_append


def project_fused(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    x = _normed(x, norm, eps)
    out = torch.cat([linear(x, weight, *biases[i : i + 1]) for i, weight in enumerate(weights)], dim=-1)
    return out if residual is None else residual + out


def gated_fused(
    x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, norm: torch.Tensor | None = None, eps: float = 0.0
) -> torch.Tensor:
    x = _normed(x, norm, eps)
    return silu(linear(x, gate)) * linear(x, up)


def rotate_fused(
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
    batch, kv_heads, capacity, width = keys.shape
    heads = projected.view(batch, -1, 1, width)  # [B, Hq + 2 Hkv, 1, D]
    query, key, value = heads.split([heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
    turned = torch.cat([_normed(query, query_norm, eps), _normed(key, key_norm, eps)], dim=1)
    cos, sin = (x[:, None, None].to(projected.dtype).contiguous() for x in (cos, sin))
    query, key = calls.rotary_mul(turned, cos, sin).split([query.shape[1], kv_heads], dim=1)
    rows = torch.arange(batch, device=slot.device)
    fits = ((slot >= 0) & (slot < capacity))[:, None, None]
    place = slot.clamp(0, capacity - 1).long()
    for held, new in ((keys, key), (values, value)):
        held[rows, :, place] = torch.where(fits, new[:, :, 0].to(held.dtype), held[rows, :, place])
    return query


def _normed(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    return x if weight is None else calls.rms_norm(x.contiguous(), weight, eps)[0]


def check_project(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
    residual: torch.Tensor | None = None,
) -> tuple[bool, str]:
    return legality.rms_norm(x, x if norm is None else norm)


def check_gated(
    x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, norm: torch.Tensor | None = None, eps: float = 0.0
) -> tuple[bool, str]:
    return legality.rms_norm(x, x if norm is None else norm)


def check_rotate(
    projected: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slot: torch.Tensor,
    query_norm: torch.Tensor | None = None,
    key_norm: torch.Tensor | None = None,
    eps: float = 0.0,
) -> tuple[bool, str]:
    for norm in (query_norm, key_norm):
        if norm is not None and norm.dtype != projected.dtype:
            return False, f"takes norms of the type of what they norm, got {norm.dtype} and {projected.dtype}"
    heads = projected.view(keys.shape[0], -1, 1, keys.shape[3])
    return legality.rotary(heads, cos[:, None, None].to(projected.dtype))


def register() -> None:
    project.kernel(calls.DEVICE, "rms_norm", check_project)(project_fused)
    gated.kernel(calls.DEVICE, "rms_norm", check_gated)(gated_fused)
    rotate_append.kernel(calls.DEVICE, "rotary_mul", check_rotate)(rotate_fused)


register()
