"""A cache that merges keys which are alike into centroids (after Chelsea / CentroidKV, arXiv 2506.11418)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from npukv.cache.clustered_layer import ClusteredLayer, Clustering
from npukv.cache.layer import AttendingCache
from npukv.cache.report import CacheReport
from npukv.cache.rotary import Rotary
from npukv.errors import InputError

_log = logging.getLogger("npukv")


@dataclass(frozen=True)
class ClusteredReport(CacheReport):
    """A `CacheReport` that says whether the cache is down to what it was asked to hold."""

    compressed: bool = True

    def __str__(self) -> str:
        return super().__str__() + ("" if self.compressed else "; NOT COMPRESSED YET")


class ClusteredCache(AttendingCache):
    """A KV cache that holds a share of the tokens: alike keys are merged into centroids, with their values.

        cache = npukv.ClusteredCache(model.config, keep=0.25)
        model.generate(**inputs, past_key_values=cache)
        print(cache.report())

    The prompt is read with full attention up to `step` tokens beyond what the cache is to hold; then, and when the
    first single token is decoded, it is compressed, and again while tokens come. So no more than the goal and `step`
    tokens are ever held. A centroid that stands for N tokens counts as N in attention (+ log N, float32), which is
    exact where the merged keys are equal. What is merged does not depend on how the prompt was cut into pieces of at
    least two tokens, nor on the other rows of a batch or their padding (on the left).

    Args:
        config: `model.config`.
        keep: share of the tokens seen to hold, or one share per layer of the model (see `npukv.cache.profile`); under
            a share, what was merged stays as it is. Layers with 1.0 merge nothing.
        budget: instead, the most tokens a row holds: centroids are merged again and again.
        chunk: keys that are matched with each other, about.
        sink: the first tokens, never merged.
        recent: the last tokens, not merged yet; at most a third of what is to be held.
        step: tokens a prompt's cache may hold beyond its goal before it is compressed.
        share: most of the keys to merge in one pass.
        typical: how much closeness to the mean key counts beside likeness when pairs are ranked.

    Raises:
        InputError: shares, budget or sizes that do not fit.
        ModelError: the model's attention is not plain softmax attention, or none of its layers is full attention.
    """

    def __init__(
        self,
        config: Any,
        keep: float | Sequence[float] | None = None,
        *,
        budget: int | None = None,
        chunk: int = 512,
        sink: int = 4,
        recent: int = 256,
        step: int = 2048,
        share: float = 0.25,
        typical: float = 1.0,
    ) -> None:
        if keep is not None and budget is not None:
            raise InputError(f"got keep={keep} and budget={budget}, expected one of them")
        if keep is None and budget is None:
            keep = 0.25
        if budget is not None and budget < 4 * (sink + 4):
            raise InputError(f"got a budget of {budget} tokens with {sink} sinks, expected at least {4 * (sink + 4)}")
        for name, value, least in (("chunk", chunk, 2), ("sink", sink, 0), ("recent", recent, 1), ("step", step, 1)):
            if value < least:
                raise InputError(f"got {name}={value}, expected at least {least}")
        if not 0 < share <= 0.5:
            raise InputError(f"got share={share}, expected more than 0 and at most 0.5: a key merges into another one")
        layers = config.get_text_config(decoder=True).num_hidden_layers
        keeps = [keep] * layers if keep is None or isinstance(keep, float | int) else list(keep)
        if len(keeps) != layers:
            raise InputError(f"got {len(keeps)} shares to keep, expected one, or {layers}: one per layer")
        for each in keeps:
            if each is not None and not 0 < each <= 1:
                raise InputError(f"got {each} as the share to keep, expected more than 0 and at most 1")

        def make(index: int) -> ClusteredLayer:
            settings = Clustering(keeps[index], budget, chunk, sink, recent, step, share, typical)
            return ClusteredLayer(settings, Rotary(config, index))

        super().__init__(config, make)

    @property
    def attending(self) -> list[ClusteredLayer]:
        return [layer for layer in self.layers if isinstance(layer, ClusteredLayer)]

    def compress(self) -> None:
        """Bring every layer down to its goal now, instead of when the next single token comes."""
        for layer in self.attending:
            layer.compress()

    def reserve(self, tokens: int) -> None:
        """Say how many tokens are going to be seen, before `freeze`."""
        for layer in self.attending:
            layer.reserve(tokens)

    def freeze(self) -> None:
        """See `AttendingLayer.freeze`; layers whose rows have come to the same count together."""
        first: dict[tuple[Any, ...], ClusteredLayer] = {}
        for layer in self.attending:
            layer.freeze(None)
            leader = first.setdefault((layer.settings, *layer.rows), layer)
            if leader is not layer:
                layer.freeze(leader.place)

    def thaw(self) -> None:
        for layer in self.attending:
            layer.thaw()

    def report(self) -> ClusteredReport:
        """Tokens and bytes, logical and physical, per layer and in all; it says so where nothing was merged.

        Warns when the cache holds far more than it was asked to: that happens between compressions only.
        """
        plain = super().report()
        due = [i for i, layer in enumerate(self.attending) if layer.overdue]
        if due:
            _log.warning(
                "the cache has not compressed yet (%d tokens held of %d seen): it does when the first single token is "
                "decoded, or by cache.compress()", plain.physical_tokens, plain.logical_tokens,
            )  # fmt: skip
        return ClusteredReport(plain.layers, plain.other_layers, compressed=not due)
