"""Greedy answers to many prompts at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from npukv.errors import InputError

if TYPE_CHECKING:
    from npukv.cache.named import CacheChoice
    from npukv.cache.report import CacheReport
    from npukv.language_model import LanguageModel


# Devices that read fewer tokens at once are busy with one prompt, and masks for padding only cost them time.
PADDING = 32_768


def end_of_answer(lm: LanguageModel) -> list[int]:
    """Tokens that end an answer: end of sequence, and for models without a chat template the end of the line."""
    if getattr(lm.tokenizer, "chat_template", None):
        return list(lm.end_ids)
    texts = lm.tokenizer.batch_decode([[i] for i in lm.stop_ids])
    return sorted({*lm.end_ids, *(i for i, text in zip(lm.stop_ids, texts, strict=True) if "\n" in text)})


def generate_answers(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Greedy continuations of prompts, up to the end of the answer; equal prompts are run once.

    Prompts of similar length are batched, padded on the left; of equal length alone where batches bring nothing.

    Args:
        prompts: token ids, special tokens included.
        max_new_tokens: for each prompt.
        progress: called with (prompts done, distinct prompts in all).

    Raises:
        InputError: a prompt and its answer do not fit the model's context.
    """
    jobs: dict[tuple[int, ...], int] = {}
    for prompt, new in zip(prompts, max_new_tokens, strict=True):
        if len(prompt) + new > lm.context:
            raise InputError(f"got a prompt of {len(prompt)} tokens and {new} to come, expected at most {lm.context}")
        key = tuple(prompt)
        jobs[key] = max(new, jobs.get(key, 0))
    order = sorted(jobs, key=lambda prompt: (jobs[prompt], len(prompt)))
    ends = end_of_answer(lm)
    limit = lm.device.batch_tokens
    answers: dict[tuple[int, ...], str] = {}
    while len(answers) < len(order):
        group = _next_batch(order, len(answers), limit, jobs)
        try:
            rows = _run(lm, group, jobs[group[0]], ends)
        except Exception as error:
            if not lm.device.is_out_of_memory(error) or len(group) == 1:
                raise
            limit = len(group) * len(group[-1]) // 2
            lm.device.release_memory()
            continue
        for prompt, row in zip(group, rows, strict=True):
            answers[prompt] = _text(lm, row, ends)
        if progress is not None:
            progress(len(answers), len(order))
    return [answers[tuple(prompt)] for prompt in prompts]


def _run(lm: LanguageModel, group: list[tuple[int, ...]], new: int, ends: list[int]) -> list[list[int]]:
    """New tokens of each prompt: at most ``new``, padding and all behind an end included."""
    import torch

    pad = ends[0] if ends else 0
    width = max(map(len, group))
    x = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in group])  # [B, S]
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in group])
    with torch.inference_mode():
        out = lm.model.generate(
            x.to(lm.model.device),
            attention_mask=mask.to(lm.model.device),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=ends or None,
            past_key_values=lm.new_cache(width + new),
            pad_token_id=pad,
        )
    return out[:, width:].tolist()


def _text(lm: LanguageModel, row: Sequence[int], ends: Sequence[int]) -> str:
    """The answer's text: up to the end of the sequence, or of the line."""
    text = lm.decode(row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))])
    # The ending token may begin with a period.
    return text if getattr(lm.tokenizer, "chat_template", None) else text.partition("\n")[0]


def answer_through_cache(
    lm: LanguageModel, context: Sequence[int], question: Sequence[int], max_new_tokens: int, cache: CacheChoice
) -> tuple[str, CacheReport]:
    """A greedy answer by a model that read the context into a cache before it saw the question.

    Args:
        context: token ids, special tokens at their start included.
        question: what follows them, as one multi-token input.
        cache: made anew for this context.

    Returns:
        The answer, and the cache's report when the context was in it and the question not yet.

    Raises:
        InputError: they do not fit the model's context, or the cache's amount is too small.
        ModelError: the cache cannot serve this model.
    """
    import torch

    from npukv.cache.named import compress_now, report_of

    width = len(context) + len(question)
    if width + max_new_tokens > lm.context:
        raise InputError(f"got a prompt of {width} tokens and {max_new_tokens} to come, expected at most {lm.context}")
    made = cache.make(lm, width + max_new_tokens)
    ends = end_of_answer(lm)
    x = torch.tensor([[*context, *question]], device=lm.model.device)  # [1, T]
    with torch.inference_mode():
        lm.model(x[:, : len(context)], past_key_values=made, use_cache=True, logits_to_keep=1)
        compress_now(made)
        report = report_of(made)
        out = lm.model.generate(
            x,
            attention_mask=torch.ones_like(x),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=ends or None,
            past_key_values=made,
            pad_token_id=ends[0] if ends else 0,
        )
    return _text(lm, out[0, width:].tolist(), ends), report


def _next_batch(
    order: Sequence[tuple[int, ...]], at: int, limit: int, new: dict[tuple[int, ...], int]
) -> list[tuple[int, ...]]:
    """Prompts from ``at`` on with equally long answers, padded at most ``limit`` tokens in all; at least one."""
    end = at + 1
    while end < len(order) and new[order[end]] == new[order[at]] and (end + 1 - at) * len(order[end]) <= limit:
        if limit < PADDING and len(order[end]) > len(order[at]):
            break
        end += 1
    return list(order[at:end])
