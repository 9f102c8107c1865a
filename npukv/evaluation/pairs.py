"""Several facts at once: two-fact questions, several values of one key, and retrieval from key-value pairs."""

from __future__ import annotations

import random

from npukv.errors import InputError
from npukv.evaluation.facts import KINDS, Fact, draw_fact, draw_rival, restate
from npukv.evaluation.sample import Sample
from npukv.evaluation.splice import splice
from npukv.evaluation.words import check_split, draw_key, draw_number, draw_uuid, word_pool


def join_questions(first: Fact, second: Fact) -> str:
    """One question for two facts: "What is the pass key, and where does Elm keep the lamp?"."""
    head = first.question.rstrip("?.")
    tail = second.question
    proper = second.kind == "place" and tail.startswith(second.key[:1].upper() + second.key[1:])
    return f"{head}, and {tail if proper else tail[:1].lower() + tail[1:]}"


def two_facts(
    text: str, *, rivals: int = 0, seed: int = 0, split: str = "held-out", words: list[str] | None = None
) -> Sample:
    """A question that needs two facts, of any kinds, which lie apart; the answers are expected in the question's order.

    ``rivals``: that many facts like each of the two about other keys.
    """
    check_split(split)
    words = word_pool(text, split) if words is None else words
    rng = random.Random(f"two facts {rivals} {seed}")
    asked = [draw_fact(rng, kind, words, split, key=draw_key(rng, words)) for kind in rng.choices(KINDS, k=2)]
    others = [draw_rival(rng, fact, words, split) for fact in asked for _ in range(rivals)]
    context, spans = splice(text, [fact.statement for fact in (*asked, *others)], rng)
    return Sample(
        task="two-facts",
        context=context,
        question=join_questions(*asked),
        answers=tuple(fact.value for fact in asked),
        evidence=tuple(sorted(spans[:2])),
        max_new_tokens=32,
        meta={"seed": seed, "rivals": rivals, "kinds": [fact.kind for fact in asked]},
    )


def ask_all(fact: Fact) -> str:
    """The question for every value of a key ("What are all the magic numbers for oak?")."""
    return f"What are all the {fact.attribute}s for {fact.key}?"


def several_values(
    text: str, *, values: int = 3, seed: int = 0, split: str = "held-out", words: list[str] | None = None
) -> Sample:
    """A key with several numbers, each stated apart; all are asked for."""
    check_split(split)
    if values < 2:
        raise InputError(f"{values} values were asked for: expected at least 2")
    words = word_pool(text, split) if words is None else words
    rng = random.Random(f"several values {values} {seed}")
    fact = draw_fact(rng, "number", words, split)
    facts = [fact, *(restate(rng, fact, draw_number(rng, rng.randint(4, 7)), split) for _ in range(values - 1))]
    context, spans = splice(text, [each.statement for each in facts], rng)
    order = sorted(range(values), key=lambda i: spans[i])
    return Sample(
        task="several-values",
        context=context,
        question=ask_all(fact),
        answers=tuple(facts[i].value for i in order),
        evidence=tuple(spans[i] for i in order),
        max_new_tokens=48,
        meta={"seed": seed, "values": values},
    )


def draw_pairs(rng: random.Random, n: int, words: list[str], uuids: bool) -> dict[str, str]:
    """``n`` keys, each with its value: UUIDs, or hyphenated words with numbers."""
    pairs: dict[str, str] = {}
    while len(pairs) < n:
        key = draw_uuid(rng) if uuids else f"{rng.choice(words)}-{rng.choice(words)}"
        pairs[key] = draw_uuid(rng) if uuids else draw_number(rng, rng.randint(4, 7))
    return pairs


def key_values(
    words: list[str], *, pairs: int = 32, uuids: bool = False, depth: float | None = None, seed: int = 0
) -> Sample:
    """A list of key-value pairs, one per line as JSON writes them; the value of one key is asked for."""
    if pairs < 1:
        raise InputError(f"{pairs} pairs were asked for: expected at least 1")
    rng = random.Random(f"key values {pairs} {uuids} {seed}")
    drawn = draw_pairs(rng, pairs, words, uuids)
    asked = rng.randrange(pairs) if depth is None else min(pairs - 1, int(depth * pairs))
    context, evidence, answer, wanted = "", (0, 0), "", ""
    for i, (key, value) in enumerate(drawn.items()):
        line = f'"{key}": "{value}"'
        if i == asked:
            evidence, answer, wanted = (len(context), len(context) + len(line)), value, key
        context += line + ",\n"
    return Sample(
        task="key-values",
        context=context,
        question=f'What is the value of "{wanted}"?',
        answers=(answer,),
        evidence=(evidence,),
        metric="exact",
        max_new_tokens=48,
        meta={"seed": seed, "pairs": pairs, "uuids": uuids, "depth": depth},
    )
