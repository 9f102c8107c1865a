"""Many questions over one text, so that methods which read the whole text for a question can share the reading."""

from __future__ import annotations

import random

from npukv.errors import InputError
from npukv.evaluation.facts import KINDS, Fact, decoys, draw_fact, draw_rival
from npukv.evaluation.material import Material
from npukv.evaluation.sample import Sample
from npukv.evaluation.splice import splice
from npukv.evaluation.words import draw_key


def easy_field(material: Material, tokens: int, seed: int, *, task: str = "easy") -> list[Sample]:
    """A text of ``tokens`` tokens with one fact of each kind, and the question for each."""
    rng = random.Random(f"{task} {tokens} {seed}")
    facts = [draw_fact(rng, kind, material.words, material.split) for kind in KINDS]
    return _ask(material, tokens, rng, task, seed, facts, [])


def rival_field(
    material: Material,
    tokens: int,
    seed: int,
    *,
    kind: str,
    facts: int,
    questions: int,
    with_decoys: bool = False,
    task: str = "hard",
) -> list[Sample]:
    """A text of ``tokens`` tokens with ``facts`` facts of one kind and attribute, and questions for some of them.

    Each fact is a hard negative for every other one. ``with_decoys``: four decoys for each question, too.

    Raises:
        InputError: more questions than facts.
    """
    if not 1 <= questions <= facts:
        raise InputError(f"got {questions} questions for {facts} facts, expected 1 to {facts}")
    rng = random.Random(f"{task} {kind} {tokens} {seed}")
    first = draw_fact(rng, kind, material.words, material.split, key=draw_key(rng, material.words))
    drawn = {first.key: first}
    while len(drawn) < facts:
        rival = draw_rival(rng, first, material.words, material.split)
        drawn.setdefault(rival.key, rival)
    every = list(drawn.values())
    asked = every[:questions]
    near = [text for fact in asked for text in decoys(rng, fact, material.words, material.split)] if with_decoys else []
    return _ask(material, tokens, rng, task, seed, asked, [*(fact.statement for fact in every[questions:]), *near])


def _ask(
    material: Material, tokens: int, rng: random.Random, task: str, seed: int, asked: list[Fact], others: list[str]
) -> list[Sample]:
    text = material.haystack.take(tokens - material.fact_tokens * (len(asked) + len(others)), rng)
    context, spans = splice(text, [*(fact.statement for fact in asked), *others], rng)
    return [
        Sample(
            task=f"{task}-{fact.kind.replace(' ', '')}",
            context=context,
            question=fact.question,
            answers=(fact.value,),
            evidence=(span,),
            metric="exact",
            max_new_tokens=16,
            meta={"seed": seed, "rivals": len(others), "depth": span[0] / len(context)},
        )
        for fact, span in zip(asked, spans, strict=False)
    ]
