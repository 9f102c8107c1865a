"""The texts of scripts/bench_20m.py: real works with facts hidden in them, made by worker processes."""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluate_work import read_documents

from npukv import bundled
from npukv.errors import InputError
from npukv.evaluation.facts import KINDS, Fact, draw_fact, draw_rival
from npukv.evaluation.splice import splice
from npukv.evaluation.words import draw_key, word_pool
from npukv.text import tokenize

SEGMENT, OVERLAP = 384, 64


def read_file(path: Path) -> list[str]:
    return list(read_documents([path]))


def rival_facts(rng: random.Random, words: list[str], each: int, in_all: int) -> tuple[list[Fact], list[Fact]]:
    """(asked, rivals): of every kind `each` are asked for; all of a kind share their attribute."""
    asked, rivals = [], []
    for kind in KINDS:
        first = draw_fact(rng, kind, words, key=draw_key(rng, words))
        facts = {first.key: first}
        while len(facts) < max(each, in_all // len(KINDS)):
            rival = draw_rival(rng, first, words)
            facts.setdefault(rival.key, rival)
        asked += list(facts.values())[:each]
        rivals += list(facts.values())[each:]
    return asked, rivals


def write_text(job: tuple[str, list[Fact], list[Fact], Path]) -> None:
    """Hide facts in a text, and write it with the questions and where their answers are."""
    text, asked, others, path = job
    rng = random.Random(path.stem)
    context, spans = splice(text, [fact.statement for fact in (*asked, *others)], rng)
    path.write_text(context, encoding="utf-8", newline="")
    questions = [
        {"kind": fact.kind, "question": fact.question, "answer": fact.value, "span": list(span)}
        for fact, span in zip(asked, spans, strict=False)
    ]
    path.with_suffix(".json").write_text(json.dumps(questions))


def make_texts(files: Sequence[Path], work: Path, tokenizer: Any, tokens: int, each: int) -> None:
    """`rivals.txt`: rivals in a quarter of the segments, `each` questions of every kind. `alone.txt`: 20 facts of
    different attributes and nothing like them.

    Raises:
        InputError: the files hold too little.
    """
    if not files:
        raise InputError("got no train_*.jsonl.xz, expected some; give their folder with --data")
    with multiprocessing.get_context("fork").Pool(len(files)) as pool:
        documents = [text for part in pool.map(read_file, files, 1) for text in part]
        some = "\n\n".join(text[:100_000] for text in documents[:5])
        wanted = int(tokens * len(some) / len(tokenize(tokenizer, some)))
        base = "\n\n".join(documents)
        if len(base) < wanted:
            raise InputError(f"got {len(base):,} characters, expected {wanted:,} for {tokens:,} tokens; add files")
        words = word_pool(bundled.sample_text(), "held-out")
        rng = random.Random("20M")
        asked, rivals = rival_facts(rng, words, each, tokens // (SEGMENT - OVERLAP) // 4)
        alone = [draw_fact(rng, kind, words, key=draw_key(rng, words)) for kind in KINDS for _ in range(5)]
        hidden = sum(len(fact.statement) + 1 for fact in rivals)
        jobs = [
            (base[: wanted - hidden], asked, rivals, work / "rivals.txt"),
            (base[:wanted], alone, [], work / "alone.txt"),
        ]
        pool.map(write_text, jobs, 1)
