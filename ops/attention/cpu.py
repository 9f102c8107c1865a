"""Causal attention for CPUs that multiply bfloat16 in hardware.

torch's own kernel multiplies small tiles and reaches about a tenth of the rate of the matrix library behind
`torch.matmul`. Here a block of queries meets all the keys it may see in one product, so that both products run at the
library's rate, and the blocks keep the work above the diagonal small.
"""

from __future__ import annotations

import torch

#: Queries per block: small enough to skip most of the masked triangle, large enough for full-rate products.
BLOCK = 128


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
