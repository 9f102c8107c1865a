"""Greedy generation, streamed, that ends where the answer does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from npukv import decode
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
    from transformers import TextStreamer

    one_line = not getattr(lm.tokenizer, "chat_template", None)

    class Pieces(TextStreamer):
        ended = False

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if one_line:  # one token may hold the line's end and what follows it
                text, end, _ = ("" if self.ended else text).partition("\n")
                self.ended = self.ended or bool(end)
            if stream is not None and text:
                stream(text)

    def line_ended(generated: list[int]) -> bool:
        return "\n" in lm.decode(generated)

    output = decode.generate(
        lm,
        list(ids),
        max_new_tokens=max_new_tokens,
        streamer=Pieces(lm.tokenizer, skip_prompt=True, skip_special_tokens=True),
        stop=line_ended if one_line else None,
    )
    generated = output[0, len(ids) :]
    text = lm.decode(generated)
    if one_line:
        text = text.partition("\n")[0]
    return text.strip(), len(generated)
