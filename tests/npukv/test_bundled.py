"""The text that ships, and hiding sentences in it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from npukv.bundled import hide


def test_sample_text_is_the_whole_bible(bible: str) -> None:
    verses = re.findall(r"^[1-3A-Z][A-Za-z ]+ \d+:\d+ .+$", bible, re.MULTILINE)
    assert len(verses) == 31_102
    assert verses[0].startswith("Genesis 1:1 In the beginning")
    assert verses[-1].startswith("Revelation 22:21 ")
    assert "\r" not in bible


@given(st.text("ab.\n", max_size=60), st.integers(0, 1000))
def test_hidden_at_the_end_of_a_line(text: str, seed: int) -> None:
    hidden, (place,) = hide(text, [" The pass key is 7. "], seed)
    sentence = "The pass key is 7."
    assert hidden[place : place + len(sentence)] == sentence
    assert hidden[: place - 1] + hidden[place + len(sentence) :] == text
    after = hidden[place + len(sentence) :]
    assert not after or after.startswith("\n") or "\n" not in text.strip("\n")


def test_place_depends_on_the_seed_alone() -> None:
    text = "line\n" * 1000
    places = [hide(text, ["Here."], seed)[1][0] for seed in (1, 2, 3, 1)]
    assert places[0] == places[3]
    assert len(set(places)) == 3
