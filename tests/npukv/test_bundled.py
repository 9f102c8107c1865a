"""The text that ships, and hiding sentences in it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

import npukv
from npukv.bundled import hide
from npukv.evaluation.generate import generate_answers
from npukv.evaluation.material import Material
from npukv.evaluation.tasks import TASKS
from npukv.prompt import build_prompt


def test_sample_text_is_the_whole_bible(bible: str) -> None:
    verses = re.findall(r"^[1-3A-Z][A-Za-z ]+ \d+:\d+ .+$", bible, re.MULTILINE)
    assert len(verses) == 31_102
    assert verses[0].startswith("Genesis 1:1 In the beginning")
    assert verses[-1].startswith("Revelation 22:21 ")
    assert "\r" not in bible


@given(st.text("ab.\n", max_size=60), st.lists(st.text("XY", min_size=1, max_size=5), max_size=5), st.integers(0, 99))
def test_hidden_at_the_ends_of_lines(text: str, sentences: list[str], seed: int) -> None:
    hidden, places = hide(text, [f" {sentence} " for sentence in sentences], seed)
    assert len(places) == len(sentences)
    for sentence, place in zip(sentences, places, strict=True):
        assert hidden[place - 1 : place + len(sentence)] == f" {sentence}"
        after = hidden[place + len(sentence) :]
        assert not after or after[0] in "\n "  # a line's end, or another hidden one
    assert "".join(character for character in hidden if character not in "XY ") == text
    assert len(hidden) == len(text) + sum(len(sentence) + 1 for sentence in sentences)


def test_place_depends_on_the_seed_alone() -> None:
    text = "line\n" * 1000
    places = [hide(text, ["Here."], seed)[1][0] for seed in (1, 2, 3, 1)]
    assert places[0] == places[3]
    assert len(set(places)) == 3


def test_the_model_answers_at_its_whole_context(bible: str) -> None:
    """One state of it began its answers with a sentence where prompts came within 40 tokens of the context."""
    lm = npukv.load(device="cpu")
    material = Material(bible[:300_000], lm.tokenizer)
    prompts, values = [], []
    before = lm.encode(bible[400_000:401_000])
    for seed in range(12):
        sample = TASKS["needle-number"](material, lm.context - 64, seed)
        prompt = build_prompt(lm.tokenizer, sample.question)
        context = lm.encode(sample.context)
        spare = lm.context - 14 - len(prompt) - len(context)
        prompts.append([*prompt.head, *before[-spare:], *context, *prompt.after])
        values.append(sample.answers[0])
    said = generate_answers(lm, prompts, [14] * len(prompts))
    assert {len(prompt) for prompt in prompts} == {lm.context - 14}
    assert sum(each.strip().startswith(value) for each, value in zip(said, values, strict=True)) >= 11, said
