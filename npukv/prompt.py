"""How a segment and a question become one sequence of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from npukv.errors import InputError, ModelError

#: Stands for the segment while a chat template is rendered; must survive it unchanged.
_MARK = "\u2063SEGMENT\u2063"


@dataclass(frozen=True)
class Prompt:
    """The token ids around a segment: head + segment + question + tail, after which the answer begins.

    Attributes:
        head: what precedes the text (beginning of sequence, a chat template's opening, the question where it stands
            ahead, too).
        question: the question's tokens; relevance counts their likelihood.
        tail: what a chat template puts between question and answer; not counted.
    """

    head: tuple[int, ...]
    question: tuple[int, ...]
    tail: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.head) + len(self.question) + len(self.tail)

    @property
    def after(self) -> tuple[int, ...]:
        """All that follows the segment."""
        return self.question + self.tail


def build_prompt(tokenizer: Any, question: str, answer_prefix: str = "", *, ahead: bool = False) -> Prompt:
    """The prompt for a question: through the tokenizer's chat template if it has one, else "Question: ... Answer:".

    Args:
        answer_prefix: words the answer is made to begin with.
        ahead: the question stands before the text, too, so that the text is read in its light (query-aware
            contextualization: Liu et al., arXiv 2307.03172, section 4.2).

    Raises:
        InputError: the question is empty.
        ModelError: the chat template changes or drops what it is given.
    """
    question = question.strip()
    if not question:
        raise InputError("got an empty question, expected words; pass it with --question")

    try:
        question.encode()
    except UnicodeEncodeError:
        raise InputError(f"got a question that is not UTF-8 text ({question!r}); type it again") from None

    def encode(text: str, spelled: bool = False) -> tuple[int, ...]:
        """Ids of a template's text, in which special tokens count, or of a user's, in which they are only spelled."""
        return tuple(
            tokenizer(text, add_special_tokens=False, split_special_tokens=spelled, verbose=False)["input_ids"]
        )

    prefix = f" {answer_prefix.strip()}" if answer_prefix.strip() else ""
    if getattr(tokenizer, "chat_template", None):
        first = f"{question}\n\n" if ahead else ""
        message = [{"role": "user", "content": f"{first}{_MARK}\n\n{question}"}]
        rendered = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        before, _, after = rendered.partition(_MARK)
        if _MARK not in rendered or _MARK in after or question not in after or first not in before:
            raise ModelError(
                "the tokenizer's chat template does not carry the message unchanged (expected the text once, then the "
                "question); mend chat_template.jinja, or remove it to ask without a template"
            )
        asked, _, closing = after.partition(question)
        opening, _, text = before.rpartition(first) if first else (before, "", "")
        head = encode(opening) + (encode(first, spelled=True) + encode(text) if first else ())
        return Prompt(head, encode(asked + question, spelled=True), encode(closing + prefix.lstrip()))
    head = _beginning(tokenizer) + (encode(f"Question: {question}\n", spelled=True) if ahead else ())
    return Prompt(head, encode(f"\nQuestion: {question}\nAnswer:{prefix}", spelled=True))


def _beginning(tokenizer: Any) -> tuple[int, ...]:
    """The beginning-of-sequence token, for tokenizers that have one of its own (GPT-2's only ends documents)."""
    bos = tokenizer.bos_token_id
    return () if bos is None or bos == tokenizer.eos_token_id else (bos,)
