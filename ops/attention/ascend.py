"""Attention through torch_npu's fused operators.

Three ways, tried in this order: the inference operator with the lengths read by the host; the same with everything a
row must not see pushed out by an additive bias, which leaves the lengths on the card, so that a graph may be captured;
and the training operator, the one that takes float32.

A kernel and its check are given one thing, `a`, that has the operator's arguments by name; `reference` describes them.

Where the vendor's documentation is silent on a case (a row that sees no key, the order of scale and bias), the call is
arranged so that the answer does not matter.
"""

from __future__ import annotations

from typing import Any

import torch

from npukv.backends.ascend import calls, legality
from npukv.ops.attention.operators import indexed_attention, merge_partials, paged_attention, partial_attention

#: Added to a score that must not count: exp of it is 0, and float16 holds it. Never -inf, which becomes NaN inside the
#: fused operator (github.com/tc-mb/llama.cpp-omni, #89).
HIDDEN = -3e4
#: The same for a log-sum-exp of nothing.
NOTHING = -1e30

Outputs = tuple[torch.Tensor, torch.Tensor]


def partial_fused(a: Any) -> Outputs:
    """The inference operator; waits for the lengths."""
    query, key, value, bias, length = a.query, a.key, a.value, a.bias, a.length
    held = key.shape[2]
    lengths = None if length is None else _read(length, held)
    key, value = _whole(key, value)
    if key.shape[2] > held and lengths is None:
        lengths = [held] * key.shape[0]
    return _fused(query, key, value, bias, length, lengths, a.scale, a.causal and query.shape[2] > 1, held)


def partial_masked(a: Any) -> Outputs:
    """The inference operator for one query; the lengths stay on the card, so that a graph may be captured."""
    query, key, value, bias, length = a.query, a.key, a.value, a.bias, a.length
    if length is not None:
        absent = torch.arange(key.shape[2], device=key.device) >= length[:, None]  # [B, C]
        hidden = torch.zeros(absent.shape, device=key.device).masked_fill(absent, float("-inf"))[:, None]
        bias = hidden.expand(-1, key.shape[1], -1) if bias is None else bias + hidden
    key, value = key.contiguous(), value.contiguous()
    return _fused(query, key, value, bias, length, None, a.scale, False, key.shape[2])


def partial_fusion(a: Any) -> Outputs:
    """The training operator, through a mask of queries by keys."""
    query, key, value, bias, length = a.query, a.key, a.value, a.bias, a.length
    (batch, heads, queries, width), keys = query.shape, key.shape[2]
    scale = width**-0.5 if a.scale is None else a.scale
    seen = _seen(query, key, length, a.causal)  # [B, 1, S, C]
    present = seen.any(2)[..., None]
    key, value = (x.masked_fill(~present, 0).contiguous() for x in (key, value))  # what nobody sees may be NaN
    shift = None
    if bias is not None:  # added before scaling, as documented for this operator
        bias = bias.repeat_interleave(heads // key.shape[1], 1)[:, :, None]  # [B, Hq, 1, C]
        seen = seen & (bias > float("-inf"))
        shift = (bias.clamp(min=HIDDEN) / scale).to(query.dtype).expand(-1, -1, queries, -1).contiguous()
    mask = (~seen).expand(batch, -1, queries, keys).contiguous()
    out, top, total = calls.fusion_attention(query.contiguous(), key, value, shift, mask, heads, scale, calls.FULL_MASK)
    lse = top[..., 0] + total[..., 0].log()
    return _without_blind(out, lse, seen.any(-1))


def indexed_gathered(a: Any) -> Outputs:
    """The named keys, copied together, and attention over them."""
    rows = a.indices.clamp(min=0).long()
    if a.bias is None:
        bias = torch.zeros(a.indices.shape, dtype=torch.float32, device=a.indices.device)
    else:
        bias = a.bias.gather(2, rows)
    bias = bias.masked_fill(a.indices < 0, float("-inf"))
    rows = rows[..., None].expand(-1, -1, -1, a.query.shape[-1])
    return _over_copies(a.query, a.key.gather(2, rows), a.value.gather(2, rows), bias, a.scale)


def paged_fused(a: Any) -> Outputs:
    """The inference operator over the pages where they lie; all heads read the same pages."""
    tokens, kv_heads = a.key_pages.shape[1:3]
    table = a.block_table[:, 0] if a.block_table.dim() == 3 else a.block_table  # [B, N]
    positions = table.shape[1] * tokens
    absent = (table < 0).repeat_interleave(tokens, -1)
    absent = absent | (torch.arange(positions, device=table.device) >= a.length[:, None])  # [B, N T]
    lengths = [positions] * table.shape[0] if calls.capturing() else _read(a.length, positions)
    hidden = torch.zeros(absent.shape, dtype=a.query.dtype, device=a.query.device).masked_fill(absent, HIDDEN)
    out, lse = calls.fused_infer_paged_attention(
        a.query.contiguous(),
        a.key_pages.flatten(2),
        a.value_pages.flatten(2),
        hidden[:, None, None].expand(-1, a.query.shape[1], -1, -1).contiguous(),
        table.clamp(min=0).contiguous(),
        lengths,
        a.query.shape[1],
        kv_heads,
        a.query.shape[-1] ** -0.5 if a.scale is None else a.scale,
        tokens,
    )
    return _without_blind(out, lse[..., 0], ~absent.all(-1)[:, None, None])


def paged_gathered(a: Any) -> Outputs:
    """Every head's own pages, copied together, and attention over them."""
    tokens, kv_heads = a.key_pages.shape[1:3]
    table = a.block_table[:, None].expand(-1, kv_heads, -1) if a.block_table.dim() == 2 else a.block_table
    pages, head = table.clamp(min=0).long(), torch.arange(kv_heads, device=table.device)[:, None]
    key = a.key_pages[pages, :, head].flatten(2, 3)  # [B, Hkv, N, T, D] -> [B, Hkv, N T, D]
    value = a.value_pages[pages, :, head].flatten(2, 3)
    absent = (table < 0).repeat_interleave(tokens, -1)
    absent = absent | (torch.arange(key.shape[2], device=key.device) >= a.length[:, None, None])  # [B, Hkv, N T]
    bias = torch.zeros(absent.shape, device=key.device).masked_fill(absent, float("-inf"))
    return _over_copies(a.query, key, value, bias, a.scale)


def merge_updated(a: Any) -> Outputs:
    """npu_attention_update, in float32; partials that saw nothing weigh nothing."""
    parts, width = a.outs.shape[0], a.outs.shape[-1]
    weights = a.lses.float().clamp(min=NOTHING).reshape(parts, -1)
    merged = calls.attention_update(list(weights.unbind()), list(a.outs.float().reshape(parts, -1, width).unbind()))
    return merged.view(a.outs.shape[1:]).to(a.outs.dtype), a.lses.logsumexp(0)


def _over_copies(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, scale: float | None
) -> Outputs:
    """One query over keys copied together, all finite, some of them hidden by a bias of -inf."""
    if query.dtype is torch.float32:
        return partial_fusion(partial_attention.arguments((query, key, value, bias, None, scale), {}))
    return _fused(query, key, value, bias, None, None, scale, False, key.shape[2])


def _fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    length: torch.Tensor | None,
    lengths: list[int] | None,
    scale: float | None,
    causal: bool,
    held: int,
) -> Outputs:
    """The inference operator over contiguous keys, of which the first `held` are the caller's; bias [B, Hkv, held]."""
    _, heads, queries, width = query.shape
    kv_heads, keys = key.shape[1:3]
    scale = width**-0.5 if scale is None else scale
    shift = None
    if bias is not None:
        # Scaled beforehand: whether the operator adds before or after it scales is not documented.
        query, scale = (query.float() * scale).to(query.dtype), 1.0
        shift = bias.clamp(min=HIDDEN).to(query.dtype).repeat_interleave(heads // kv_heads, 1)  # [B, Hq, held]
        shift = torch.nn.functional.pad(shift, (0, keys - held))[:, :, None].expand(-1, -1, queries, -1).contiguous()
    out, lse = calls.fused_infer_attention(
        query.contiguous(),
        key,
        value,
        shift,
        calls.causal_triangle(query.device) if causal else None,
        lengths,
        heads,
        kv_heads,
        scale,
        calls.BOTTOM_RIGHT if causal else calls.FULL_MASK,
    )
    if length is None and bias is None and not (causal and queries > held):
        return out, lse[..., 0]
    ends = _row_ends(query, held, length, causal)  # [B, S]
    sees = (ends > 0)[:, None]
    if bias is not None:
        present = (bias > float("-inf")).repeat_interleave(heads // kv_heads, 1)  # [B, Hq, held]
        first = torch.arange(held, device=bias.device).expand_as(present).masked_fill(~present, held).amin(-1)
        sees = sees & (first[..., None] < ends[:, None])
    return _without_blind(out, lse[..., 0], sees)


def _read(length: torch.Tensor, most: int) -> list[int]:
    """The lengths on the host, which waits for them."""
    return length.clamp(0, most).tolist()


def _row_ends(query: torch.Tensor, keys: int, length: torch.Tensor | None, causal: bool) -> torch.Tensor:
    """[B, S]: query i sees the keys before this position."""
    queries = query.shape[2]
    limit = torch.full((query.shape[0],), keys, device=query.device) if length is None else length
    later = torch.arange(queries - 1, -1, -1, device=query.device) if causal else torch.zeros_like(limit[:1])
    return (limit[:, None] - later).expand(-1, queries)


def _seen(query: torch.Tensor, key: torch.Tensor, length: torch.Tensor | None, causal: bool) -> torch.Tensor:
    """bool [B, 1, S, C]: which keys each query sees."""
    ends = _row_ends(query, key.shape[2], length, causal)
    return (torch.arange(key.shape[2], device=key.device) < ends[..., None])[:, None]


def _without_blind(out: torch.Tensor, lse: torch.Tensor, sees: torch.Tensor) -> Outputs:
    """Queries that see no key get output 0 and log-sum-exp -inf; sees: bool, broadcasts to [B, Hq, S]."""
    return out.masked_fill(~sees[..., None], 0), lse.masked_fill(~sees, float("-inf"))


def _whole(key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Contiguous tensors that begin with these; without a copy where they are the front of a larger cache."""
    wide = [_buffer(x) for x in (key, value)]
    if wide[0] is not None and wide[1] is not None and wide[0].shape == wide[1].shape:
        return wide[0], wide[1]
    return key.contiguous(), value.contiguous()


def _buffer(x: torch.Tensor) -> torch.Tensor | None:
    """All of the [B, H, capacity, D] that x is the first keys of."""
    batch, heads, keys, width = x.shape
    capacity = x.stride(1) // width
    if capacity < keys or x.stride() != (heads * capacity * width, capacity * width, width, 1):
        return None
    if x.storage_offset() + batch * heads * capacity * width > x.untyped_storage().nbytes() // x.element_size():
        return None
    return x.as_strided((batch, heads, capacity, width), x.stride())


def _facts(query: torch.Tensor, kv_heads: int, keys: int, **more: object) -> legality.Attention:
    batch, heads, queries, width = query.shape
    return legality.Attention(query.dtype, batch, heads, kv_heads, queries, keys, width, **more)  # type: ignore[arg-type]


def check_partial_fused(a: Any) -> tuple[bool, str]:
    if a.length is not None and calls.capturing():
        return False, "the host cannot read lengths while a graph is captured"
    facts = _facts(a.query, a.key.shape[1], a.key.shape[2], bias="" if a.bias is None else "BNSS")
    return legality.check(legality.FUSED_INFER, facts)


def check_partial_masked(a: Any) -> tuple[bool, str]:
    if a.query.shape[2] != 1:
        return False, f"takes one query per head, got {a.query.shape[2]}"
    if a.length is not None and not calls.capturing():
        return False, "with lengths it serves captured graphs: it reads what lies behind them, and must find it finite"
    return legality.check(legality.FUSED_INFER, _facts(a.query, a.key.shape[1], a.key.shape[2], bias="BNSS"))


def check_partial_fusion(a: Any) -> tuple[bool, str]:
    if calls.capturing():
        return False, "npu_fusion_attention cannot be captured (torch_npu 2.13.0, its documentation)"
    return legality.check(
        legality.FUSION, _facts(a.query, a.key.shape[1], a.key.shape[2], bias="" if a.bias is None else "BNSS")
    )


def check_indexed(a: Any) -> tuple[bool, str]:
    return _check_copies(a.query, a.key.shape[1], a.indices.shape[2])


def _check_copies(query: torch.Tensor, kv_heads: int, keys: int) -> tuple[bool, str]:
    rules = legality.FUSION if query.dtype is torch.float32 else legality.FUSED_INFER
    return legality.check(rules, _facts(query, kv_heads, keys, bias="BNSS"))


def check_paged_fused(a: Any) -> tuple[bool, str]:
    if a.block_table.dim() == 3 and a.block_table.shape[1] > 1:
        return False, "takes one table for all heads, got one per head"
    facts = _facts(
        a.query,
        a.key_pages.shape[2],
        a.block_table.shape[-1] * a.key_pages.shape[1],
        paged=True,
        block_size=a.key_pages.shape[1],
        page_elements=a.key_pages.numel(),
        bias="BNSS",
        contiguous=a.key_pages.is_contiguous() and a.value_pages.is_contiguous(),
    )
    return legality.check(legality.FUSED_INFER, facts)


def check_paged_gathered(a: Any) -> tuple[bool, str]:
    return _check_copies(a.query, a.key_pages.shape[2], a.block_table.shape[-1] * a.key_pages.shape[1])


def check_merge(a: Any) -> tuple[bool, str]:
    return legality.attention_update(a.outs, a.lses)


def register() -> None:
    """The kernels in the order they are tried."""
    partial_attention.kernel_by_name(calls.DEVICE, "fused_infer", check_partial_fused)(partial_fused)
    partial_attention.kernel_by_name(calls.DEVICE, "fused_infer_masked", check_partial_masked)(partial_masked)
    partial_attention.kernel_by_name(calls.DEVICE, "fusion", check_partial_fusion)(partial_fusion)
    indexed_attention.kernel_by_name(calls.DEVICE, "gathered", check_indexed)(indexed_gathered)
    paged_attention.kernel_by_name(calls.DEVICE, "fused_infer_paged", check_paged_fused)(paged_fused)
    paged_attention.kernel_by_name(calls.DEVICE, "gathered", check_paged_gathered)(paged_gathered)
    merge_partials.kernel_by_name(calls.DEVICE, "attention_update", check_merge)(merge_updated)


register()
