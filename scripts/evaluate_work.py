"""Samples of scripts/evaluate_bundled.py, made and tokenised by worker processes while the model works."""

from __future__ import annotations

import json
import lzma
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from npukv.errors import InputError
from npukv.evaluation.facts import KINDS, draw_fact, draw_rival
from npukv.evaluation.field import easy_field, rival_field
from npukv.evaluation.material import Material
from npukv.evaluation.sample import Sample
from npukv.evaluation.splice import splice
from npukv.evaluation.tasks import TASKS
from npukv.evaluation.words import draw_key
from npukv.text import Tokens, blocks, tokenize

SEGMENT, OVERLAP = 384, 64

Work = tuple[list[Sample], Tokens]  # questions over one text, and its tokens
FieldJob = tuple[str, str, int, int, int, int]  # level, kind, tokens, facts, questions, seed


class Shared:
    """What workers inherit from the parent: set before they are forked."""

    material: Material


def make_task(job: tuple[str, int, int]) -> Work | None:
    """One sample of a registered task (name, tokens, seed); None where the task has no input."""
    name, tokens, seed = job
    try:
        sample = TASKS[name](Shared.material, tokens, seed, (0.5 + 0.618034 * seed) % 1.0)
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None
    return [sample], make_tokens(sample.context)


def field_jobs(n: int, segments: int) -> dict[str, list[FieldJob]]:
    """The texts of part b: ``n`` questions on each level, equally many of each kind, at most 10 over one text."""
    tokens = SEGMENT + (segments - 1) * (SEGMENT - OVERLAP)
    each = min(10, max(1, n // len(KINDS)))
    texts = max(1, round(n / len(KINDS) / each))
    jobs: dict[str, list[FieldJob]] = {
        "easy": [("easy", "", tokens, 0, 0, seed) for seed in range(max(1, n // len(KINDS)))]
    }
    for level in ("hard", "decoy"):
        facts = max(each, segments // 4)
        jobs[level] = [(level, kind, tokens, facts, each, seed) for seed in range(texts) for kind in KINDS]
    return jobs


def make_field(job: FieldJob) -> Work:
    level, kind, tokens, facts, questions, seed = job
    if level == "easy":
        samples = easy_field(Shared.material, tokens, seed)
    else:
        decoys = level == "decoy"
        samples = rival_field(
            Shared.material, tokens, seed, kind=kind, facts=facts, questions=questions, with_decoys=decoys, task=level
        )
    return samples, make_tokens(samples[0].context)


def make_long_text(files: list[Path], tokens: int, each: int) -> list[Sample]:
    """About so many tokens of the works in ``files``, with facts of each kind in a quarter of the segments.

    Facts of one kind share their attribute; ``each`` of a kind are asked for, the others are their rivals.
    """
    tokenizer, words = Shared.material.tokenizer, Shared.material.words
    rng = random.Random("long text")
    asked, others = [], []
    for kind in KINDS:
        first = draw_fact(rng, kind, words, key=draw_key(rng, words))
        facts = {first.key: first}
        while len(facts) < max(each, tokens // (SEGMENT - OVERLAP) // 4 // len(KINDS)):
            rival = draw_rival(rng, first, words)
            facts.setdefault(rival.key, rival)
        asked += list(facts.values())[:each]
        others += list(facts.values())[each:]
    statements = [fact.statement for fact in (*asked, *others)]
    documents: list[str] = []
    characters, wanted = 0, tokens  # at least one character per token, until some text tells how many
    for document in read_documents(files):
        documents.append(document)
        characters += len(documents[-1]) + 2
        if len(documents) == 5:
            some = "\n\n".join(text[:100_000] for text in documents)
            wanted = int(tokens * len(some) / len(tokenize(tokenizer, some)))
        if len(documents) >= 5 and characters >= wanted:
            break
    else:
        raise InputError(
            f"got {characters:,} characters in {len(files)} files, expected {wanted:,} for {tokens:,} tokens"
        )
    text = "\n\n".join(documents)[: wanted - sum(len(statement) + 1 for statement in statements)]
    context, spans = splice(text, statements, rng)
    return [
        Sample(
            task=f"long-{fact.kind.replace(' ', '')}",
            context=context,
            question=fact.question,
            answers=(fact.value,),
            evidence=(span,),
            metric="exact",
            max_new_tokens=16,
        )
        for fact, span in zip(asked, spans, strict=False)
    ]


def read_documents(files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["text"]


def make_tokens(text: str) -> Tokens:
    return tokenize(Shared.material.tokenizer, text)


def tokenize_by(pool: Any, text: str) -> Tokens:
    """``npukv.text.tokenize`` by all workers of a pool: the text is cut into the same blocks."""
    places = list(blocks(text))
    parts = pool.map(make_tokens, [text[start:end] for start, end in places], 4)
    starts = [part.starts + place[0] for part, place in zip(parts, places, strict=True)]
    return Tokens(np.concatenate([part.ids for part in parts]), np.concatenate(starts), len(text))
