"""One decode step: from embedding to chosen token, over the same tensors every time."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from npukv import attention, fused
from npukv.cache.layer import AttendingLayer

if TYPE_CHECKING:
    from transformers import Cache

#: What a step says for a row whose logits are not numbers.
BROKEN = -1


class Chooser:
    """Logits to tokens, and what the next step starts from; all on the device, in the same tensors every time.

    Attributes:
        token, position: int64 [B, 1], the token to feed next and where it stands in its row.
        said: int64 [B], the token last chosen, `BROKEN` where the logits are not numbers.
        ended: bool [B], rows that said an end token.
    """

    def __init__(
        self,
        ids: torch.Tensor,
        padding: Sequence[int],
        ends: Sequence[int],
        pad: int,
        sampling: tuple[float, float] | None,
    ) -> None:
        self.token = ids[:, -1:].clone()
        self.position = ids.shape[1] - 1 - torch.tensor(padding, device=ids.device)[:, None]
        self.said = self.token[:, 0].clone()
        self.ended = torch.zeros_like(self.said, dtype=torch.bool)
        self._ends = torch.tensor(list(ends), dtype=torch.long, device=ids.device)
        self._pad = pad
        self._sampling = sampling

    def __call__(self, logits: torch.Tensor) -> None:
        """Choose from [B, V]."""
        best, token = logits.max(-1)
        if self._sampling is not None:
            token = sample(logits, *self._sampling)
        token = token.masked_fill(self.ended, self._pad)
        self.said.copy_(token.masked_fill(best.isnan() & ~self.ended, BROKEN))
        self.token.copy_(token[:, None])
        self.position.add_(1)
        if len(self._ends):
            self.ended.logical_or_((token[:, None] == self._ends).any(-1))


def sample(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Draw one token per row of [B, V], without the host: the largest of log-probability plus Gumbel noise."""
    scores = logits.float() / temperature
    if top_p < 1:
        ordered, order = scores.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # the most likely one always stays
        scores = torch.full_like(scores, float("-inf")).scatter(
            -1, order, ordered.masked_fill(before >= top_p, float("-inf"))
        )
    return (scores - torch.empty_like(scores).exponential_().log()).argmax(-1)


class Step:
    """One token for every row, from embedding to choice. Frozen, it looks at nothing on the host and can be captured.

    Attributes:
        fused, reason: whether the step goes through `npukv.fused`, and why (not).
        logits: [B, V] of the last step; a captured step writes them to the same place every time.
    """

    logits: torch.Tensor

    def __init__(
        self,
        network: Any,
        cache: Cache,
        chooser: Chooser,
        mask: torch.Tensor | None = None,
        frozen: bool = True,
        fuse: bool | None = None,
    ) -> None:
        self._network = network
        self._cache = cache
        self._chooser = chooser
        self._mask = mask
        self._frozen = frozen
        rows = chooser.token.shape[0]
        self.fused, self.reason = fused.serves(network, cache, rows)
        if not frozen or fuse is not None:
            self.fused, self.reason = frozen and bool(fuse), "as asked for" if frozen else "the cache is not frozen"

    def __call__(self) -> None:
        if self.fused:
            self.logits = fused.logits(self._network, self._cache, self._chooser.token, self._chooser.position)
        else:
            mask = None
            if self._mask is not None and not self._frozen:
                mask = self._mask[:, : self._cache.get_seq_length() + 1]
            self.logits = self._network(
                input_ids=self._chooser.token,
                attention_mask=mask,
                position_ids=self._chooser.position,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        self._chooser(self.logits)


def can_freeze(network: Any, cache: Cache) -> tuple[bool, str]:
    """Whether a decode step of this model over this cache can be captured, and why (not)."""
    foreign = {type(layer).__name__ for layer in cache.layers if not isinstance(layer, AttendingLayer)}
    if foreign or not cache.layers:
        return False, f"the cache's layers ({', '.join(sorted(foreign))}) have no place of their own on the device"
    ropes = getattr(network.config.get_text_config(), "rope_parameters", None) or {}
    kinds = {value.get("rope_type") for value in (ropes, *ropes.values()) if isinstance(value, dict)}
    for kind in kinds & {"dynamic", "longrope"}:
        return False, f"the model's rotary embedding ({kind}) looks at the length on the host"
    if "position_ids" not in inspect.signature(network.forward).parameters:
        return False, "the model takes no position_ids"
    return True, "fixed buffers, positions on the device"


@contextmanager
def attending(network: Any, cache: Cache) -> Iterator[None]:
    """Within, the model attends by npukv's attention, if the cache asks for it; then as it did before."""
    before = network.config._attn_implementation
    if before == attention.NAME or not any(isinstance(layer, AttendingLayer) for layer in cache.layers):
        yield
        return
    attention.register()
    network.set_attn_implementation(attention.NAME)
    try:
        yield
    finally:
        network.set_attn_implementation(before)


def thaw(cache: Any) -> None:
    """A frozen cache counts on the host again, and can be fed by whoever likes."""
    if hasattr(cache, "thaw"):
        cache.thaw()
        return
    for layer in cache.layers:
        if isinstance(layer, AttendingLayer):
            layer.frozen = False
