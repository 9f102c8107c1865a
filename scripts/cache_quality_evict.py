"""Which keys other methods keep: five scores, written from their papers' formulas, and kvpress's own for comparison.

A score takes what an attention layer has after reading a context and gives float32 [B, Hkv, n]; the keys of the lowest
scores are evicted, for each KV head by itself.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache

SINK, RECENT = 4, 64  # of every budget, whatever the method


@dataclass
class Read:
    """What one layer has when it has read the contexts.

    Attributes:
        module: the attention module.
        hidden: its input [B, n, hidden].
        keys, values: [B, Hkv, n, D], keys after RoPE.
        rotary: gives cos and sin [1, T, D] for positions [1, T].
        arguments: all the module was called with.
    """

    module: Any
    hidden: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    rotary: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    arguments: dict[str, Any]

    def queries(self, start: int) -> torch.Tensor:
        """Queries of the tokens from `start` on, before RoPE: [B, Hq, n - start, D]."""
        projected = self.module.q_proj(self.hidden[:, start:])
        return projected.unflatten(-1, (-1, self.keys.shape[-1])).transpose(1, 2)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


def knorm(read: Read) -> torch.Tensor:
    """Small keys are attended to most (arXiv 2406.11430)."""
    return -read.keys.float().norm(dim=-1)


def snapkv(read: Read, window: int = 64, kernel: int = 5) -> torch.Tensor:
    """Mean attention of the last `window` tokens, smoothed over neighbours (SnapKV, arXiv 2404.14469)."""
    keys = read.keys
    batch, heads, n, width = keys.shape
    cos, sin = read.arguments["position_embeddings"]
    queries = _rotated(read.queries(n - window), cos[:, None, -window:], sin[:, None, -window:])
    grouped = queries.reshape(batch, heads, -1, width)  # [B, Hkv, G * window, D]
    scores = (grouped @ keys.transpose(2, 3)).float() * width**-0.5
    future = torch.ones(window, window, dtype=torch.bool, device=keys.device).triu(1)
    scores.view(batch, heads, -1, window, n)[..., -window:].masked_fill_(future, -torch.inf)
    seen = scores.softmax(-1)[..., :-window].mean(2)  # [B, Hkv, n - window]
    seen = functional.avg_pool1d(seen, kernel, stride=1, padding=kernel // 2)
    return functional.pad(seen, (0, window), value=torch.inf)


def expected_attention(read: Read, future: int = 512, sink: int = 4) -> torch.Tensor:
    """Attention expected of the next tokens, times the value's norm (Expected Attention, arXiv 2510.00636).

    Queries before RoPE are taken as normal with the context's mean and covariance, and rotated by the mean of the next
    `future` rotations R: E = softmax(k . R mu / sqrt(d) + k' R S R' k / 2 d) |v|.
    """
    keys, values = read.keys.float()[:, :, sink:], read.values.float()[:, :, sink:]
    batch, heads, n, width = keys.shape
    queries = read.queries(sink).float()  # [B, Hq, n, D]
    mean = queries.mean(2, keepdim=True)
    centred = queries - mean
    covariance = centred.transpose(2, 3) @ centred / centred.shape[2]  # [B, Hq, D, D]
    positions = torch.arange(n + sink, n + sink + future, device=keys.device)[None]
    cos, sin = (part.float().mean(1)[0] for part in read.rotary(read.hidden, positions))  # [D] each
    half = torch.eye(width // 2, device=keys.device)
    zero = torch.zeros_like(half)
    turn = torch.cat([torch.cat([zero, -half], 1), torch.cat([half, zero], 1)])  # rotates by 90 degrees
    rotation = cos[:, None] * torch.eye(width, device=keys.device) + sin[:, None] * turn
    mean, covariance = mean @ rotation.T, rotation @ covariance @ rotation.T
    groups = mean.shape[1] // heads
    k = keys.repeat_interleave(groups, dim=1)  # [B, Hq, n, D]
    logits = (k * mean).sum(-1) * width**-0.5 + ((k @ covariance) * k).sum(-1) / width / 2
    seen = logits.softmax(-1).view(batch, heads, groups, n).mean(2) * values.norm(dim=-1)
    return functional.pad(seen, (sink, 0), value=torch.inf)


def keydiff(read: Read) -> torch.Tensor:
    """Keys unlike the mean of all keys' directions (KeyDiff, arXiv 2504.15364)."""
    directions = functional.normalize(read.keys.float(), dim=-1)
    return -functional.cosine_similarity(directions, directions.mean(2, keepdim=True), dim=-1)


def streaming(read: Read, sink: int = 4) -> torch.Tensor:
    """The first tokens and the last (StreamingLLM, arXiv 2309.17453)."""
    places = torch.arange(read.keys.shape[2], dtype=torch.float32, device=read.keys.device)
    places[:sink] = torch.inf
    return places.expand(read.keys.shape[:3])


SCORES: dict[str, Callable[[Read], torch.Tensor]] = {
    "knorm": knorm,
    "snapkv": snapkv,
    "expected attention": expected_attention,
    "keydiff": keydiff,
    "streaming": streaming,
}
PRESSES = {
    "knorm": ("knorm_press", "KnormPress"),
    "snapkv": ("snapkv_press", "SnapKVPress"),
    "expected attention": ("expected_attention_press", "ExpectedAttentionPress"),
    "keydiff": ("keydiff_press", "KeyDiffPress"),
    "streaming": ("streaming_llm_press", "StreamingLLMPress"),
}


def forced(scores: torch.Tensor) -> torch.Tensor:
    """The same with the first 4 and the last 64 tokens always kept."""
    scores = scores.clone()
    scores[..., :SINK] = scores[..., -RECENT:] = torch.inf
    return scores


def best(scores: torch.Tensor, budget: int) -> torch.Tensor:
    """Places of the highest scores, ascending: [B, Hkv, budget]."""
    return scores.topk(budget, dim=-1).indices.sort(-1).values


@contextmanager
def reading(model: Any, look: Callable[[int, Read], None]) -> Iterator[None]:
    """Within, `look(layer, read)` is called whenever a layer has read its input into a cache."""

    def hook(module: Any, inputs: Any, arguments: dict[str, Any], output: Any) -> None:
        layer = arguments["past_key_values"].layers[module.layer_idx]
        rotary = model.model.rotary_emb
        look(module.layer_idx, Read(module, arguments["hidden_states"], layer.keys, layer.values, rotary, arguments))

    handles = [layer.self_attn.register_forward_hook(hook, with_kwargs=True) for layer in model.model.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def kept_cache(keys: list[torch.Tensor], values: list[torch.Tensor]) -> DynamicCache:
    """A cache of keys and values there are already, per layer [B, Hkv, k, D]; those tensors are never written to."""
    cache = DynamicCache()
    for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
        cache.update(k, v, layer)
    return cache


def import_kvpress(path: Path) -> dict[str, Any]:
    """kvpress's press classes from its wheel or folder, without its package's own __init__.

    That one needs libraries for data sets and training, and patches transformers; the presses' files need neither.
    """
    package = types.ModuleType("kvpress")
    package.__path__ = [str(path / "kvpress")]
    sys.modules["kvpress"] = package
    return {name: getattr(import_module(f"kvpress.presses.{file}"), kind) for name, (file, kind) in PRESSES.items()}


def press_scores(press: Any, read: Read) -> torch.Tensor:
    """kvpress's own scores of a layer."""
    object.__setattr__(read.module, "rotary_emb", read.rotary)
    return press.score(read.module, read.hidden, read.keys, read.values, None, read.arguments)


@contextmanager
def pressing(model: Any, press: Any) -> Iterator[None]:
    """Within, kvpress's own hook compresses the cache of whatever the model reads.

    The hook looks for `cache_position`, which transformers no longer passes on.
    """

    def hook(module: Any, inputs: Any, arguments: dict[str, Any], output: Any) -> Any:
        object.__setattr__(module, "rotary_emb", model.model.rotary_emb)
        given = arguments | {"cache_position": torch.arange(arguments["hidden_states"].shape[1])}
        return press.forward_hook(module, inputs, given, output)

    handles = [layer.self_attn.register_forward_hook(hook, with_kwargs=True) for layer in model.model.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
