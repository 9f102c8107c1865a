"""What every cache of npukv fulfils: layers that attend over what they hold, and tell tokens seen from tokens held."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer

from npukv import attention
from npukv.cache.report import CacheReport, LayerReport, total
from npukv.errors import InputError, ModelError


class AttendingLayer(CacheLayerMixin):
    """One layer's cache. `update` stores, `attend` computes the layer's attention over what is held.

    transformers calls `update` with the new keys and values and hands what it returns to the attention function, which
    is `npukv.attention.attend`; that one finds the layer by the handle on the keys and asks it to attend. So a layer
    may hold fewer keys than the model has seen, or other keys, and needs no mask of queries by keys: causality is
    bottom-right, each layer's own.

    Attributes:
        seen: tokens fed per row, padding included. RoPE positions follow it, never what is held.
        kept: keys held per row (the longest row's, where rows differ).
        length: int32 [B] on the device, keys held per row; set from `freeze` on.
        padding: per row, how many of the first tokens are padding; None before the first `attend`.
    """

    is_sliding = False
    is_croppable = False
    is_compileable = False

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.kept = 0
        self.frozen = False
        self.length: torch.Tensor | None = None
        self.padding: list[int] | None = None

    @abstractmethod
    def attend(self, query: torch.Tensor, scaling: float | None, mask: torch.Tensor | None) -> torch.Tensor:
        """Attention of the queries that came with the last `update`.

        Args:
            query: [B, Hq, S, D], after RoPE; the last query is the last token seen.
            scaling: factor on the scores; None = D ** -0.5.
            mask: None, or which of all tokens seen are tokens and not padding, boolean [B, seen] (give it to `pad`).

        Returns:
            [B, Hq, S, D] in the query's type; a query that is padding gets zeros.
        """

    @abstractmethod
    def report(self) -> LayerReport:
        """Tokens and bytes, logical and physical."""

    def handle(self, keys: torch.Tensor) -> torch.Tensor:
        """The same keys as a tensor that carries the layer, for `update` to return."""
        keys = keys.view(keys.shape)
        keys.npukv_layer = self  # type: ignore[attr-defined]
        return keys

    def pad(self, mask: torch.Tensor | None, batch: int) -> list[int]:
        """How many tokens of padding each row begins with. Rows are padded on the left; a layer asks once per `attend`.

        Raises:
            InputError: a mask that is not left padding, or that differs from the one the sequence began with.
        """
        if mask is None:  # also what a captured step sees: the padding is what it was
            if self.padding is None:
                self.padding = [0] * batch
            return self.padding
        if mask.dim() != 2:
            raise InputError(
                f"{type(self).__name__} got an attention mask of shape {tuple(mask.shape)}, expected tokens padded on "
                "the left (tokenizer.padding_side = 'left') or a plain causal mask: this cache keeps no holes"
            )
        padding = (~mask).sum(-1).tolist()
        if self.padding is not None and self.padding != padding:
            raise InputError(
                f"the attention mask now pads rows by {padding}, at first it was {self.padding}; expected "
                "the mask of all tokens seen, old and new"
            )
        self.padding = padding
        return padding

    # transformers' side of the contract

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.kept + query_length, self.seen - self.kept

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        """Forget everything; buffers may be kept, and are written over."""
        self.seen = self.kept = 0
        self.frozen = False
        self.length = self.padding = None

    def offload(self) -> None:
        raise InputError(f"{type(self).__name__} is not offloaded to the host: make the cache with a smaller budget")

    def crop(self, tokens_to_remove: int) -> None:
        raise InputError(
            f"{type(self).__name__} cannot take tokens back, got crop({tokens_to_remove}): use transformers' "
            "DynamicCache for assisted generation"
        )

    # captured decoding

    def blank(self, kept: Sequence[int]) -> None:
        """Zero keys and values behind those held, per row.

        Kernels that leave the lengths on the device read them too, and hide them by a bias; NaN would not be hidden.
        """
        for row, held in enumerate(kept):
            for x in (self.keys, self.values):
                x[row, :, held:].zero_()

    def freeze(self) -> None:
        """From here on `update` takes one token at a time and touches only tensors on the device (`length`, int32 [B]):
        no host synchronisation, no allocation that outlives the step, so that a captured graph may replay it."""
        raise InputError(f"{type(self).__name__} has no fixed buffers: decode with model.generate(...)")

    def advanced(self, steps: int) -> None:
        """Tell the host's counters that a captured step was replayed `steps` times."""
        self.seen += steps
        self.kept += steps

    def maintain(self) -> None:
        """What must happen between steps and outside a captured graph: compress when full."""


class AttendingCache(Cache):
    """A cache whose full-attention layers are `AttendingLayer`s; all others are transformers' own.

    Making one registers npukv's attention and switches the configuration's attention implementation to it, so that
    `model.generate(..., past_key_values=cache)` needs no further word.

    Args:
        config: `model.config`.
        make_layer: called with the layer's index.

    Raises:
        ModelError: the model's attention is not plain softmax attention, or no layer is full attention.
    """

    def __init__(self, config: Any, make_layer: Callable[[int], AttendingLayer]) -> None:
        ok, reason = attention.supports(config)
        name = type(self).__name__
        if not ok:
            raise ModelError(f"{name} needs plain softmax attention; {reason}: use transformers' DynamicCache")
        layers = [
            make_layer(index) if type(layer) is DynamicLayer else layer
            for index, layer in enumerate(DynamicCache(config=config).layers)
        ]
        super().__init__(layers=layers)
        if not self.attending:
            kinds = sorted({type(layer).__name__ for layer in layers})
            raise ModelError(
                f"{name} found no full-attention layer in this {config.model_type} model, only {', '.join(kinds)}, "
                "whose size is bounded already: use transformers' DynamicCache"
            )
        attention.register()
        config._attn_implementation = attention.NAME

    @property
    def attending(self) -> list[AttendingLayer]:
        return [layer for layer in self.layers if isinstance(layer, AttendingLayer)]

    def report(self) -> CacheReport:
        """Tokens and bytes, logical and physical, per layer and in all."""
        mine = self.attending
        return total([layer.report() for layer in mine], other_layers=len(self.layers) - len(mine))

    def freeze(self) -> None:
        for layer in self.attending:
            layer.freeze()

    def advanced(self, steps: int) -> None:
        for layer in self.attending:
            layer.advanced(steps)

    def maintain(self) -> None:
        for layer in self.attending:
            layer.maintain()
