"""A full KV cache written in place: for many short sequences of known length, and for captured decode steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache

from npukv.cache.layer import AttendingLayer
from npukv.cache.report import CacheReport, LayerReport, total
from npukv.errors import InputError, ModelError
from npukv.ops.attention import partial_attention


class Place:
    """Where captured steps write and how far they read, on the device; shared by the layers that attend alike.

    Attributes:
        slot: int32 [B], where the token of this step goes.
        length: int32 [B], tokens held with it.
        bias: float32 [B, 1, capacity], -inf for padding and for what lies before the window; None = nothing to hide.
    """

    def __init__(self, held: int, capacity: int, padding: Sequence[int], window: int | None, like: torch.Tensor):
        self.window = window
        self.length = torch.full((len(padding),), held, dtype=torch.int32, device=like.device)
        self.slot = self.length - 1
        self.bias: torch.Tensor | None = None
        if window is not None or any(padding):
            self._first = torch.tensor(padding, device=like.device)[:, None]
            self._positions = torch.arange(capacity, device=like.device)[None]
            self.bias = torch.empty(len(padding), 1, capacity, dtype=torch.float32, device=like.device)
            self._hide()

    def advance(self) -> None:
        """One more token. Work on the device only."""
        self.slot.copy_(self.length)
        self.length.add_(1)
        if self.window is not None:
            self._hide()

    def _hide(self) -> None:
        if self.bias is None:
            return
        hidden = self._positions < self._first
        if self.window is not None:
            hidden = hidden | (self._positions < self.length[:, None] - self.window)
        self.bias.zero_().masked_fill_(hidden[:, None], float("-inf"))


class PreallocatedLayer(AttendingLayer):
    """Keys and values of one layer, [B, Hkv, capacity, D], of which the first `kept` tokens count.

    transformers' own growing layer copies everything for every new token, its static layer attends over the whole
    capacity through a mask; here `update` writes in place and returns a view of what is there. Frozen, it writes at
    and attends up to a length kept on the device.

    Args:
        capacity: tokens there is room for.
        window: how many tokens a query sees, itself included; None = all. All are kept all the same.
    """

    def __init__(self, capacity: int, window: int | None = None) -> None:
        super().__init__()
        self.capacity = capacity
        self.window = window
        self.place: Place | None = None
        self._leads = False  # whether this layer advances the place, for all that share it

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        def room(like: torch.Tensor) -> torch.Tensor:
            batch, heads, _, width = like.shape
            return like.new_empty(batch, heads, self.capacity, width)

        self.keys, self.values = room(key_states), room(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append [B, Hkv, S, D]; returns all keys and values so far, [B, Hkv, kept, D], as views.

        Frozen, it takes S = 1 and returns all [B, Hkv, capacity, D]; `attend` knows how many count.
        """
        if self.frozen:
            keys, values, slot = self.slots()
            rows = torch.arange(slot.shape[0], device=slot.device)
            keys[rows, :, slot] = key_states[:, :, 0]
            values[rows, :, slot] = value_states[:, :, 0]
            return self.handle(keys), values
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.kept + key_states.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, got token {end}: make it with a larger capacity")
        self.keys[:, :, self.kept : end] = key_states
        self.values[:, :, self.kept : end] = value_states
        self.seen = self.kept = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def slots(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For whoever writes a frozen step's key and value itself: keys, values [B, Hkv, capacity, D] and slot [B].

        Counts the token: call it once per step, in the order of the layers.
        """
        if self.place is None:
            raise InputError("this layer is not frozen: call freeze() first")
        if self._leads:
            self.place.advance()
        return self.keys, self.values, self.place.slot

    def attend(self, query: torch.Tensor, scaling: float | None, mask: torch.Tensor | None) -> torch.Tensor:
        """Of one frozen step; otherwise `npukv.attention` attends over the views that `update` returned."""
        if self.place is None:
            raise InputError("this layer is not frozen: call freeze() first")
        bias = self.place.bias
        if bias is not None:
            bias = bias.expand(-1, self.keys.shape[1], -1)
        out, _ = partial_attention(query, self.keys, self.values, bias, self.place.length, scaling)
        return out

    def freeze(self, place: Place | None = None) -> None:
        """See `AttendingLayer.freeze`. A place that other layers use too is advanced by the first of them."""
        if not self.is_initialized:
            raise InputError("there is nothing to freeze yet: feed the prompt first")
        self._leads = place is None
        if place is None:
            padding = self.padding or [0] * self.keys.shape[0]
            place = Place(self.kept, self.capacity, padding, self.window, self.keys)
        self.blank([self.kept] * self.keys.shape[0])
        self.place, self.length, self.frozen = place, place.length, True

    def thaw(self) -> None:
        """Back to counting on the host."""
        self.place, self.length, self.frozen = None, None, False

    def rewind(self, length: int) -> None:
        """Forget the tokens from position `length` on."""
        self.seen = self.kept = min(self.kept, length)

    def get_max_length(self) -> int:
        return self.capacity

    def reset(self) -> None:
        super().reset()
        self.thaw()

    def report(self) -> LayerReport:
        if not self.is_initialized:
            return LayerReport(0, 0, 0, 0)
        physical = sum(tensor.numel() * tensor.element_size() for tensor in (self.keys, self.values))
        return LayerReport(self.seen, self.kept, physical * self.seen // self.capacity, physical)


class PreallocatedCache(Cache):
    """One `PreallocatedLayer` per layer of the model, with room for `capacity` tokens.

    Args:
        num_layers: of the model.
        capacity: tokens per sequence, new ones included.
        windows: per layer, how many tokens a query sees; None = all tokens, in every layer.
    """

    layers: list[PreallocatedLayer]

    def __init__(self, num_layers: int, capacity: int, windows: Sequence[int | None] | None = None) -> None:
        windows = [None] * num_layers if windows is None else windows
        super().__init__(layers=[PreallocatedLayer(capacity, window) for window in windows])

    @classmethod
    def for_config(cls, config: Any, capacity: int) -> PreallocatedCache:
        """For `model.config`: full attention, sliding windows, or layers of both.

        Raises:
            ModelError: some layer is neither.
        """
        stock = DynamicCache(config=config).layers
        others = {type(layer).__name__ for layer in stock} - {"DynamicLayer", "DynamicSlidingWindowLayer"}
        if others:
            raise ModelError(
                f"a {config.model_type} model needs cache layers of other kinds ({', '.join(sorted(others))}), "
                "expected full or sliding-window attention: use transformers' DynamicCache"
            )
        windows = [getattr(layer, "sliding_window", None) for layer in stock]
        return cls(config.get_text_config().num_hidden_layers, capacity, windows or None)

    def rewind(self, length: int) -> None:
        """Forget all tokens from position `length` on; what they occupied is written over next."""
        for layer in self.layers:
            layer.rewind(length)

    def pad(self, padding: Sequence[int]) -> None:
        """Say how many tokens of padding each row begins with, before `freeze`; without a word it is none."""
        for layer in self.layers:
            layer.padding = list(padding)

    def freeze(self) -> None:
        """Count on the device from here on, so that a captured step can be replayed; see `AttendingLayer.freeze`."""
        first: dict[int | None, PreallocatedLayer] = {}  # by window
        for layer in self.layers:
            leader = first.setdefault(layer.window, layer)
            layer.freeze(None if leader is layer else leader.place)

    def thaw(self) -> None:
        for layer in self.layers:
            layer.thaw()

    def advanced(self, steps: int) -> None:
        """Tell the host's counters that a captured step was replayed `steps` times."""
        for layer in self.layers:
            layer.advanced(steps)

    def maintain(self) -> None:
        """Nothing: a full cache never compresses."""

    def report(self) -> CacheReport:
        """Tokens and bytes, logical and physical, per layer and in all."""
        return total([layer.report() for layer in self.layers])
