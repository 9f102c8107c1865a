"""A cache that keeps every key, and attends to the closest few by hash codes (HATA, arXiv 2506.02572)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from npukv import attention
from npukv.cache.hash_weights import HashWeights, bundled
from npukv.cache.layer import AttendingCache, AttendingLayer
from npukv.cache.preallocated import Place
from npukv.cache.report import CacheReport, LayerReport
from npukv.errors import InputError
from npukv.ops.attention import partial_attention
from npukv.ops.hashing import hash_decode, hash_encode, hashed_attention

#: Buffers grow by half, in steps of this many tokens; a frozen cache has at least four of them free.
STEP = 256


@dataclass(frozen=True)
class HashedReport(CacheReport):
    """A `CacheReport` of a cache that drops nothing.

    Attributes:
        attended_tokens: keys a new token attends to in a layer that selects.
        code_bytes: of the physical bytes, those of codes.
    """

    attended_tokens: int = 0
    code_bytes: int = 0

    def __str__(self) -> str:
        return (
            f"{super().__str__()}; a new token attends to {self.attended_tokens} of them, chosen by "
            f"{self.code_bytes / 2**20:.2f} MiB of codes (this cache makes decoding faster, not smaller)"
        )


@dataclass(frozen=True)
class Selection:
    """How many keys a new token attends to.

    Attributes:
        budget: tokens, sink and recent ones included; None = `keep`.
        keep: share of the tokens held.
        sink, recent: how many of the first and of the last tokens are always among them.
    """

    budget: int | None
    keep: float | None
    sink: int
    recent: int

    def tokens(self, held: int) -> int:
        """Of `held`; never fewer than sink and recent tokens."""
        wanted = self.budget if self.budget is not None else math.ceil((self.keep or 0.0) * held)
        return min(held, max(wanted, self.sink + self.recent, 1))


class HashedLayer(AttendingLayer):
    """Keys, values and codes of one layer, in buffers that grow.

    A prompt is attended to in full. A single token is encoded, and attends to the keys whose codes are closest to its
    own, sink and recent tokens always among them.

    Args:
        selection: how many.
        weights: called with (KV heads, width) when the first keys come, gives the projections [Hkv, D, bits]; None =
            attend to all keys always.
    """

    def __init__(self, selection: Selection, weights: Callable[[int, int], torch.Tensor] | None) -> None:
        super().__init__()
        self.selection = selection
        self.codes: torch.Tensor | None = None
        self.weights: torch.Tensor | None = None
        self._make_weights = weights
        self._place: Place | None = None
        self._leads = False
        self._start: torch.Tensor | None = None  # int32 [B], padding of a frozen layer
        self._fixed: int | None = None  # keys a frozen layer selects; None = it attends to all
        self._token: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def room(self) -> int:
        """Tokens the buffers have room for."""
        return self.keys.shape[2] if self.is_initialized else 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        if self._make_weights is not None:
            heads, width = key_states.shape[1], key_states.shape[-1]
            self.weights = self._make_weights(heads, width).to(key_states.device, key_states.dtype).contiguous()
            self.codes = key_states.new_empty(*key_states.shape[:2], 0, self.weights.shape[-1] // 32, dtype=torch.int32)
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def reserve(self, tokens: int) -> None:
        """Have room for that many tokens in all."""
        if tokens <= self.room:
            return
        room = -(-tokens // STEP) * STEP

        def larger(held: torch.Tensor) -> torch.Tensor:
            batch, heads, _, width = held.shape
            grown = held.new_empty(batch, heads, room, width)
            grown[:, :, : self.kept] = held[:, :, : self.kept]
            return grown

        self.keys, self.values = larger(self.keys), larger(self.values)
        if self.codes is not None:
            self.codes = larger(self.codes)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append [B, Hkv, S, D], and its codes; returns all keys and values held. Frozen, it takes S = 1."""
        if self._place is not None:
            if self._leads:
                self._place.advance()
            self._token = key_states, value_states  # stored by `attend`, together with the query's encoding
            return self.handle(self.keys), self.values
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.kept + key_states.shape[2]
        if end > self.room:
            self.reserve(max(end + STEP, self.room * 3 // 2))
        self.keys[:, :, self.kept : end] = key_states
        self.values[:, :, self.kept : end] = value_states
        if self.codes is not None and self.weights is not None:
            self.codes[:, :, self.kept : end] = hash_encode(key_states, self.weights)
        self.seen = self.kept = end
        return self.handle(self.keys[:, :, :end]), self.values[:, :, :end]

    def attend(self, query: torch.Tensor, scaling: float | None, mask: torch.Tensor | None) -> torch.Tensor:
        """See `AttendingLayer.attend`."""
        padding = self.pad(mask, query.shape[0])
        if self._place is not None:
            return self._attend_frozen(query, scaling, self._place)
        tokens = self.kept - min(padding)  # of the row that has most
        budget = self.selection.tokens(tokens)
        if query.shape[2] > 1 or self.weights is None or self.codes is None or budget >= tokens:
            keys, values = self.keys[:, :, : self.kept], self.values[:, :, : self.kept]
            out, _ = attention.attend(None, query, keys, values, mask, scaling=scaling)  # type: ignore[arg-type]
            return out.transpose(1, 2)
        length = torch.full((query.shape[0],), self.kept, dtype=torch.int32, device=query.device)
        return self._select(
            query, hash_encode(query, self.weights), length, self._first(padding, query.device), budget, scaling
        )

    def _attend_frozen(self, query: torch.Tensor, scaling: float | None, place: Place) -> torch.Tensor:
        if self._token is None:
            raise InputError("a frozen layer attends once per token: call update first")
        (key, value), self._token = self._token, None
        if self._fixed is not None and self.weights is not None and self.codes is not None:
            bounds = self._fixed, self.selection.sink, self.selection.recent
            held = self.keys, self.values, self.codes
            return hash_decode(query, key, value, self.weights, *held, place.length, *bounds, self._start, scaling)[0]
        rows = torch.arange(place.slot.shape[0], device=place.slot.device)
        self.keys[rows, :, place.slot] = key[:, :, 0]
        self.values[rows, :, place.slot] = value[:, :, 0]
        bias = None if place.bias is None else place.bias.expand(-1, self.keys.shape[1], -1)
        return partial_attention(query, self.keys, self.values, bias, place.length, scaling)[0]

    def _select(
        self,
        query: torch.Tensor,
        codes: torch.Tensor,
        length: torch.Tensor,
        start: torch.Tensor | None,
        budget: int,
        scaling: float | None,
    ) -> torch.Tensor:
        sink, recent = self.selection.sink, self.selection.recent
        held = self.codes, self.keys, self.values, length
        return hashed_attention(query, codes, *held, budget, sink, recent, start, scaling)[0]

    @staticmethod
    def _first(padding: list[int], device: torch.device) -> torch.Tensor | None:
        return torch.tensor(padding, dtype=torch.int32, device=device) if any(padding) else None

    def freeze(self, place: Place | None = None) -> None:
        """See `AttendingLayer.freeze`. A share of the tokens is that of the tokens held now. Call `reserve` before.

        Args:
            place: that of another layer, which then advances it for both.
        """
        if not self.is_initialized:
            raise InputError("there is nothing to freeze yet: feed the prompt first")
        self.reserve(self.kept + 4 * STEP)
        padding = self.padding or [0] * self.keys.shape[0]
        self._leads = place is None
        self._place = place or Place(self.kept, self.room, padding, None, self.keys)
        self.blank([self.kept] * self.keys.shape[0])
        self._start = self._first(padding, self.keys.device)
        most = self.room if self.selection.budget is not None else self.kept  # a share: of what is held now
        budget = self.selection.tokens(most)
        self._fixed = budget if self.weights is not None and budget < most else None
        self.length, self.frozen = self._place.length, True

    def thaw(self) -> None:
        """Back to counting on the host."""
        self._place = self._start = self._fixed = self._token = self.length = None
        self.frozen = self._leads = False

    @property
    def place(self) -> Place | None:
        return self._place

    def maintain(self) -> None:
        if self.frozen and self.kept >= self.room:
            raise InputError(
                f"the frozen cache is full at {self.room} tokens: call cache.reserve(tokens) with room for all "
                "before it is frozen"
            )

    def reset(self) -> None:
        super().reset()
        self.thaw()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row i continues what row beam_idx[i] was."""
        if self.is_initialized:
            self._rows(lambda held: held.index_select(0, beam_idx.to(held.device)), beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            batch = self.keys.shape[0]
            self._rows(lambda held: held.repeat_interleave(repeats, 0), [i // repeats for i in range(batch * repeats)])

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.is_initialized:
            rows = torch.arange(self.keys.shape[0])[indices.cpu()]
            self._rows(lambda held: held[indices], rows.tolist())

    def _rows(self, pick: Callable[[torch.Tensor], torch.Tensor], rows: list[int]) -> None:
        self.keys, self.values = pick(self.keys), pick(self.values)
        if self.codes is not None:
            self.codes = pick(self.codes)
        if self.padding is not None:
            self.padding = [self.padding[row] for row in rows]

    def report(self) -> LayerReport:
        if not self.is_initialized:
            return LayerReport(0, 0, 0, 0)
        held = self.keys.element_size() * self.keys.numel() + self.values.element_size() * self.values.numel()
        return LayerReport(self.seen, self.kept, held * self.seen // max(1, self.room), held + self.code_bytes)

    @property
    def code_bytes(self) -> int:
        return 0 if self.codes is None else self.codes.numel() * self.codes.element_size()


class HashedCache(AttendingCache):
    """Attend to `budget` tokens per new one, chosen by hash codes; for `generate(past_key_values=...)`.

    All keys and values are kept, and a code of `bits` beside each key: decoding gets faster, memory no smaller. Prompts
    are attended to in full. Layers of other kinds than full attention stay as they are.

    Args:
        config: `model.config`.
        budget: tokens attended to, sink and recent ones included (default 2048); with as many or fewer in the cache,
            all of them: the stock cache's result exactly.
        keep: instead of a budget, a share of the tokens held, at most 1.0.
        bits: per code and key.
        sink, recent: the first and last tokens of each sequence, always attended to.
        dense_layers: the first layers that attend to all.
        weights: a file that scripts/train_hash.py wrote for this model, or `HashWeights`; None = learned ones for the
            bundled model if they ship with it, else random orthogonal projections drawn with `seed`.

    Raises:
        InputError: numbers that do not fit, or weights of another model.
        ModelError: the model's attention is not plain softmax attention.

    >>> cache = npukv.HashedCache(model.config, budget=2048)
    >>> model.generate(**inputs, past_key_values=cache)
    """

    def __init__(
        self,
        config: Any,
        budget: int | None = None,
        *,
        keep: float | None = None,
        bits: int = 128,
        sink: int = 4,
        recent: int = 16,
        dense_layers: int = 2,
        weights: str | Path | HashWeights | None = None,
        seed: int = 0,
    ) -> None:
        if budget is not None and keep is not None:
            raise InputError(f"got budget = {budget} and keep = {keep}, expected one of them")
        if keep is not None and not 0 < keep <= 1:
            raise InputError(f"got keep = {keep}, expected a share of the tokens, more than 0 and at most 1")
        if sink < 0 or recent < 1 or dense_layers < 0:
            raise InputError(
                f"got sink = {sink}, recent = {recent}, dense_layers = {dense_layers}, expected at least 0, 1 (a token "
                "attends to itself) and 0"
            )
        if keep is None:
            budget = 2048 if budget is None else budget
            if budget < sink + recent:
                raise InputError(
                    f"got a budget of {budget} tokens for {sink} sink and {recent} recent ones, expected at least "
                    f"{sink + recent}: raise the budget, or lower sink or recent"
                )
        if isinstance(weights, str | Path):
            weights = HashWeights.load(weights, config)
        chosen = weights or bundled(config, bits) or HashWeights(bits, seed)
        selection = Selection(budget, keep, sink, recent)

        def layer(index: int) -> HashedLayer:
            if index < dense_layers:
                return HashedLayer(selection, None)
            return HashedLayer(selection, lambda heads, width: chosen.layer(index, heads, width))

        super().__init__(config, layer)
        self.selection = selection
        self.weights = chosen

    def reserve(self, tokens: int) -> None:
        """Have room for `tokens` in all, so that buffers need not grow; a frozen cache cannot."""
        for layer in self._hashed:
            if layer.is_initialized:
                layer.reserve(tokens)

    @property
    def _hashed(self) -> list[HashedLayer]:
        return [layer for layer in self.layers if isinstance(layer, HashedLayer)]

    def freeze(self) -> None:
        """Count on the device from here on; the layers share one count."""
        leader = self._hashed[0]
        leader.freeze()
        for layer in self._hashed[1:]:
            layer.reserve(leader.room)
            layer.freeze(leader.place)

    def thaw(self) -> None:
        for layer in self._hashed:
            layer.thaw()

    def report(self) -> HashedReport:
        base = super().report()
        held = max((layer.kept - min(layer.padding or [0]) for layer in self._hashed), default=0)
        codes = sum(layer.code_bytes for layer in self._hashed)
        return HashedReport(base.layers, base.other_layers, self.selection.tokens(held), codes)
