"""Perplexity and bits per byte of a model on a text, with a full or a compressed cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from npukv.errors import InputError, ModelError

if TYPE_CHECKING:
    import torch

    from npukv.language_model import LanguageModel


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Attributes:
        perplexity: exp of the mean negative log-likelihood per token.
        bits_per_byte: bits per UTF-8 byte of the text, comparable between tokenizers.
        nats: negative log-likelihood of all tokens that count.
        tokens: tokens that count: all but the very first, which a model without a beginning token cannot predict.
        bytes: UTF-8 bytes of those tokens.
    """

    perplexity: float
    bits_per_byte: float
    nats: float
    tokens: int
    bytes: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def measure_perplexity(
    lm: LanguageModel,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
    batch: int = 8,
    cache: Callable[[], Any] | None = None,
    chunk: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Perplexity over overlapping windows; every token counts once, in the first window that holds it.

    Args:
        lm: the model.
        text: any text.
        window: tokens read at once, the beginning token included; None = the model's context.
        stride: tokens from one window to the next, fewer than a window holds; None = half a window, so that every
            counted token but the first window's has at least half a window before it.
        batch: windows per forward pass.
        cache: makes the KV cache to be judged, one per batch of windows; None = none. Call once with and once without
            to compare a compression method with the full cache.
        chunk: with a cache, tokens fed at a time: those of later chunks are predicted from what the cache kept, which
            is compressed after each. None = an eighth of the window.
        progress: called with (windows done, windows in all).

    Raises:
        InputError: an empty text, or window and stride that do not fit.
        ModelError: the model gave a likelihood that is not a number.
    """
    from npukv.text import tokenize

    bos = lm.tokenizer.bos_token_id
    head = [] if bos is None else [bos]
    window = lm.context if window is None else window
    body = window - len(head)
    stride = max(1, body // 2) if stride is None else stride
    if not 2 <= body <= lm.context - len(head) or not 1 <= stride < body:
        raise InputError(
            f"got window {window} and stride {stride}, expected a window of {2 + len(head)} to {lm.context} tokens "
            f"(the model's context) and a stride of 1 to {window - len(head) - 1}"
        )
    if not text.strip():
        raise InputError("got an empty text, expected words to measure perplexity on")
    tokens = tokenize(lm.tokenizer, text)
    ids = tokens.ids.tolist()
    first = 0 if head else 1  # tokens before it are not predicted
    if len(ids) <= first:
        raise InputError(f"got a text of {len(ids)} tokens, expected at least {first + 1}")
    starts = [0]
    while starts[-1] + body < len(ids):
        starts.append(min(starts[-1] + stride, len(ids) - body))
    nats, done = 0.0, first
    for at in range(0, len(starts), batch):
        group = starts[at : at + batch]
        rows = [head + ids[start : start + body] for start in group]
        losses = _token_losses(lm, rows, cache, chunk or max(1, window // 8))
        for start, row, loss in zip(group, rows, losses, strict=True):
            end = start + len(row) - len(head)
            nats += float(loss[len(row) - 1 - (end - done) :].sum())
            done = end
        if not math.isfinite(nats):
            raise ModelError(f"{lm.name} gave a likelihood that is not a number: check its weights and number type")
        if progress is not None:
            progress(min(len(starts), at + batch), len(starts))
    size = len(text[tokens.span(first, len(ids))[0] :].encode())
    counted = len(ids) - first
    return Perplexity(math.exp(nats / counted), nats / math.log(2) / size, nats, counted, size)


def _token_losses(
    lm: LanguageModel, rows: list[list[int]], cache: Callable[[], Any] | None, chunk: int
) -> torch.Tensor:
    """Negative log-likelihood of every token but the first, [B, T - 1] float64 on the CPU; rows of equal length."""
    import torch

    from npukv.cache.named import compress_now

    # x: [B, T]
    x = torch.tensor(rows, device=lm.model.device)
    losses = []
    kept = cache() if cache is not None else None
    step = x.shape[1] if kept is None else chunk
    with torch.inference_mode():
        for at in range(0, x.shape[1] - 1, step):
            part = x[:, at : at + step]
            arguments = {"use_cache": False} if kept is None else {"use_cache": True, "past_key_values": kept}
            logits = lm.model(part, **arguments).logits
            if kept is not None:
                compress_now(kept)
            targets = x[:, at + 1 : at + 1 + step]
            # One row's logits in fp32 at a time: [T, V] is the largest tensor here.
            for row, target in zip(logits, targets, strict=True):
                row = row[: len(target)].float()
                losses.append((at, torch.nn.functional.cross_entropy(row, target, reduction="none").double().cpu()))
    parts = [torch.stack([loss for place, loss in losses if place == at]) for at in sorted({at for at, _ in losses})]
    return torch.cat(parts, dim=1)
