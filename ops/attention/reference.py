"""The specifications of attention, in plain torch.

A *partial* is attention over some of the keys: its output, and the log of the sum of the exponentiated scores (lse,
natural logarithm). Partials over disjoint sets of keys merge to attention over all of them, exactly.
"""

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


def partial_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None = None,
    length: torch.Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(scale q k' + bias) v over the first `length` keys, with the log-sum-exp that makes it mergeable.

    Args:
        query: [B, Hq, S, D].
        key, value: [B, Hkv, C, D], of the query's type; query head h reads head h // (Hq / Hkv). Behind a row's length
            they may hold anything, also NaN; in a captured graph, anything finite (where the host can tell a kernel no
            lengths, it reads what is there and gives it no weight).
        bias: [B, Hkv, C] float32, added to the scaled scores: the log of how many keys a centroid stands for; -inf =
            absent (for the tuned kernels the key and value there must still be finite).
        length: [B] int32, keys that count in each row; None = all C.
        scale: factor on the products; None = D ** -0.5.
        causal: bottom-right: query i of S sees the keys before position length - S + i + 1.

    Returns:
        out [B, Hq, S, D] in the query's type and lse [B, Hq, S] in float32 (float64 for float64 inputs). A query that
        sees no key has out 0 and lse -inf.
    """
    (queries, width), (kv_heads, keys) = query.shape[2:], key.shape[1:3]
    limit = key.new_full((key.shape[0],), keys, dtype=torch.int32) if length is None else length
    hidden = torch.arange(queries - 1, -1, -1, device=query.device) if causal else limit.new_zeros(queries)
    seen = torch.arange(keys, device=query.device) < (limit[:, None] - hidden)[:, None, :, None]  # [B, 1, S, C]
    if bias is not None:
        seen = seen & (bias > float("-inf"))[:, :, None]  # [B, Hkv, S, C]
    wide = torch.promote_types(query.dtype, torch.float32)
    grouped = query.to(wide).reshape(len(query), kv_heads, -1, width)  # [B, Hkv, G S, D]
    scores = grouped @ key.to(wide).transpose(-1, -2) * (width**-0.5 if scale is None else scale)
    scores = scores.unflatten(2, (-1, queries))  # [B, Hkv, G, S, C]
    if bias is not None:
        scores = scores + bias[:, :, None, None]
    scores = scores.masked_fill(~seen[:, :, None], float("-inf"))
    present = value.to(wide).masked_fill(~seen.any(2)[..., None], 0)  # what nobody sees may be NaN
    return _weighted(scores, present, query.dtype)


def indexed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    indices: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of one query per head over the keys that an index list names.

    Args:
        query: [B, Hq, 1, D]; key, value: [B, Hkv, C, D]; bias: [B, Hkv, C] float32 or None; scale: as above.
        indices: [B, Hkv, K] int32, positions of keys, shared by the query heads of a group; -1 = none. A position named
            twice counts twice.

    Returns:
        out [B, Hq, 1, D] and lse [B, Hq, 1], as `partial_attention`.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    named, rows = indices >= 0, indices.clamp(min=0).long()[..., None].expand(-1, -1, -1, query.shape[-1])
    present = value.gather(2, rows).to(wide).masked_fill(~named[..., None], 0)  # [B, Hkv, K, D]
    grouped = query.to(wide).reshape(len(query), key.shape[1], -1, query.shape[-1])  # [B, Hkv, G, D]
    scores = grouped @ key.gather(2, rows).to(wide).transpose(-1, -2)
    scores = scores[:, :, :, None] * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias.gather(2, rows[..., 0])[:, :, None, None]
    return _weighted(scores.masked_fill(~named[:, :, None, None], float("-inf")), present, query.dtype)


def paged_attention(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    block_table: torch.Tensor,
    length: torch.Tensor,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of one query per head over keys that lie in pages.

    Args:
        query: [B, Hq, 1, D].
        key_pages, value_pages: [P, T, Hkv, D], T tokens per page (128). For the tuned kernels they are finite
            throughout, as pages are that were blanked when they were made.
        block_table: [B, N] or, per head, [B, Hkv, N] int32: position p of a row is token p % T of page
            block_table[p // T]; -1 = no page, its positions are absent.
        length: [B] int32, positions that count in each row of the table.

    Returns:
        out [B, Hq, 1, D] and lse [B, Hq, 1], as `partial_attention`.
    """
    key, value, absent = laid_out(key_pages, value_pages, block_table)
    return partial_attention(query, key, value, absent, length, scale)


def laid_out(
    key_pages: torch.Tensor, value_pages: torch.Tensor, block_table: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pages [P, T, Hkv, D] and a table -> key, value [B, Hkv, N T, D] and a bias [B, Hkv, N T]: -inf in absent pages.

    Keys and values of absent pages are 0.
    """
    tokens, kv_heads = key_pages.shape[1:3]
    table = block_table[:, None].expand(-1, kv_heads, -1) if block_table.dim() == 2 else block_table  # [B, Hkv, N]
    pages, head = table.clamp(min=0).long(), torch.arange(kv_heads, device=table.device)[:, None]
    hole = (table < 0)[..., None, None]
    key, value = (
        stored[pages, :, head].masked_fill(hole, 0).flatten(2, 3)  # [B, Hkv, N, T, D] -> [B, Hkv, N T, D]
        for stored in (key_pages, value_pages)
    )
    absent = torch.zeros(table.shape, device=table.device).masked_fill(table < 0, float("-inf"))
    return key, value, absent.repeat_interleave(tokens, -1)


def merge_partials(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over the union of disjoint sets of keys, from the partial over each.

    Args:
        outs: [P, B, Hq, S, D], outputs of P partials.
        lses: [P, B, Hq, S], their log-sum-exps; -inf = that partial saw no key.

    Returns:
        out [B, Hq, S, D] in the type of `outs` and lse [B, Hq, S] in that of `lses`.
    """
    lse = lses.logsumexp(0)
    weights = (lses - lse.masked_fill(lse == float("-inf"), 0)).exp()  # [P, B, Hq, S]
    wide = torch.promote_types(outs.dtype, lses.dtype)
    return (weights[..., None].to(wide) * outs.to(wide)).sum(0).to(outs.dtype), lse


def _weighted(scores: torch.Tensor, value: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [B, Hkv, G, S, K] (-inf = unseen) and values [B, Hkv, K, D] -> out [B, Hq, S, D], lse [B, Hq, S]."""
    lse = scores.logsumexp(-1)
    weights = (scores - lse.masked_fill(lse == float("-inf"), 0)[..., None]).exp()
    out = (weights.flatten(2, 3) @ value).unflatten(2, scores.shape[2:4])
    return out.to(dtype).flatten(1, 2), lse.flatten(1, 2)
