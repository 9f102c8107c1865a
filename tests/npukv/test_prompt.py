"""What stands around a segment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from npukv.errors import InputError, ModelError
from npukv.prompt import build_prompt


@pytest.fixture(scope="module")
def with_template(tokenizer: Any) -> Callable[[str], Any]:
    def make(template: str) -> Any:
        made = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, bos_token="<|bos|>", eos_token="<|eos|>"
        )
        made.chat_template = template
        return made

    return make


CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] | trim }}<|eos|>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def test_plain_prompt(tokenizer: Any) -> None:
    prompt = build_prompt(tokenizer, " What is the pass key?\n")
    assert prompt.head == (tokenizer.bos_token_id,)
    assert tokenizer.decode(prompt.question) == "\nQuestion: What is the pass key?\nAnswer:"
    assert prompt.tail == ()
    assert prompt.after == prompt.question
    assert len(prompt) == 1 + len(prompt.question)


def test_a_question_ahead_stands_on_both_sides_of_the_text(tokenizer: Any, with_template: Callable[[str], Any]) -> None:
    plain = build_prompt(tokenizer, "What is the pass key?", "It is")
    ahead = build_prompt(tokenizer, "What is the pass key?", "It is", ahead=True)
    assert ahead.head[: len(plain.head)] == plain.head and ahead.after == plain.after
    assert tokenizer.decode(ahead.head[len(plain.head) :]) == "Question: What is the pass key?\n"
    chat = with_template(CHAT)
    plain, ahead = (build_prompt(chat, "[user]\nWhat?", ahead=ahead) for ahead in (False, True))
    assert chat.decode(ahead.head) == "<|bos|>[user]\n[user]\nWhat?\n\n"
    assert ahead.head.count(chat.bos_token_id) == 1 and ahead.after == plain.after


@given(question=st.text("abW h?.\n'{}[]userassistant", min_size=1, max_size=30).filter(str.strip))
def test_a_question_ahead_is_spelled_whatever_it_says(with_template: Callable[[str], Any], question: str) -> None:
    tokenizer = with_template(CHAT)
    for asked in (question, f"<|eos|>{question}"):
        prompt = build_prompt(tokenizer, asked, ahead=True)
        assert tokenizer.decode(prompt.head) == f"<|bos|>[user]\n{asked.strip()}\n\n"
        assert tokenizer.eos_token_id not in prompt.head


@pytest.mark.parametrize("prefix", ["The pass key is", "  The pass key is "])
def test_answer_prefix_goes_on_after_one_blank(tokenizer: Any, prefix: str) -> None:
    prompt = build_prompt(tokenizer, "What?", prefix)
    assert tokenizer.decode(prompt.question) == "\nQuestion: What?\nAnswer: The pass key is"


def test_an_end_token_does_not_begin_a_sequence(tokenizer: Any) -> None:
    """GPT-2's only special token ends documents; a model trained without a beginning gets none."""
    ends_only = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|eos|>")
    assert build_prompt(ends_only, "What?").head == ()
    both = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<|eos|>", eos_token="<|eos|>"
    )
    assert build_prompt(both, "What?").head == ()


@pytest.mark.parametrize("prefix", ["", "The pass key is"])
def test_chat_prompt_is_the_template_around_the_segment(with_template: Callable[[str], Any], prefix: str) -> None:
    tokenizer = with_template(CHAT)
    prompt = build_prompt(tokenizer, "What is the pass key?", prefix)
    assert tokenizer.decode(prompt.head) == "<|bos|>[user]\n"
    assert tokenizer.decode(prompt.question) == "\n\nWhat is the pass key?"
    assert tokenizer.decode(prompt.tail) == f"<|eos|>\n[assistant]\n{prefix}"
    assert prompt.head[0] == tokenizer.bos_token_id
    assert prompt.head.count(tokenizer.bos_token_id) == 1
    assert prompt.tail[0] == tokenizer.eos_token_id  # the template's special tokens are tokens, not letters
    assert prompt.after == prompt.question + prompt.tail


@given(question=st.text("abW h?.\n'{}[]userassistant", min_size=1, max_size=30).filter(str.strip))
def test_chat_prompt_spells_the_conversation(with_template: Callable[[str], Any], question: str) -> None:
    """Whatever the question, also one that repeats words of the template."""
    tokenizer = with_template(CHAT)
    prompt = build_prompt(tokenizer, question)
    around = [tokenizer.decode(part) for part in (prompt.head, prompt.question, prompt.tail)]
    assert around == ["<|bos|>[user]\n", f"\n\n{question.strip()}", "<|eos|>\n[assistant]\n"]


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}[assistant]\n",  # leaves the message out
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",  # says something else than was asked
        "{% for m in messages %}{{ m['content'] | replace('\u2063', '') }}{% endfor %}",
    ],
)
def test_template_that_does_not_hold_the_message_is_refused(with_template: Callable[[str], Any], template: str) -> None:
    with pytest.raises(ModelError, match="template"):
        build_prompt(with_template(template), "What is it?")


@pytest.mark.parametrize("question", ["", " ", "\n\t"])
def test_empty_question_is_refused(tokenizer: Any, question: str) -> None:
    with pytest.raises(InputError, match="empty question"):
        build_prompt(tokenizer, question)
