"""Greedy generation, streamed, that ends where the answer does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from npukv.errors import ModelError
from npukv.language_model import LanguageModel


def generate(
    lm: LanguageModel, ids: Sequence[int], max_new_tokens: int, stream: Callable[[str], None] | None = None
) -> tuple[str, int]:
    """The model's answer to a prompt.

    Models without a chat template go on inventing questions after their answer; for them the answer ends with its
    first line.

    Args:
        ids: the prompt's tokens.
        stream: called with each piece of text as it comes.

    Returns:
        The answer, stripped, and the number of tokens generated.

    Raises:
        ModelError: the model's logits are not numbers.
    """
    from transformers import (
        GenerationConfig,
        LogitsProcessor,
        LogitsProcessorList,
        StoppingCriteria,
        StoppingCriteriaList,
        TextStreamer,
    )

    one_line = not getattr(lm.tokenizer, "chat_template", None)

    class Pieces(TextStreamer):
        ended = False

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if one_line:  # one token may hold the line's end and what follows it
                text, end, _ = ("" if self.ended else text).partition("\n")
                self.ended = self.ended or bool(end)
            if stream is not None and text:
                stream(text)

    class OnlyNumbers(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if bool(torch.isnan(scores).any()):
                raise ModelError(
                    "the model's logits are not numbers while answering (got NaN); its weights are damaged, or "
                    "overflow in this type: try --dtype float32"
                )
            return scores

    class LineEnd(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
            ended = "\n" in lm.decode(input_ids[0, len(ids) :])
            return torch.full((input_ids.shape[0],), ended, device=input_ids.device)

    prompt = torch.tensor([list(ids)], device=lm.device.torch_device)
    end_ids = list(lm.end_ids)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=end_ids or None,
        pad_token_id=end_ids[0] if end_ids else 0,
    )
    output = lm.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=config,
        past_key_values=lm.new_cache(len(ids) + max_new_tokens),
        logits_processor=LogitsProcessorList([OnlyNumbers()]),
        stopping_criteria=StoppingCriteriaList([LineEnd()] if one_line else []),
        streamer=Pieces(lm.tokenizer, skip_prompt=True, skip_special_tokens=True),
    )
    generated = output[0, len(ids) :]
    text = lm.decode(generated)
    if one_line:
        text = text.partition("\n")[0]
    return text.strip(), len(generated)
