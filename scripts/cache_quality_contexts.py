"""Contexts of scripts/bench_cache_quality.py: text of one exact length, with facts asked for or with what follows."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from npukv.evaluation.facts import KINDS, Fact, draw_fact
from npukv.evaluation.material import Material
from npukv.evaluation.splice import splice
from npukv.evaluation.words import draw_key
from npukv.prompt import build_prompt


@dataclass(frozen=True)
class Question:
    """What is fed after a context, and what must be said: `value`, then a token that ends the answer."""

    kind: str
    ids: list[int]
    value: list[int]


@dataclass(frozen=True)
class Context:
    """Token ids, all contexts equally many, the beginning token included; then questions, or the tokens that follow."""

    ids: list[int]
    questions: list[Question] = field(default_factory=list)
    following: list[int] = field(default_factory=list)
    number: int = 0  # in its set


def fact_context(material: Material, tokens: int, facts: int, seed: int) -> Context:
    """A context with `facts` facts of one kind at random places, each of them asked for. Kinds take turns."""
    kind = KINDS[seed % len(KINDS)]
    for attempt in range(100):
        rng = random.Random(f"cache quality {facts} {seed} {attempt}")
        chosen: dict[str, Fact] = {}
        while len(chosen) < facts:
            key = draw_key(rng, material.words) if facts > 1 or kind != "pass key" else ""
            fact = draw_fact(rng, kind, material.words, material.split, key=key)
            chosen.setdefault(fact.key, fact)
        stated = [fact.statement for fact in chosen.values()]
        head = build_prompt(material.tokenizer, "?").head
        room = tokens - len(head)
        free = room + 48 - sum(material.count(stated))
        if free < 96:
            break
        text = material.haystack.take(free, rng)
        ids = _encode(material, splice(text, stated, rng)[0])
        cut = ids[len(ids) - room :]  # from the start, so that the context is exactly as long as wanted
        read = material.tokenizer.decode(cut)
        if len(ids) >= room and all(sentence in read for sentence in stated):
            return Context([*head, *cut], [_question(material, fact) for fact in chosen.values()], number=seed)
    raise SystemExit(f"{facts} facts do not fit {tokens} tokens: give more --tokens")


def text_context(material: Material, tokens: int, following: int, seed: int) -> Context:
    """A context of plain text, and the `following` + 1 tokens after it (the first is fed, the others are predicted)."""
    head = build_prompt(material.tokenizer, "?").head
    wanted = tokens - len(head) + following + 1
    text = material.haystack.take(wanted + wanted // 50 + 48, random.Random(f"cache quality text {seed}"))
    ids = _encode(material, text)
    if len(ids) < wanted:
        raise SystemExit(f"the text has pieces of {len(ids)} tokens, {wanted} are needed: give more --text")
    return Context([*head, *ids[: tokens - len(head)]], following=ids[tokens - len(head) : wanted], number=seed)


def _question(material: Material, fact: Fact) -> Question:
    prompt = build_prompt(material.tokenizer, fact.question)
    said = _encode(material, f" {fact.value}.")
    n = next(n for n in range(1, len(said) + 1) if fact.value in material.tokenizer.decode(said[:n]))
    return Question(fact.kind, list(prompt.after), said[:n])


def _encode(material: Material, text: str) -> list[int]:
    found: Any = material.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return found["input_ids"]


def ending_tokens(tokenizer: Any) -> set[int]:
    """Tokens that end an answer after its last word: they begin with a period or a line end, or end the sequence."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return {i for i, text in enumerate(texts) if text[:1] in (".", "\n")} | {tokenizer.eos_token_id}
