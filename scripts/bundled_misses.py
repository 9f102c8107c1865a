"""Facts that are nearly the one asked for, and sentences about it that tell nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import bundled_variety as lists
from bundled_wording import is_held_out

from npukv.evaluation import templates
from npukv.evaluation.facts import Fact


def near_key(rng: random.Random, key: str, taken: set[str], words: list[str]) -> str:
    """A key that shares a word with ``key``, most of the time, and is none of the ``taken``."""
    parts = key.split("-")
    while True:
        draw = rng.random()
        if draw < 0.2 and len(parts) > 1:
            other = rng.choice((parts[0], parts[-1], f"{parts[-1]}-{parts[0]}"))
        elif draw < 0.9:
            part, word = rng.choice(parts), rng.choice(words)
            other = rng.choice((f"{part}-{word}", f"{word}-{part}"))
        else:
            other = rng.choice(words)
        if other != key and other not in taken:
            return other


def near_attribute(rng: random.Random, fact: Fact, words: list[str]) -> str:
    """Another attribute, half the time with a word of the fact's; neither is part of the other."""
    if fact.kind == "place":
        return next(word for word in rng.sample(words, 3) if word not in (fact.attribute, fact.value))
    noun = fact.attribute.rpartition(" ")[2]
    while True:
        first = rng.choice(lists.ADJECTIVES) if rng.random() < 0.5 else rng.choice(words)
        if rng.random() < 0.3:
            name = rng.choice(templates.ATTRIBUTES[fact.kind]["train"])
        else:
            name = f"{first} {noun if rng.random() < 0.6 else rng.choice(lists.NOUNS[fact.kind])}"
        if not is_held_out(name) and name not in fact.attribute and fact.attribute not in name:
            return name


def near_misses(
    rng: random.Random,
    fact: Fact,
    taken: set[str],
    words: list[str],
    state: Callable[..., Fact],
    empty: Callable[[random.Random, Fact], str],
) -> list[str]:
    """One to four sentences: other keys, other attributes of this key, or nothing told. ``taken``: keys
    that have facts. ``state(rng, kind, key, like)`` makes a worded fact with the attribute and verb of ``like``."""
    found = []
    for _ in range(rng.randint(1, 4)):
        draw = rng.random()
        if draw < 0.5 or not fact.key:
            found.append(empty(rng, fact))
        elif draw < 0.75:
            found.append(state(rng, fact.kind, near_key(rng, fact.key, taken, words), fact).statement)
        else:
            like = replace(fact, attribute=near_attribute(rng, fact, words))
            found.append(state(rng, fact.kind, fact.key, like).statement)
    return found
