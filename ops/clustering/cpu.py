"""Clustering for CPUs: whole rows are added, and keys are widened and normalised as few times as possible."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from npukv.ops.clustering.plan import shares
from npukv.ops.clustering.reference import merge_degrees, turned_back


def merge_centroids(x: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int) -> torch.Tensor:
    """As the reference; rows of x are added whole, where scattering goes number by number."""
    batch, heads, length, width = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    rows = (places.reshape(-1, length).long() + torch.arange(batch * heads)[:, None] * kept).flatten()
    weights = degrees.to(wide).reshape(-1, 1)
    total = weights.new_zeros(batch * heads * kept, 1).index_add_(0, rows, weights)
    sums = total.new_zeros(batch * heads * kept, width)
    sums.index_add_(0, rows, x.to(wide).reshape(-1, width) * weights)
    return (sums / total).view(batch, heads, kept, width).to(x.dtype)


def merge_pair(
    keys: torch.Tensor, values: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As the reference, of `merge_centroids` here."""
    key_means, value_means = (merge_centroids(x, degrees, places, kept) for x in (keys, values))
    return key_means, value_means, merge_degrees(degrees, places, kept)


def cluster(
    keys: torch.Tensor,
    degrees: torch.Tensor,
    plan: list[int],
    typical: float = 1.0,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
) -> torch.Tensor:
    """As the reference, but centroids are not rounded to the type of the keys between passes."""
    if cos is not None and sin is not None:
        keys = turned_back(keys, cos, sin)
    batch, heads, length, width = keys.shape
    wide = torch.promote_types(keys.dtype, torch.float32)
    # From here on one row per head: [B H, L, D]
    x = keys.to(wide).reshape(-1, length, width)
    weights = degrees.to(wide).reshape(-1, length)
    centre = (normalize(x, dim=-1) * weights[..., None]).sum(1, keepdim=True) / weights.sum(1)[:, None, None]
    x = x * weights[..., None]  # sums of what a centroid stands for: its direction is its mean's
    places = torch.arange(length).expand(batch * heads, -1)
    for at in range(0, len(plan), 3):
        chunks, chunk, merges = plan[at : at + 3]
        step = _match(x[:, : chunks * chunk], centre, chunks, merges, typical)
        kept = x.shape[1] - merges
        behind = torch.arange(chunks * chunk, x.shape[1]) - merges
        step = torch.cat([step, behind.expand(len(step), -1)], dim=1)
        rows = (step + torch.arange(len(step))[:, None] * kept).flatten()
        x = x.new_zeros(len(step) * kept, width).index_add_(0, rows, x.reshape(-1, width)).view(-1, kept, width)
        places = step.gather(1, places)
    return places.view(batch, heads, length).int()


def _match(x: torch.Tensor, centre: torch.Tensor, chunks: int, merges: int, typical: float) -> torch.Tensor:
    """`reference.soft_match` of the keys [B H, chunks * chunk, D], int64."""
    heads, length, _ = x.shape
    chunk = length // chunks
    x = normalize(x, dim=-1)
    close = (x @ centre.transpose(1, 2)).view(heads, chunks, chunk) * typical
    x = x.view(heads * chunks, chunk, -1)
    scores = torch.baddbmm(close.view(-1, 1, chunk)[..., 1::2], x[:, 0::2], x[:, 1::2].transpose(1, 2))
    best, partner = scores.view(heads, chunks, chunk // 2, -1).max(-1)
    before = torch.tensor(shares(chunks, merges))
    order = (best + close[..., 0::2]).argsort(dim=-1, descending=True, stable=True)
    leaves = order.argsort(dim=-1) < before.diff()[:, None]
    stays = torch.ones_like(close, dtype=torch.bool)
    stays[..., 0::2] = ~leaves
    place = stays.cumsum(-1) - 1
    place[..., 0::2] = torch.where(leaves, place[..., 1::2].gather(-1, partner), place[..., 0::2])
    return (place + (torch.arange(chunks) * chunk - before[:-1])[:, None]).flatten(1)
