"""Generation ends where the answer does, and streams what it returns."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from npukv.generation import generate


def ask(lm: Any, max_new_tokens: int = 16) -> tuple[str, int, list[str]]:
    pieces: list[str] = []
    text, count = generate(lm, lm.encode("Who is it? Answer:"), max_new_tokens, pieces.append)
    return text, count, pieces


@pytest.mark.parametrize(
    ("said", "expected", "count"),
    [
        (": the LORD.\n And", "the LORD.", 4),
        (":\n the LORD", "", 1),  # the first line is empty
        (": the<|eos|> LORD", "the", 2),
        (": the LORD, 3", "the LORD, 3", 5),
    ],
)
def test_the_answer_is_the_first_line(chains: Any, said: str, expected: str, count: int) -> None:
    lm = chains.load({said: 30.0, " 3\n": 30.0})
    text, generated, pieces = ask(lm)
    assert text == expected
    assert "".join(pieces).strip() == expected
    assert generated == count


def test_a_token_that_crosses_the_line_end_is_cut(chains: Any) -> None:
    wider = copy.deepcopy(chains.tokenizer)
    wider.add_tokens([".\nAnd"])
    lm = dataclasses.replace(chains, tokenizer=wider).load({": the LORD.\nAnd": 30.0})
    text, generated, pieces = ask(lm)
    assert (text, generated) == ("the LORD.", 3)
    assert "".join(pieces).strip() == text


def test_no_more_than_asked_for(chains: Any) -> None:
    lm = chains.load({": the LORD.\n And": 30.0})
    text, generated, pieces = ask(lm, max_new_tokens=2)
    assert (text, generated) == ("the LORD", 2)
    assert "".join(pieces) == " the LORD"


def test_streamed_piece_by_piece(chains: Any) -> None:
    _, _, pieces = ask(chains.load({": the LORD, who made, and": 30.0, " and,\n": 30.0}))
    assert len(pieces) >= 3  # word by word


def test_chat_models_may_answer_in_several_lines(chains: Any) -> None:
    lm = chains.load({": the LORD\n the": 30.0}, chat=True)
    text, generated, pieces = ask(lm, max_new_tokens=8)
    assert text == "the LORD\n the LORD\n the LORD"
    assert "".join(pieces).strip() == text
    assert generated == 8


def test_without_an_end_token_generation_still_ends(chains: Any, tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    lm = chains.load({": the the": 30.0})
    lm.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    lm.model.generation_config.eos_token_id = None
    assert lm.end_ids == ()
    assert ask(lm, max_new_tokens=3)[:2] == ("the the the", 3)


def test_greedy_as_transformers_own(lm: Any) -> None:
    """On every architecture, with the model's stock attention and cache."""
    ids = lm.encode("In the beginning God created the heaven and the earth. And")
    stock = AutoModelForCausalLM.from_pretrained(lm.name, attn_implementation="sdpa", dtype=torch.float32).eval()
    prompt = torch.tensor([ids])
    expected = stock.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=30, do_sample=False, pad_token_id=1
    )
    said = lm.decode(expected[0, len(ids) :])
    text, _ = generate(lm, ids, 30)
    assert text == (said if lm.tokenizer.chat_template else said.partition("\n")[0]).strip()


def test_sampling_defaults_of_the_model_are_not_used(chains: Any) -> None:
    """A generation_config.json with do_sample and a temperature must not make answers vary."""
    lm = chains.load({": the LORD.\n And": 3.0})
    lm.model.generation_config.do_sample = True
    lm.model.generation_config.temperature = 5.0
    lm.model.generation_config.repetition_penalty = 9.0
    assert {ask(lm)[0] for _ in range(5)} == {"the LORD."}
