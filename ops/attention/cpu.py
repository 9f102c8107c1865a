"""Attention for CPUs.

torch's own kernel multiplies small tiles and reaches about a tenth of the rate of the matrix library behind
`torch.matmul` where the CPU multiplies bfloat16 in hardware. Here a block of queries, with all the heads that share a
KV head, meets all the keys it may see in one product, so that both products run at the library's rate, and the blocks
keep the work above the diagonal small.
"""

from __future__ import annotations

import torch

from npukv.ops.attention.reference import laid_out

#: Queries per block: small enough to skip most of the masked triangle, large enough for full-rate products.
BLOCK = 128
#: Scores of a block beyond which partial attention takes fewer queries at a time: 64 MB in float32.
SCORES = 1 << 24


def causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """As the reference; scores are rounded to the inputs' type before the softmax, which itself runs in float32."""
    batch, heads, queries, width = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    group, past = heads // kv_heads, keys - queries
    scale = width**-0.5 if scale is None else scale
    # Laid out so that the caller's transpose back to [B, S, Hq, D] is free.
    out = query.new_empty(batch, queries, heads, width).transpose(1, 2)
    for start in range(0, queries, BLOCK):
        stop = min(start + BLOCK, queries)
        rows, seen = stop - start, past + stop
        block = (query[:, :, start:stop] * scale).reshape(batch, kv_heads, group * rows, width)
        scores = (block @ key[:, :, :seen].transpose(-1, -2)).view(batch, heads, rows, seen)
        if rows > 1:
            future = torch.full((rows, rows), float("-inf"), dtype=scores.dtype).triu_(1)
            scores[..., past + start :] += future
        weights = scores.softmax(-1).view(batch, kv_heads, group * rows, seen)
        out[:, :, start:stop] = (weights @ value[:, :, :seen]).view(batch, heads, rows, width)
    return out


def partial_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None = None,
    length: torch.Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference; the products are rounded to the inputs' type, everything between them runs in float32."""
    batch, heads, queries, width = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    out, lse = query.new_empty(query.shape), query.new_empty(query.shape[:3], dtype=wide)
    lengths = [key.shape[2]] * batch if length is None else length.clamp(max=key.shape[2]).tolist()
    query = query * (width**-0.5 if scale is None else scale)
    first = 0
    while first < batch:  # rows of one length at a time: mostly all of them
        last = next((row for row in range(first, batch) if lengths[row] != lengths[first]), batch)
        rows, keys = slice(first, last), lengths[first]
        block = max(1, min(BLOCK, SCORES // ((last - first) * heads * max(keys, 1))))
        for start in range(0, queries, block):
            stop = min(start + block, queries)
            seen = max(0, keys - queries + stop) if causal else keys
            out[rows, :, start:stop], lse[rows, :, start:stop] = _attend(
                query[rows, :, start:stop],
                key[rows, :, :seen],
                value[rows, :, :seen],
                None if bias is None else bias[rows, :, :seen],
                causal,
            )
        first = last
    return out, lse


def indexed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    indices: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference; the named keys are first copied side by side."""
    named, place = indices >= 0, indices.clamp(min=0).long()
    key, value = _taken(key, place), _taken(value, place)
    chosen = None if bias is None else bias.gather(2, place)
    if not named.all():
        value = value.masked_fill(~named[..., None], 0)  # what stands in for "none" may be NaN
        key = key.masked_fill(~named[..., None], 0)
        chosen = torch.zeros(indices.shape) if chosen is None else chosen
        chosen = chosen.masked_fill(~named, float("-inf"))
    return partial_attention(query, key, value, chosen, None, scale)


def paged_attention(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    block_table: torch.Tensor,
    length: torch.Tensor,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference; the pages are first copied side by side."""
    key, value, absent = laid_out(key_pages, value_pages, block_table)
    return partial_attention(query, key, value, absent, length, scale)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """A block of queries over the keys the last of them sees; the queries come scaled."""
    batch, _, queries, width = query.shape
    kv_heads, keys = key.shape[1:3]
    wide = torch.promote_types(query.dtype, torch.float32)
    if keys == 0:
        return torch.zeros_like(query), query.new_full(query.shape[:3], float("-inf"), dtype=wide)
    grouped = query.reshape(batch, kv_heads, -1, width)  # [B, Hkv, G S, D]
    if grouped.shape[2] < 16 and query.dtype is torch.float32:  # torch's float32 product wants the long side first
        scores = (key @ grouped.transpose(-1, -2)).transpose(-1, -2).contiguous()
    else:
        scores = (grouped @ key.transpose(-1, -2)).to(wide)
    scores = scores.view(batch, kv_heads, -1, queries, keys)
    if bias is not None:
        scores += bias[:, :, None, None]
    if causal and queries > 1:
        triangle = min(queries - 1, keys)  # the keys that not all of the queries see
        position = torch.arange(keys - triangle, keys)
        future = position > torch.arange(keys - queries, keys)[:, None]
        scores[..., keys - triangle :].masked_fill_(future, float("-inf"))
    most = scores.amax(-1, keepdim=True).clamp_(min=torch.finfo(wide).min)  # finite also where nothing is seen
    weights = scores.sub_(most).exp_()
    total = weights.sum(-1, keepdim=True)
    out = weights.to(query.dtype).view(batch, kv_heads, -1, keys) @ value
    out = out.view(batch, kv_heads, -1, queries, width) / total.clamp(min=1)  # a seen key's weight is 1
    lse = (most + total.log()).squeeze(-1)
    return out.to(query.dtype).flatten(1, 2), lse.flatten(1, 2)


def _taken(tensor: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """tensor [B, H, C, D] at place [B, H, K] -> [B, H, K, D]; torch copies rows of a matrix faster than it gathers."""
    batch, heads, length, width = tensor.shape
    row, rest = [stride // width for stride in tensor.stride()[:3]], [s % width for s in tensor.stride()[:3]]
    if any(rest) or tensor.stride(3) != 1:
        return tensor.gather(2, place[..., None].expand(-1, -1, -1, width))
    last = (batch - 1) * row[0] + (heads - 1) * row[1] + (length - 1) * row[2]
    rows = tensor.as_strided((last + 1, width), (width, 1))
    base = torch.arange(batch)[:, None, None] * row[0] + torch.arange(heads)[:, None] * row[1]
    return rows.index_select(0, (base + place * row[2]).flatten()).view(*place.shape, width)
