"""Which layers of a model look far back for single tokens: they need more of their keys than the others.

In most models a few layers fetch what stands far back (retrieval or induction heads); the others read the nearby text
and broad averages, which merged keys serve as well. What a layer does is the model's, hardly the text's: random tokens
that are repeated once show it, since a layer that can find things finds each token's earlier place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from npukv import attention
from npukv.cache.layer import AttendingCache, AttendingLayer
from npukv.cache.report import LayerReport
from npukv.errors import InputError


class _Watching(AttendingLayer):
    """Keeps nothing but how strongly the second half of a text looks at single keys of its first half."""

    need = 0.0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._now = key_states, value_states
        return self.handle(key_states), value_states

    def attend(self, query: torch.Tensor, scaling: float | None, mask: torch.Tensor | None) -> torch.Tensor:
        key, value = self._now
        length, width = query.shape[2:]
        asked = torch.arange(length // 2, length, 8, device=query.device)  # an eighth tells as much
        grouped = query[:, :, asked].unflatten(1, (key.shape[1], -1)).float()
        scores = grouped @ key[:, :, None].float().transpose(-1, -2) * (width**-0.5 if scaling is None else scaling)
        future = torch.arange(length, device=query.device) > asked[:, None]
        chances = scores.masked_fill(future, float("-inf")).softmax(-1)
        self.need = float(chances[..., 4 : length // 2 - 64].amax(-1).mean())
        out, _ = attention.attend(torch.nn.Module(), query, key, value, None, scaling=scaling)
        return out.transpose(1, 2)

    def report(self) -> LayerReport:
        return LayerReport(0, 0, 0, 0)


@torch.no_grad()
def layer_needs(model: Any, tokens: int = 1024, seed: int = 0) -> list[float]:
    """How strongly each layer looks at single tokens far back, 0 to 1; layers that do not attend by themselves: 0.

    Args:
        model: a transformers causal language model.
        tokens: of the text of random tokens, the second half of which repeats the first; at least 256.
    """
    config = model.config.get_text_config(decoder=True)
    tokens = min(tokens, getattr(config, "max_position_embeddings", tokens))
    if tokens < 256:
        raise InputError(f"got a text of {tokens} tokens to watch the model read, expected at least 256")
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(0, config.vocab_size, (1, tokens // 2), generator=generator)
    before = model.config._attn_implementation
    cache = AttendingCache(model.config, lambda index: _Watching())
    try:
        model(torch.cat([half, half], dim=1).to(model.device), past_key_values=cache, logits_to_keep=1)
    finally:
        model.config._attn_implementation = before
    return [layer.need if isinstance(layer, _Watching) else 0.0 for layer in cache.layers]


def layer_shares(model: Any, keep: float, least: float = 0.5) -> list[float]:
    """Shares to keep per layer, `keep` on average, for `npukv.ClusteredCache(model.config, keep=...)`.

    They follow what each layer needs (`layer_needs`), from `least` * keep up to 1.
    """
    if not 0 < keep <= 1:
        raise InputError(f"got {keep} as the share to keep, expected more than 0 and at most 1")
    return spread(layer_needs(model), keep, least)


def spread(needs: Sequence[float], keep: float, least: float = 0.5) -> list[float]:
    """Shares in proportion to needs, from `least` * keep up to 1, `keep` on average."""
    if not any(needs):
        return [keep] * len(needs)
    low, least_need = least * keep, 1e-6 * max(needs)
    needs = [max(need, least_need) for need in needs]

    def shares(scale: float) -> list[float]:
        return [min(1.0, max(low, scale * need)) for need in needs]

    small, large = 0.0, 1.0 / min(needs)
    for _ in range(100):  # bisection: the sum grows with the scale
        middle = (small + large) / 2
        small, large = (middle, large) if sum(shares(middle)) < keep * len(needs) else (small, middle)
    return shares(large)
