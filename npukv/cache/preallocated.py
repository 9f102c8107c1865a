"""A full KV cache written in place, for many short sequences of known length."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class PreallocatedLayer(CacheLayerMixin):
    """Keys and values of one layer, [B, Hkv, capacity, D], of which the first `length` tokens count.

    transformers' own growing layer copies everything for every new token, its static layer attends over the whole
    capacity through a mask; here `update` writes in place and returns a view of what is there.
    """

    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        def room(like: torch.Tensor) -> torch.Tensor:
            batch, heads, _, width = like.shape
            return like.new_empty(batch, heads, self.capacity, width)

        self.keys, self.values = room(key_states), room(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append [B, Hkv, S, D]; returns all keys and values so far, [B, Hkv, length, D], as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, got token {end}: make it with a larger capacity")
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        return self.capacity

    def reset(self) -> None:
        self.length = 0


class PreallocatedCache(Cache):
    """One `PreallocatedLayer` per layer of the model, with room for `capacity` tokens."""

    def __init__(self, num_layers: int, capacity: int) -> None:
        super().__init__(layers=[PreallocatedLayer(capacity) for _ in range(num_layers)])

    def rewind(self, length: int) -> None:
        """Forget all tokens from position `length` on; what they occupied is written over next."""
        for layer in self.layers:
            layer.length = min(layer.length, length)
