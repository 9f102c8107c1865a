"""The specification of key clustering, in plain torch (after Chelsea / CentroidKV, arXiv 2506.11418).

Keys are matched before their rotary embedding: rotated, the same content far apart looks different. Beside their
likeness, pairs near the mean key merge first. Most keys lie close to it, and attention hardly tells them apart; the few
that lie far from it are what a later question finds (KeyDiff, arXiv 2504.15364, evicts by this; here it orders merges).
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from npukv.ops.clustering.plan import shares


def soft_match(
    keys: torch.Tensor, centre: torch.Tensor, chunks: int, chunk: int, merges: int, typical: float = 1.0
) -> torch.Tensor:
    """Where each key goes when every chunk merges its best pairs, all in one pass.

    Inside a chunk, the keys at even places are sources, those at odd places targets. A source's partner is the target
    t with the largest cos(s, t) + typical * cos(t, centre), and its score is that plus typical * cos(s, centre). The
    sources with the highest scores (equal ones: the first) join their partners; all others stay, in order.

    Args:
        keys: [B, H, L, D], before RoPE, any floating type.
        centre: [B, H, D] float32, the mean of the normalised keys.
        chunks, chunk: the first `chunks` * `chunk` keys are matched, the others stay.
        merges: sources that merge, at most half of what is matched; chunk i of n merges as many as lie from
            floor(merges i / n) to floor(merges (i + 1) / n).
        typical: weight of the closeness to the centre.

    Returns:
        [B, H, L] int32: each key's place among the L - merges that are left.
    """
    length, matched = keys.shape[2], chunks * chunk
    wide = torch.promote_types(keys.dtype, torch.float32)
    x = normalize(keys[:, :, :matched].to(wide), dim=-1).unflatten(2, (chunks, chunk))
    close = typical * (x * centre.to(wide)[:, :, None, None]).sum(-1)  # [B, H, chunks, chunk]
    scores = x[..., 0::2, :] @ x[..., 1::2, :].transpose(-1, -2) + close[..., None, 1::2]
    best, partner = scores.max(-1)  # [B, H, chunks, chunk / 2]
    before = torch.tensor(shares(chunks, merges), device=keys.device)
    order = (best + close[..., 0::2]).argsort(dim=-1, descending=True, stable=True)
    leaves = order.argsort(dim=-1) < before.diff()[:, None]
    stays = torch.ones_like(close, dtype=torch.bool)
    stays[..., 0::2] = ~leaves
    place = stays.cumsum(-1) - 1
    place[..., 0::2] = torch.where(leaves, place[..., 1::2].gather(-1, partner), place[..., 0::2])
    place += (torch.arange(chunks, device=keys.device) * chunk - before[:-1])[:, None]
    behind = torch.arange(matched, length, device=keys.device) - merges
    return torch.cat([place.flatten(2), behind.expand(*keys.shape[:2], -1)], dim=2).int()


def merge_centroids(x: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int) -> torch.Tensor:
    """Degree-weighted means of what goes to the same place.

    Args:
        x: [B, H, L, D], keys or values.
        degrees: [B, H, L] float32, how many tokens each stands for.
        places: [B, H, L] int32, in 0 ... kept - 1; every place is taken at least once.

    Returns:
        [B, H, kept, D] in the type of x, summed in at least float32.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    weights = degrees.to(wide)[..., None]
    where = places.long()[..., None]
    total = weights.new_zeros(*x.shape[:2], kept, 1).scatter_add_(2, where, weights)
    sums = total.new_zeros(*x.shape[:2], kept, x.shape[3])
    sums.scatter_add_(2, where.expand_as(x), x.to(wide) * weights)
    return (sums / total).to(x.dtype)


def turned_back(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Keys [B, H, L, D] whose halves RoPE turned against each other, as they were before. cos, sin: [..., L, D / 2]."""
    one, two = keys.chunk(2, dim=-1)
    return torch.cat([torch.addcmul(one * cos, two, sin), torch.addcmul(two * cos, one, sin, value=-1)], dim=-1)


def cluster(
    keys: torch.Tensor,
    degrees: torch.Tensor,
    plan: list[int],
    typical: float = 1.0,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
) -> torch.Tensor:
    """Passes of `soft_match` and `merge_centroids`, one after the other.

    Kernels may sum in another order, and hold centroids more exactly than the keys' type: of partners and scores that
    are as alike as the rounding of that type they may choose others than this one, but as many.

    Args:
        keys: [B, H, L, D], before RoPE, or after it with the cosines and sines of the angles.
        degrees: [B, H, L] float32.
        plan: [chunks, chunk, merges] per pass, as `plan.merge_plan` makes it.
        cos, sin: [L, D / 2] or [B, H, L, D / 2], in the type of the keys: turn the halves of the keys back first.

    Returns:
        [B, H, L] int32: each key's place among those left after the last pass.
    """
    if cos is not None and sin is not None:
        keys = turned_back(keys, cos, sin)
    wide = torch.promote_types(keys.dtype, torch.float32)
    weights = degrees.to(wide)[..., None]
    centre = (normalize(keys.to(wide), dim=-1) * weights).sum(2) / weights.sum(2)
    places = torch.arange(keys.shape[2], device=keys.device, dtype=torch.int32).expand(degrees.shape).contiguous()
    for at in range(0, len(plan), 3):
        chunks, chunk, merges = plan[at : at + 3]
        step = soft_match(keys, centre, chunks, chunk, merges, typical)
        kept = keys.shape[2] - merges
        keys = merge_centroids(keys, degrees, step, kept)
        degrees = merge_degrees(degrees, step, kept)
        places = step.gather(2, places.long())
    return places


def merge_degrees(degrees: torch.Tensor, places: torch.Tensor, kept: int) -> torch.Tensor:
    """Sums of the degrees [B, H, L] that go to the same place, [B, H, kept]."""
    return degrees.new_zeros(*degrees.shape[:2], kept).scatter_add_(2, places.long(), degrees)


def merge_pair(
    keys: torch.Tensor, values: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`merge_centroids` of keys and of values, and `merge_degrees`."""
    key_means, value_means = (merge_centroids(x, degrees, places, kept) for x in (keys, values))
    return key_means, value_means, merge_degrees(degrees, places, kept)
