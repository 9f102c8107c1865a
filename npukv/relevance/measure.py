"""One batch of segments through the model: the question's likelihood, and the entropies of the answer looked ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from npukv.errors import ModelError
from npukv.language_model import LanguageModel
from npukv.prompt import Prompt
from npukv.relevance.measures import Measured

#: (ids [b, S], cache, keep) -> logits [b, keep, V] at the last positions.
Forward = Callable[[torch.Tensor, Any, int], torch.Tensor]

#: cuDNN's attention of one query to many keys adds up in another order at every call: last bits differed (H200).
REPEATABLE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@torch.inference_mode()
@sdpa_kernel(REPEATABLE)
def measure_batch(
    lm: LanguageModel,
    segments: np.ndarray,
    prompts: Sequence[Prompt],
    horizon: int,
    index: int = 0,
    forward: Forward | None = None,
) -> list[Measured]:
    """Measure segments against one or more questions.

    The segment and the question are one sequence at positions 0.., as in XL3M (arXiv 2405.17755). The lookahead goes
    on from the keys and values of that pass. With several questions the segment is read once, and each question goes
    on from its keys and values.

    Args:
        segments: token ids, int [b, length].
        prompts: what surrounds them, per question.
        horizon: greedy tokens looked ahead.
        index: the first segment's place in the text, for messages.
        forward: (ids [b, S], cache, keep) -> logits [b, keep, V]; None = the model's own.

    Returns:
        One `Measured` of b segments per prompt.

    Raises:
        ModelError: the model's logits are not numbers.
    """
    read = forward or _own_forward(lm)
    device = lm.device.torch_device
    body = torch.from_numpy(segments.astype(np.int64)).to(device)
    if len(prompts) == 1 or not lm.rewindable or len({prompt.head for prompt in prompts}) > 1:
        measured = []
        for prompt in prompts:
            ids = torch.cat([_rows(prompt.head, body), body, _rows(prompt.after, body)], dim=1)  # [b, T]
            # only a forward of npukv's own is known to do without a cache where nothing is looked ahead
            cache = lm.new_cache(ids.shape[1] + horizon) if horizon > 1 or forward is None else None
            measured.append(_read(lm, read, ids, cache, prompt, horizon, index))
        return measured
    head = _rows(prompts[0].head, body)
    prefix = head.shape[1] + body.shape[1]
    cache = lm.new_cache(prefix + max(len(prompt.after) for prompt in prompts) + horizon)
    read(torch.cat([head, body], dim=1), cache, 1)
    measured = []
    for prompt in prompts:
        cache.rewind(prefix)
        measured.append(_read(lm, read, _rows(prompt.after, body), cache, prompt, horizon, index))
    return measured


def _rows(ids: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """The same ids for every row: [b, len(ids)]."""
    return torch.tensor(ids, dtype=like.dtype, device=like.device).expand(like.shape[0], -1)


def _own_forward(lm: LanguageModel) -> Forward:
    def forward(ids: torch.Tensor, cache: Any, keep: int) -> torch.Tensor:
        return lm.model(ids, past_key_values=cache, logits_to_keep=keep).logits

    return forward


def _read(
    lm: LanguageModel, read: Forward, ids: torch.Tensor, cache: Any, prompt: Prompt, horizon: int, index: int
) -> Measured:
    """Read [b, T] ids that end with the question, then look ahead."""
    logits = read(ids, cache, len(prompt.after))  # [b, after, V]
    asked = torch.tensor(prompt.question, device=ids.device)
    likelihood = torch.zeros(ids.shape[0], device=ids.device)
    for i in range(1, len(asked)):  # position by position: [b, V] in float32 is all that is ever widened
        likelihood += torch.nn.functional.cross_entropy(
            logits[:, i - 1].float(), asked[i].expand(ids.shape[0]), reduction="none"
        )
    likelihood /= max(1, len(asked) - 1)
    entropies, sound = _look_ahead(lm, read, logits[:, -1], cache, horizon)
    if not bool(sound & torch.isfinite(likelihood).all()):
        raise ModelError(
            f"the model's logits are not numbers for a segment at or after number {index} (got NaN or infinity); "
            "its weights are damaged, or overflow in this type: try --dtype float32"
        )
    return Measured(entropies.cpu().numpy(), likelihood.cpu().numpy())


def _look_ahead(
    lm: LanguageModel, read: Forward, logits: torch.Tensor, cache: Any, horizon: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Entropies [b, horizon] at greedily decoded tokens, NaN after the token that ends a row's answer.

    Also whether all of them until there are numbers: a boolean tensor.
    """
    entropies = logits.new_full((logits.shape[0], horizon), float("nan"), dtype=torch.float32)
    stops = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    stops[list(lm.stop_ids)] = True
    live = torch.ones(logits.shape[0], dtype=torch.bool, device=logits.device)
    sound = live.all()
    for step in range(horizon):
        likely = logits.float().softmax(-1)
        entropy = -torch.xlogy(likely, likely).sum(-1)  # not torch.special.entr, which torch_npu computes on the host
        sound = sound & (torch.isfinite(entropy) | ~live).all()
        entropies[:, step] = entropy.where(live, float("nan"))
        chosen = logits.argmax(-1)
        live = live & ~stops[chosen]
        if step + 1 == horizon or not bool(live.any()):
            break
        logits = read(chosen[:, None], cache, 1)[:, -1]
    return entropies, sound
