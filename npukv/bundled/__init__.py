"""What ships with the package: a small trained model and a long text."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).parent


def model_folder() -> Path:
    """The folder of the bundled model (config, safetensors, tokenizer, model card)."""
    return _HERE / "model"


def sample_text() -> str:
    """The King James Bible, 31,102 verses (public domain): 4.6 million characters."""
    return lzma.open(_HERE / "kjv_bible.txt.xz", "rt", encoding="utf-8", newline="").read()


def hide(text: str, sentences: Sequence[str], seed: int) -> tuple[str, list[int]]:
    """Hide sentences at the ends of random lines of a text.

    Returns:
        The text with them, and the character at which each begins in it.
    """
    import random

    ends = [i for i, character in enumerate(text) if character == "\n" and i and text[i - 1] != "\n"] or [len(text)]
    rng = random.Random(seed)
    drawn = [(rng.choice(ends), number) for number in range(len(sentences))]
    parts, starts, done, length = [], [0] * len(sentences), 0, 0
    for place, number in sorted(drawn):
        parts += [text[done:place], " ", sentences[number].strip()]
        starts[number] = length + place - done + 1
        length = starts[number] + len(parts[-1])
        done = place
    return "".join([*parts, text[done:]]), starts
