"""The specification of hash codes, Hamming scores and selection, in plain torch (HATA, arXiv 2506.02572).

A code is the signs of a projection, 32 to an int32 word. The nearest keys of a query by Hamming distance stand in for
those of the largest product with it; the distances of a group of query heads that share a KV head are summed.
"""

from __future__ import annotations

import torch

from npukv.ops.attention import reference as attention

#: The score of a position that holds no token.
ABSENT = torch.iinfo(torch.int32).max

#: Tokens of a page in paged engines.
BLOCK = 128


def hash_encode(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Bit j of word w is 1 where (x W)[32 w + j] > 0.

    Args:
        x: [B, H, S, D], keys or queries after RoPE.
        weights: [Hkv, D, r], r a multiple of 32; head h of x uses weights h // (H / Hkv).

    Returns:
        int32 [B, H, S, r / 32]. Projected in at least float32.
    """
    batch, heads, tokens, width = x.shape
    kv_heads, _, bits = weights.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    grouped = x.to(wide).reshape(batch, kv_heads, heads // kv_heads * tokens, width)
    signs = (grouped @ weights.to(wide) > 0).view(batch, heads, tokens, bits // 32, 32)
    place = torch.arange(32, dtype=torch.int32, device=x.device)
    return (signs.to(torch.int32) << place).sum(-1, dtype=torch.int32)


def hash_append(
    key: torch.Tensor,
    value: torch.Tensor,
    weights: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    codes: torch.Tensor,
    length: torch.Tensor,
) -> None:
    """Write S tokens and their codes into the cache, row b at length[b]; `length` itself stays as it is.

    Args:
        key, value: [B, Hkv, S, D].
        keys, values, codes: written to; [B, Hkv, C, D] twice and int32 [B, Hkv, C, r / 32], length + S <= C.
        length: int32 [B], tokens held before.
    """
    batch, heads, tokens, _ = key.shape
    place = length.long()[:, None] + torch.arange(tokens, device=key.device)  # [B, S]
    place = place[:, None, :, None].expand(batch, heads, tokens, 1)
    for held, new in ((keys, key), (values, value), (codes, hash_encode(key, weights))):
        held.scatter_(2, place.expand(-1, -1, -1, new.shape[-1]), new.to(held.dtype))


def hash_step(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    weights: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    codes: torch.Tensor,
    length: torch.Tensor,
) -> torch.Tensor:
    """`hash_append` of one token, and the codes of the query that came with it: int32 [B, Hq, 1, r / 32]."""
    hash_append(key, value, weights, keys, values, codes, length)
    return hash_encode(query, weights)


def popcount(words: torch.Tensor) -> torch.Tensor:
    """Number of set bits of int32 words, by parallel sums of 2, 4 and 8 bits; int32."""
    x = words.long() & 0xFFFFFFFF
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101 & 0xFFFFFFFF) >> 24).to(torch.int32)


def hamming_scores(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor | None = None,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Hamming distance of every key to the query, summed over the query heads of its KV head: the lower, the closer.

    Args:
        query_codes: int32 [B, Hq, 1, w].
        key_codes: int32 [B, Hkv, C, w].
        length: int32 [B], positions from it on are `ABSENT`; None = all C hold a token.
        start: int32 [B], positions before it are padding, `ABSENT`; None = no padding.

    Returns:
        int32 [B, Hkv, C], from 0 to 32 w Hq / Hkv.
    """
    batch, kv_heads, _, words = key_codes.shape
    query = query_codes.view(batch, kv_heads, -1, 1, words)
    distances = popcount(query ^ key_codes[:, :, None]).sum((2, 4), dtype=torch.int32)
    return distances.masked_fill(~_held(key_codes.shape[2], length, start, key_codes.device), ABSENT)


def hamming_scores_matmul(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor | None = None,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `hamming_scores`, equal to the bit, as a product of codes of +1 and -1: (G r - (sum_g q_g) . k) / 2.

    The form for units that multiply matrices and count no bits. float32 holds the sums exactly up to G r = 2^24.
    """
    batch, kv_heads, _, words = key_codes.shape
    query = unpack(query_codes).view(batch, kv_heads, -1, 32 * words)  # [B, Hkv, G, r]
    largest = query.shape[2] * query.shape[3]
    products = unpack(key_codes) @ query.sum(2)[..., None]  # [B, Hkv, C, 1]
    distances = ((largest - products[..., 0]) / 2).to(torch.int32)
    return distances.masked_fill(~_held(key_codes.shape[2], length, start, key_codes.device), ABSENT)


def unpack(codes: torch.Tensor) -> torch.Tensor:
    """int32 [..., w] -> float32 [..., 32 w], +1 where the bit is set, else -1."""
    place = torch.arange(32, dtype=torch.int32, device=codes.device)
    return ((codes[..., None] >> place) & 1).flatten(-2).to(torch.float32) * 2 - 1


def select_top_k(
    scores: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    start: torch.Tensor | None = None,
    largest: int = 0,
) -> torch.Tensor:
    """The positions of the lowest scores; the first `sink` and the last `recent` tokens always; of equals, the last.

    Args:
        scores: int32 [B, Hkv, C].
        length, start: int32 [B], the tokens are those from `start` (None = 0) to before `length`.
        budget: positions to select, sink and recent tokens included; all where there are no more.
        largest: no score of a token is above it (0 = not known; kernels that count scores need it).

    Returns:
        int32 [B, Hkv, budget], ascending, -1 after the last.

    Raises:
        ValueError: budget < sink + recent.
    """
    check_budget(budget, sink, recent)
    capacity = scores.shape[2]
    position = torch.arange(capacity, device=scores.device)
    end = length.long()[:, None, None]
    begin = torch.zeros_like(end) if start is None else start.long()[:, None, None]
    key = scores.long() * capacity + (capacity - 1 - position)  # unique: of equal scores the last is the lowest
    forced = (position < begin + sink) | (position >= end - recent)
    key = torch.where(forced, position - capacity, key)
    key = torch.where((position >= begin) & (position < end), key, torch.iinfo(torch.int64).max)
    chosen = key.topk(min(budget, capacity), dim=-1, largest=False).indices
    absent = (chosen < begin) | (chosen >= end)
    chosen = chosen.masked_fill(absent, capacity).sort(-1).values
    chosen = chosen.masked_fill(chosen == capacity, -1).to(torch.int32)
    return torch.nn.functional.pad(chosen, (0, budget - chosen.shape[-1]), value=-1)


def check_budget(budget: int, sink: int, recent: int) -> None:
    if min(sink, recent) < 0 or budget < max(1, sink + recent):
        raise ValueError(f"got a budget of {budget} for {sink} sink and {recent} recent tokens: expected at least both")


def hamming_select(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """`select_top_k` of `hamming_scores`: int32 [B, Hkv, budget]."""
    return select_top_k(hamming_scores(query_codes, key_codes, length, start), length, budget, sink, recent, start)


def hashed_attention(
    query: torch.Tensor,
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    start: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`indexed_attention` to the positions of `hamming_select`.

    Args:
        query: [B, Hq, 1, D]; key, value: [B, Hkv, C, D]; scale: factor on the products, None = D ** -0.5.

    Returns:
        out [B, Hq, 1, D] in the query's type and lse [B, Hq, 1] in float32 (float64 for float64 inputs).
    """
    chosen = hamming_select(query_codes, key_codes, length, budget, sink, recent, start)
    return attention.indexed_attention(query, key, value, chosen, None, scale)


def hash_decode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    weights: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    codes: torch.Tensor,
    length: torch.Tensor,
    budget: int,
    sink: int,
    recent: int,
    start: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's decode step: `hash_step` at length - 1, then `hashed_attention`.

    Args:
        query: [B, Hq, 1, D]; key, value: [B, Hkv, 1, D]; weights: [Hkv, D, r].
        keys, values, codes: [B, Hkv, C, D] and [B, Hkv, C, r / 32], appended to in place where length is at most C.
        length: int32 [B], tokens held with this one, at least 1.
        budget, sink, recent, start, scale: as there.

    Returns:
        out [B, Hq, 1, D] and lse [B, Hq, 1], as there.
    """
    asked = hash_step(query, key, value, weights, keys, values, codes, length - 1)
    return hashed_attention(query, asked, codes, keys, values, length, budget, sink, recent, start, scale)


def select_blocks(
    scores: torch.Tensor,
    length: torch.Tensor,
    blocks: int,
    sink_blocks: int,
    recent_blocks: int,
    largest: int = 0,
) -> torch.Tensor:
    """As `select_top_k`, of blocks of 128 tokens, each by its lowest score; for engines that page the cache.

    Returns:
        int32 [B, Hkv, blocks], numbers of blocks, ascending, -1 after the last.
    """
    padded = torch.nn.functional.pad(scores, (0, -scores.shape[2] % BLOCK), value=ABSENT)
    lowest = padded.unflatten(2, (-1, BLOCK)).amin(-1)
    held = torch.div(length + BLOCK - 1, BLOCK, rounding_mode="floor").to(length.dtype)
    return select_top_k(lowest, held, blocks, sink_blocks, recent_blocks)


def _held(capacity: int, length: torch.Tensor | None, start: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """Boolean, broadcasts to [B, Hkv, C]: which positions hold a token."""
    position = torch.arange(capacity, device=device)
    held = torch.ones(1, 1, capacity, dtype=torch.bool, device=device)
    if length is not None:
        held = held & (position < length[:, None, None])
    if start is not None:
        held = held & (position >= start[:, None, None])
    return held
