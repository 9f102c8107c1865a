"""What a cache holds: tokens and bytes, as the model sees them and as they lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerReport:
    """One layer, per sequence of the batch (tokens) and for the whole batch (bytes).

    Attributes:
        logical_tokens: tokens the layer has seen.
        physical_tokens: keys it holds for them; the longest row's, where rows differ.
        logical_bytes: what a full cache of the tokens seen would take.
        physical_bytes: what all of the layer's tensors take: room not yet used, degrees, codes and all.
    """

    logical_tokens: int
    physical_tokens: int
    logical_bytes: int
    physical_bytes: int


@dataclass(frozen=True)
class CacheReport:
    """All layers that attend by themselves; `other_layers` (sliding windows and the like) are not counted."""

    layers: tuple[LayerReport, ...]
    other_layers: int = 0

    @property
    def logical_tokens(self) -> int:
        return max((layer.logical_tokens for layer in self.layers), default=0)

    @property
    def physical_tokens(self) -> int:
        return max((layer.physical_tokens for layer in self.layers), default=0)

    @property
    def logical_bytes(self) -> int:
        return sum(layer.logical_bytes for layer in self.layers)

    @property
    def physical_bytes(self) -> int:
        return sum(layer.physical_bytes for layer in self.layers)

    @property
    def ratio(self) -> float:
        """Tokens held per token seen, over all layers; 1.0 for an empty cache."""
        seen = sum(layer.logical_tokens for layer in self.layers)
        return sum(layer.physical_tokens for layer in self.layers) / seen if seen else 1.0

    def __str__(self) -> str:
        text = (
            f"{self.logical_tokens} tokens seen, {self.physical_tokens} held ({self.ratio:.1%}); "
            f"{_bytes(self.logical_bytes)} as a full cache, {_bytes(self.physical_bytes)} in memory"
        )
        return text + (f"; {self.other_layers} layers of other kinds" if self.other_layers else "")


def total(layers: Sequence[LayerReport], other_layers: int = 0) -> CacheReport:
    return CacheReport(tuple(layers), other_layers)


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
