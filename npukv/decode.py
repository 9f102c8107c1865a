"""Generation whose decode step is one launch: prompt in chunks, then a captured step, replayed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from npukv import attention
from npukv.backends import CaptureFailed, Device, select
from npukv.cache.preallocated import PreallocatedCache
from npukv.errors import DeviceError, InputError, ModelError
from npukv.language_model import LanguageModel
from npukv.step import BROKEN, Chooser, Step, attending, can_freeze, thaw

if TYPE_CHECKING:
    from transformers import Cache

_log = logging.getLogger("npukv")


@torch.no_grad()
def generate(
    model: LanguageModel | Any,
    input_ids: torch.Tensor | Sequence[int],
    *,
    cache: Any = None,
    attention_mask: torch.Tensor | None = None,
    max_new_tokens: int = 256,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    eos: int | Sequence[int] | None = None,
    stream: Callable[[str], None] | None = None,
    streamer: Any = None,
    stop: Callable[[list[int]], bool] | None = None,
    prefill_chunk: int = 8192,
    capture: bool | None = None,
) -> torch.Tensor:
    """What `model.generate` returns, with decode steps that cost what their bytes cost, not what their launches do.

    The prompt is read in chunks. Then the cache is frozen and one step, from embedding to chosen token, is captured
    where the device can, and replayed; the end-of-sequence check and the streamed text lag one step behind, so that
    the device never waits. Greedy tokens are those of `model.generate(do_sample=False)`.

    Args:
        model: a `LanguageModel`, or any transformers causal language model.
        input_ids: [B, S] (or one sequence), padded on the left.
        cache: any transformers cache; npukv's can be captured. It may hold the beginning of `input_ids` already, which
            is then not read again. None = a full one.
        attention_mask: [B, S], 0 for padding; None = no padding.
        max_new_tokens: the most tokens generated per row.
        do_sample: draw from softmax(logits / temperature), from its most likely part of mass `top_p`, by torch's own
            random numbers.
        seed: where the device's random numbers begin, so that the same is drawn again; None = they go on.
        eos: tokens that end a row; None = the model's own.
        stream: called with each piece of text as it comes (one sequence, a `LanguageModel`).
        streamer: the same by transformers' protocol, e.g. its TextStreamer.
        stop: called with the tokens generated so far (one sequence); True ends it.
        prefill_chunk: tokens of the prompt read at once, per row.
        capture: False = never; True = freeze the cache and prepare the step also where nothing is recorded; None = as
            the device does.

    Returns:
        [B, S + new]: the prompt and what was generated, rows that ended earlier filled up with the padding token.

    Raises:
        InputError: shapes, numbers or a mask that do not fit, or a cache that is too small.
        ModelError: the model's logits are not numbers.
        DeviceError: the model's step cannot be captured; `capture=False` does without.
    """
    lm = model if isinstance(model, LanguageModel) else None
    network: Any = lm.model if lm else model
    device = lm.device if lm else select(network.device.type, network.device.index or 0)
    ids = torch.as_tensor(input_ids, device=device.torch_device)
    ids = ids[None] if ids.dim() == 1 else ids
    padding = _padding(ids, attention_mask)
    _check(ids, max_new_tokens, prefill_chunk, temperature, top_p)
    if (stream or streamer or stop) and ids.shape[0] > 1:
        raise InputError(f"got {ids.shape[0]} sequences with stream, streamer or stop, expected one")
    if stream is not None:
        streamer = _text_streamer(lm, stream)
    ends = _end_ids(network, lm, eos)
    configured = network.generation_config.pad_token_id
    pad = configured if configured is not None else (ends[0] if ends else 0)

    room = ids.shape[1] + max_new_tokens
    if streamer is not None:
        streamer.put(ids.cpu())
    if cache is None:
        cache = full_cache(network, room)
    skip = _already_read(cache, ids.shape[1])
    for layer in cache.layers:
        capacity = getattr(layer, "capacity", None)
        if capacity is not None and room - 1 > capacity:
            raise InputError(
                f"the cache holds {capacity} tokens, got {ids.shape[1]} and up to {max_new_tokens} new ones: make it "
                f"with room for {room - 1}, or generate fewer"
            )
    if isinstance(cache, PreallocatedCache):
        cache.pad(padding)

    if seed is not None:
        device.seed(seed)
    with attending(network, cache):
        ok, reason = can_freeze(network, cache)
        freeze = ok and (device.captures if capture is None else capture)
        if not freeze and capture is not False and device.captures:
            _log.warning("decoding step by step, without capture: %s", reason)
        chooser = Chooser(ids, padding, ends, pad, (temperature, top_p) if do_sample else None)
        mask = _mask(ids, padding, room)
        logits = prefill(network, ids[:, skip:], cache, padding, mask, skip, prefill_chunk)
        chooser(logits)
        if freeze:
            if hasattr(cache, "reserve"):
                cache.reserve(room)
            cache.freeze()
        step = Step(network, cache, chooser, mask, frozen=freeze)
        replay = device.capture(step) if freeze else step
        try:
            generated = _loop(
                replay, cache, chooser, device, ends, max_new_tokens, streamer, stop, freeze, ids.shape[1]
            )
        except CaptureFailed as error:
            raise DeviceError(str(error)) from error
        finally:
            if freeze:
                thaw(cache)
    if streamer is not None:
        streamer.end()
    new = torch.tensor(generated, dtype=ids.dtype, device=ids.device)  # [new, B]
    return torch.cat([ids, new.T], dim=1)


def full_cache(network: Any, capacity: int) -> Cache:
    """A full cache for `capacity` tokens: npukv's, where its attention serves the model, else transformers' own."""
    from transformers import DynamicCache

    if attention.supports(network.config)[0]:
        try:
            return PreallocatedCache.for_config(network.config, capacity)
        except ModelError as error:
            _log.warning("%s", error)
    return DynamicCache(config=network.config)


def prefill(
    network: Any,
    ids: torch.Tensor,
    cache: Cache,
    padding: Sequence[int],
    mask: torch.Tensor | None = None,
    skip: int = 0,
    chunk: int = 8192,
) -> torch.Tensor:
    """Read [B, S] tokens, the first of them token number `skip` of its row; returns the last one's logits, [B, V]."""
    first = torch.tensor(padding, device=ids.device)[:, None]
    stop = 0
    while stop < ids.shape[1]:
        # the first chunk reaches into every row: a cache learns from it how much padding a row begins with
        start, stop = stop, min(max(stop + chunk, max(padding) + 1 - skip), ids.shape[1])
        positions = torch.arange(skip + start, skip + stop, device=ids.device) - first
        output = network(
            input_ids=ids[:, start:stop],
            attention_mask=None if mask is None else mask[:, : skip + stop],
            position_ids=positions.clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return output.logits[:, -1]


def _loop(
    replay: Callable[[], None],
    cache: Any,
    chooser: Chooser,
    device: Device,
    ends: Sequence[int],
    max_new_tokens: int,
    streamer: Any,
    stop: Callable[[list[int]], bool] | None,
    frozen: bool,
    prompt: int,
) -> list[list[int]]:
    """Step until every row has ended; returns the tokens of each step, [new, B]."""
    generated: list[list[int]] = []
    live = [True] * len(chooser.said)

    def ended(said: torch.Tensor) -> bool:
        tokens = said.tolist()
        if BROKEN in tokens:
            raise ModelError(
                "the model's logits are not numbers while answering (got NaN); its weights are damaged, or overflow "
                "in this type: try --dtype float32"
            )
        generated.append(tokens)
        for row, token in enumerate(tokens):
            live[row] = live[row] and token not in ends
        if streamer is not None:
            streamer.put(said)
        return not any(live) or (stop is not None and stop([column[0] for column in generated]))

    # Where work is queued, the next step is queued before the last token is looked at. If that token turns out to be
    # the end, the cache has read it too.
    ahead = device.captures and frozen
    waiting = device.fetch(chooser.said)
    for _ in range(max_new_tokens - 1):
        if not ahead and ended(waiting()):
            return generated
        replay()
        if frozen:
            cache.advanced(1)
            cache.maintain()
        following = device.fetch(chooser.said)
        if ahead and ended(waiting()):
            if isinstance(cache, PreallocatedCache):
                cache.rewind(prompt + len(generated) - 1)
            return generated
        waiting = following
    ended(waiting())
    return generated


def _check(ids: torch.Tensor, max_new_tokens: int, prefill_chunk: int, temperature: float, top_p: float) -> None:
    if ids.dim() != 2 or ids.shape[0] == 0 or ids.shape[1] == 0 or ids.dtype.is_floating_point:
        raise InputError(f"got input_ids of shape {tuple(ids.shape)} and {ids.dtype}, expected tokens [B, S], S >= 1")
    for name, value in (("max_new_tokens", max_new_tokens), ("prefill_chunk", prefill_chunk)):
        if value < 1:
            raise InputError(f"got {name} = {value}, expected at least 1")
    if not temperature > 0:
        raise InputError(f"got temperature = {temperature}, expected more than 0; for greedy decoding leave do_sample")
    if not 0 < top_p <= 1:
        raise InputError(f"got top_p = {top_p}, expected more than 0 and at most 1")


def _padding(ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[int]:
    """How many tokens of padding each row begins with."""
    if attention_mask is None:
        return [0] * ids.shape[0]
    if attention_mask.shape != ids.shape:
        raise InputError(f"got an attention mask {tuple(attention_mask.shape)} for tokens {tuple(ids.shape)}")
    mask = attention_mask.bool().cpu()
    left = mask.int().diff(dim=1).ge(0).all() and mask[:, -1].all()
    if not bool(left):
        raise InputError(
            "the attention mask has holes or ends before the tokens do, expected padding on the left: "
            "set tokenizer.padding_side = 'left'"
        )
    return (~mask).sum(-1).tolist()


def _mask(ids: torch.Tensor, padding: Sequence[int], room: int) -> torch.Tensor | None:
    """The attention mask of all tokens there will ever be, [B, room]; None without padding."""
    if not any(padding):
        return None
    return (torch.arange(room)[None] >= torch.tensor(padding)[:, None]).to(ids.device, torch.long)


def _already_read(cache: Any, prompt: int) -> int:
    """How many tokens of the prompt the cache holds; at least one is left to read."""
    seen = cache.get_seq_length()
    if seen < prompt:
        return seen
    if seen == prompt and hasattr(cache, "rewind"):
        cache.rewind(prompt - 1)
        return prompt - 1
    raise InputError(
        f"the cache has seen {seen} tokens, got a prompt of {prompt}: give all tokens, those it has seen and at least "
        "one new one"
    )


def _end_ids(network: Any, lm: LanguageModel | None, eos: int | Sequence[int] | None) -> list[int]:
    if eos is None and lm is not None:
        return list(lm.end_ids)
    listed = network.generation_config.eos_token_id if eos is None else eos
    if listed is None:
        return []
    return [listed] if isinstance(listed, int) else list(listed)


def _text_streamer(lm: LanguageModel | None, stream: Callable[[str], None]) -> Any:
    from transformers import TextStreamer

    if lm is None:
        raise InputError("got stream with a bare model, expected a LanguageModel (npukv.load), or streamer=")

    class Pieces(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                stream(text)

    return Pieces(lm.tokenizer, skip_prompt=True, skip_special_tokens=True)
