"""Sentences put into a text between its own sentences, and where they came to lie."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

# A sentence ends at . ! or ? (and closing quotes or brackets) before white space.
SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s)")
WORD_END = re.compile(r"(?<=\S)(?=\s)")


def gaps(text: str) -> list[int]:
    """Places where a sentence may be put: after sentences; between words in a text without any; else the text's end."""
    found = [match.end() for match in SENTENCE_END.finditer(text)]
    return found or [match.start() for match in WORD_END.finditer(text)] or [len(text)]


def splice(
    text: str, sentences: Sequence[str], rng: random.Random, depths: Sequence[float | None] = ()
) -> tuple[str, list[tuple[int, int]]]:
    """Put ``sentences`` into ``text``, each after a sentence of it and with a space before it.

    Args:
        depths: for the first sentences, where they go: 0.0 (the text's start) to 1.0 (its end), to the nearest gap.
            None, or no entry: a random gap.

    Returns:
        The new text, and each sentence's character span in it, in the order of ``sentences``.
    """
    places = gaps(text)
    chosen = []
    for i in range(len(sentences)):
        depth = depths[i] if i < len(depths) else None
        at = rng.choice(places) if depth is None else min(places, key=lambda gap: abs(gap - depth * len(text)))
        chosen.append((at, i))
    spans = [(0, 0)] * len(sentences)
    parts, done, length = [], 0, 0
    for at, i in sorted(chosen):
        parts += [text[done:at], " ", sentences[i]]
        length += at - done + 1
        spans[i] = (length, length + len(sentences[i]))
        length += len(sentences[i])
        done = at
    return "".join([*parts, text[done:]]), spans
