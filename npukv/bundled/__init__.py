"""What ships with the package: a small trained model and a long text."""

from __future__ import annotations

import lzma
from pathlib import Path

_HERE = Path(__file__).parent


def model_folder() -> Path:
    """The folder of the bundled model (config, safetensors, tokenizer, model card)."""
    return _HERE / "model"


def sample_text() -> str:
    """The King James Bible, 31,102 verses (public domain): 4.6 million characters."""
    return lzma.open(_HERE / "kjv_bible.txt.xz", "rt", encoding="utf-8", newline="").read()


def hide(text: str, sentence: str, seed: int) -> tuple[str, int]:
    """Hide a sentence at the end of a random line of a text.

    Returns:
        The text with it, and the character at which it begins.
    """
    import random

    ends = [i for i, character in enumerate(text) if character == "\n" and i and text[i - 1] != "\n"]
    place = random.Random(seed).choice(ends or [len(text)])
    return f"{text[:place]} {sentence.strip()}{text[place:]}", place + 1
