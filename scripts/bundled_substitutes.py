"""Other words in sentences written by hand: what stays is their build, and the commonest words.

A model this small learns tens of thousands of sentences by heart, and where the value stands in each; it reads better
those it has not seen when the rest of a sentence is not always the same.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

COMMON = 400  # of the commonest words none is exchanged: they carry a sentence's build
PLAIN_WORD = re.compile(r"\{[^}]*\}|[A-Za-z]+|\d")
ENDINGS = ("ing", "ed", "ly", "ness", "tion", "er", "es", "s")


def ending(word: str) -> str:
    return next((end for end in ENDINGS if word.endswith(end)), "")


def exchangeable(word: str) -> bool:
    """Neither a field, a short word nor a name."""
    return len(word) > 3 and word.isalpha() and word.islower()


class Substitutes:
    """Exchanges words of ``forms`` for others with the same ending, of the forms or of ``words``."""

    def __init__(self, forms: Iterable[str], words: list[str]):
        counts = Counter(word for form in forms for word in PLAIN_WORD.findall(form) if exchangeable(word))
        self.kept = {word for word, _ in counts.most_common(COMMON)}
        self.own: dict[str, list[str]] = defaultdict(list)
        for word in sorted(counts.keys() - self.kept):
            self.own[ending(word)].append(word)
        self.pool: dict[str, list[str]] = defaultdict(list)
        for word in words:
            self.pool[ending(word)].append(word)

    def __call__(self, rng: random.Random, form: str) -> str:
        """``form`` with some of its words, and digits, exchanged: few, many, or about half."""
        share = rng.choice((0.12, 0.25, 0.5))

        def other(match: re.Match[str]) -> str:
            word = match[0]
            if word.isdigit():
                return str(rng.randrange(1, 10)) if rng.random() < share else word
            if not exchangeable(word) or word in self.kept or rng.random() >= share:
                return word
            end = ending(word)
            lists = [words for words in (self.own[end], self.pool[end]) if words]
            return rng.choice(rng.choice(lists)) if lists else word

        return PLAIN_WORD.sub(other, form)
