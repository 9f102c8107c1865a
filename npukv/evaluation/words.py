"""Words and made-up values that facts are built from, split into a part for training and a part held out."""

from __future__ import annotations

import random
import re
import uuid
import zlib
from collections.abc import Iterable

from npukv.errors import InputError

SPLITS = ("train", "held-out")


def held_out(word: str) -> bool:
    """Whether a word is in the held-out tenth: the word alone decides, so that any text gives the same split."""
    return zlib.crc32(word.encode()) % 10 == 0


def check_split(split: str) -> str:
    """``split`` itself, or an InputError when it is neither "train" nor "held-out"."""
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown: give {' or '.join(map(repr, SPLITS))}")
    return split


def split_words(words: Iterable[str], split: str) -> list[str]:
    """The words of one split, sorted."""
    wanted = check_split(split) == "held-out"
    return sorted(word for word in set(words) if held_out(word) == wanted)


def word_pool(text: str, split: str) -> list[str]:
    """Distinct lower-case words of 4 to 10 ASCII letters in ``text`` that belong to ``split``, sorted."""
    return split_words(re.findall(r"(?<![\w'-])[a-z]{4,10}(?![\w'-])", text), split)


def draw_key(rng: random.Random, words: list[str], hyphen: float = 0.5) -> str:
    """A word, or with probability ``hyphen`` two joined by a hyphen."""
    if rng.random() < hyphen:
        return f"{rng.choice(words)}-{rng.choice(words)}"
    return rng.choice(words)


def draw_number(rng: random.Random, digits: int) -> str:
    """A number of ``digits`` digits that does not begin with 0."""
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def draw_uuid(rng: random.Random) -> str:
    """A version 4 UUID."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
