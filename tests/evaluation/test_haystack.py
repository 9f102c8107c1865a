"""Pieces of text have the length asked for, at any length, and come from the text."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npukv.errors import InputError
from npukv.evaluation.haystack import Haystack, fill, token_counter


def words(texts: Sequence[str]) -> list[int]:
    """A counter with one token per word: exact whatever the pieces."""
    return [len(text.split()) for text in texts]


@given(st.integers(1, 5000), st.integers(0, 100), st.integers(1, 3000))
def test_any_length_from_any_text(tokens: int, seed: int, size: int) -> None:
    rng = random.Random(size)
    text = "".join(rng.choice(["oak ", "stone-gold ", "a ", "river.\n", "end. "]) for _ in range(size)) + "last"
    piece = Haystack(text, words).take(tokens, random.Random(seed))
    # A repetition costs a token for the newline between, which this counter does not see.
    repetitions = tokens // words([text])[0] + 2
    assert tokens - repetitions <= words([piece])[0] <= tokens
    if "\n" not in piece:
        assert piece in text


@pytest.mark.parametrize("tokens", [30, 100, 3000, 20_000])
def test_length_with_a_real_tokenizer(bible: str, tokenizer: Any, tokens: int) -> None:
    haystack = Haystack(bible, token_counter(tokenizer))
    for seed in range(5):
        piece = haystack.take(tokens, random.Random(seed))
        assert piece in bible
        assert max(1, tokens - 12) <= haystack.count([piece])[0] <= tokens


def test_longer_than_the_text(text: str, tokenizer: Any) -> None:
    haystack = Haystack(text, token_counter(tokenizer))
    piece = haystack.take(10 * haystack.tokens(), random.Random(0))
    assert 0.99 * 10 * haystack.tokens() <= haystack.count([piece])[0] <= 10 * haystack.tokens()
    assert text[:500] in piece and text[-500:] in piece


def test_the_same_seed_gives_the_same_piece_whatever_was_asked_before(bible: str, tokenizer: Any) -> None:
    fresh, used = (Haystack(bible[:300_000], token_counter(tokenizer)) for _ in range(2))
    used.take(50_000, random.Random(8))
    assert fresh.take(700, random.Random(3)) == used.take(700, random.Random(3))


def test_only_what_is_needed_is_counted(bible: str) -> None:
    counted = 0

    def count(texts: Sequence[str]) -> list[int]:
        nonlocal counted
        counted += sum(map(len, texts))
        return words(texts)

    haystack = Haystack(bible, count)
    for seed in range(50):
        haystack.take(200, random.Random(seed))
    assert counted < 1.2 * len(bible)


def test_bad_lengths_and_texts_are_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        Haystack(" \n", words)
    with pytest.raises(InputError, match="at least 1"):
        Haystack("a b", words).take(0, random.Random(0))


def some_lines(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    return (" ".join(["word"] * rng.randint(1, 5)) for _ in itertools.count())


@given(st.integers(0, 60_000), st.integers(0, 5))
def test_fill(tokens: int, seed: int) -> None:
    assert tokens - 5 <= sum(words(fill(some_lines(seed), tokens, words))) <= tokens


@pytest.mark.parametrize("tokens", [1_100_000, 3_000_000])
def test_fill_by_samples(tokens: int) -> None:
    """Beyond a million tokens most lines are not counted, and the length is right all the same."""
    counted = 0

    def count(texts: Sequence[str]) -> list[int]:
        nonlocal counted
        counted += len(texts)
        return words(texts)

    lines = fill(some_lines(1), tokens, count)
    assert 0.99 * tokens <= sum(words(lines)) <= 1.001 * tokens
    assert counted < len(lines) and (tokens < 3_000_000 or counted < 0.45 * len(lines))


def test_fill_stops_with_its_lines() -> None:
    assert fill(iter(["a", "b"]), 100, words) == ["a", "b"]
    assert len(fill(("a" for _ in range(9000)), 10**6, words)) == 9000
