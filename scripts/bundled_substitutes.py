"""Other words in sentences written by hand: what stays is their build, and the commonest words.

A model this small learns tens of thousands of sentences by heart, and where the value stands in each; it reads better
those it has not seen when the rest of a sentence is not always the same.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

COMMON = 400  # of the commonest words none is exchanged but THINGS: they carry a sentence's build
# Common, and named beside the value ("not lantern, as the porter swore"): where these stay, a model learns by heart
# that a lantern is no answer, and takes any other noun for one.
THINGS = frozenset(
    """house book door page room gate paper mill card barn clock hall cellar cook candle bridge bell fire tower window
    attic lamp board goose bishop harbour garden chapel porter table ladder kitchen orchard slip wall widow rain lantern
    supper sexton river roof town stable basket copy king winter saddle loft captain yard silver kettle ribbon stone
    stairs brother church sister chest ship pantry market drawer shelf parrot bread safe village horse cheese rope plate
    aunt wind miller trunk bank uncle father boat bench water stranger cupboard barrel plum corner chimney gallery
    cross""".split()  # noqa: SIM905
)
PLAIN_WORD = re.compile(r"\{[^}]*\}|[A-Za-z]+|\d")
ENDINGS = ("ing", "ed", "ly", "ness", "tion", "er", "es", "s")


def ending(word: str) -> str:
    return next((end for end in ENDINGS if word.endswith(end)), "")


def exchangeable(word: str) -> bool:
    """Neither a field, a short word nor a name."""
    return len(word) > 3 and word.isalpha() and word.islower()


class Substitutes:
    """Exchanges words of ``forms`` for others with the same ending, of the forms or of ``words``: one of ``shares`` of
    them; things for any of the words in a share ``unlike`` of cases."""

    def __init__(self, forms: Iterable[str], words: list[str], shares: Sequence[float], unlike: float):
        self.shares, self.unlike = shares, unlike
        counts = Counter(word for form in forms for word in PLAIN_WORD.findall(form) if exchangeable(word))
        self.kept = {word for word, _ in counts.most_common(COMMON)} - THINGS
        self.own: dict[str, list[str]] = defaultdict(list)
        for word in sorted(counts.keys() - self.kept):
            self.own[ending(word)].append(word)
        self.words = words
        self.pool: dict[str, list[str]] = defaultdict(list)
        for word in words:
            self.pool[ending(word)].append(word)

    def __call__(self, rng: random.Random, form: str) -> str:
        """``form`` with some of its words, and digits, exchanged: few, about half, or most; a word everywhere alike.

        Words that may name a thing (without an ending, or "paper") are exchanged more often, and for any word.
        """
        share = rng.choice(self.shares)
        chosen: dict[str, str] = {}

        def other(match: re.Match[str]) -> str:
            word = match[0]
            if word.isdigit():
                return str(rng.randrange(1, 10)) if rng.random() < share else word
            if not exchangeable(word) or word in self.kept:
                return word
            if word not in chosen:
                chosen[word] = self._other(rng, word, share)
            return chosen[word]

        return PLAIN_WORD.sub(other, form)

    def _other(self, rng: random.Random, word: str, share: float) -> str:
        end = ending(word)
        thing = end in ("", "er")
        if rng.random() >= (share**0.5 if thing else share):
            return word
        if thing and rng.random() < self.unlike:
            return rng.choice(self.words)
        lists = [words for words in (self.own[end], self.pool[end]) if words]
        return rng.choice(rng.choice(lists)) if lists else word
