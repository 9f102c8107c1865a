"""Which keys each new token attends to, of all that are held: selectors, and the attention that measures them.

Every question and answer token selects for itself, per KV head: its own budget of keys among those it may see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from npukv import attention
from npukv.ops.hashing import hash_encode
from npukv.ops.hashing.reference import unpack

NAME = "npukv-selecting"
PAGE = 16  # Quest's
ROWS = 25  # contexts looked at together: their scores are the largest tensors
FIRST = 1e30  # above every bound, below what must be chosen


@dataclass
class Seen:
    """One layer's queries [B, Hkv, G, S, D], keys [B, Hkv, M, D], softmax [B, Hkv, G, S, M]; who sees whom [S, M]."""

    layer: int
    queries: torch.Tensor
    keys: torch.Tensor
    softmax: torch.Tensor
    visible: torch.Tensor


Score = Callable[[Seen], torch.Tensor]  # -> [B, Hkv, S, M], the higher the better


def exact(seen: Seen) -> torch.Tensor:
    """The keys that really get the most attention, summed over the group."""
    return seen.softmax.sum(2)


def stream(seen: Seen) -> torch.Tensor:
    places = torch.arange(seen.keys.shape[2], dtype=torch.float32, device=seen.keys.device)
    return places.expand(*seen.keys.shape[:2], seen.queries.shape[3], -1)


def quest(seen: Seen) -> torch.Tensor:
    """Pages of 16 tokens by the largest product any key within their bounds could have (Quest, arXiv 2406.10774).

    Bounds are of whole pages of the keys held; the query's own page, and what fills no page yet, come first.
    """
    queries, keys = seen.queries, seen.keys
    tokens, held = queries.shape[3], keys.shape[2]
    whole = held // PAGE * PAGE
    pages = keys[:, :, :whole].unflatten(2, (-1, PAGE))
    upper, lower = (bound[:, :, None].transpose(-1, -2) for bound in (pages.amax(3), pages.amin(3)))
    bound = (queries.clamp(min=0) @ upper + queries.clamp(max=0) @ lower).sum(2)  # [B, Hkv, S, pages]
    score = bound.new_full((*bound.shape[:3], held), FIRST, dtype=torch.float64)
    score[..., :whole] = bound.repeat_interleave(PAGE, dim=-1)
    place = torch.arange(held, device=keys.device)
    own = torch.arange(held - tokens, held, device=keys.device) // PAGE
    return (score + place * 1e-9).masked_fill(place // PAGE == own[:, None], FIRST)


def hashed(weights: list[torch.Tensor]) -> Score:
    """Hamming distance of codes, summed over the group (HATA, arXiv 2506.02572). weights: per layer [Hkv, D, bits]."""

    def score(seen: Seen) -> torch.Tensor:
        w = weights[seen.layer].to(seen.keys.device)
        batch, heads, group, tokens, _ = seen.queries.shape
        queries = unpack(hash_encode(seen.queries.flatten(1, 2), w)).view(batch, heads, group, tokens, -1)
        alike = queries.sum(2) @ unpack(hash_encode(seen.keys, w)).transpose(-1, -2)
        held = seen.keys.shape[2]
        # Whole numbers, many of them equal: of those the most recent wins. Exact in float32 up to 2^24.
        return alike * held + torch.arange(held, device=alike.device)

    return score


@dataclass
class Selector:
    """A score, how many keys it may choose, which it must, and which layers it leaves dense."""

    score: Score
    budget: int
    sink: int = 0
    recent: int = 0
    dense: int = 2
    masses: list[tuple[float, float]] = field(default_factory=list)  # of the chosen keys, and of the best possible ones

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """query [B, Hq, S, D]; keys, values [B, Hkv, M, D], the last S of them the queries' own -> [B, Hq, S, D]."""
        if query.shape[0] > ROWS:
            parts = zip(*(x.split(ROWS) for x in (query, keys, values)), strict=True)
            return torch.cat([self.attend(layer, *part, scaling) for part in parts])
        batch, _, tokens, width = query.shape
        heads, held = keys.shape[1:3]
        queries = query.view(batch, heads, -1, tokens, width).float()
        place = torch.arange(held, device=keys.device)
        own = torch.arange(held - tokens, held, device=keys.device)[:, None]
        visible = place <= own  # [S, M]
        logits = queries @ keys.float()[:, :, None].transpose(-1, -2) * scaling
        logits = logits.masked_fill(~visible, -torch.inf)
        softmax = logits.softmax(-1)
        if layer >= self.dense:
            chosen = self._choose(Seen(layer, queries, keys.float(), softmax, visible), place, own)
            mass = softmax.masked_fill(~chosen[:, :, None], 0).sum(-1)
            top = softmax.sum(2).topk(min(self.budget, held), dim=-1).values.sum(-1) / queries.shape[2]
            self.masses.append((float(mass.mean()), float(top.mean())))
            softmax = logits.masked_fill_(~chosen[:, :, None], -torch.inf).softmax(-1)
        out = softmax @ values.float()[:, :, None]
        return out.view(batch, -1, tokens, width).to(query.dtype)

    def _choose(self, seen: Seen, place: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Boolean [B, Hkv, S, M]."""
        must = (place < self.sink) | ((place > own - self.recent) & (place <= own)) | (place == own)
        score = self.score(seen).masked_fill(must, torch.inf).masked_fill(~seen.visible, -torch.inf)
        places = score.topk(min(self.budget, score.shape[-1]), dim=-1).indices
        return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, places, True) & seen.visible


@contextmanager
def selecting(model: Any, selector: Selector) -> Iterator[None]:
    """Within, the model's attention is the selector's."""
    from transformers import AttentionInterface, AttentionMaskInterface

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **given: Any
    ) -> tuple[torch.Tensor, None]:
        if mask is not None:
            raise SystemExit("a selector got padding, expected contexts of equal length")
        scaling = given.get("scaling") or query.shape[-1] ** -0.5
        out = selector.attend(module.layer_idx, query, key, value, scaling)
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, attention.mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
