"""Needles of every kind in the bundled text of more than a million tokens: found, and answered, by each measure.

    python scripts/bench_needles.py [--model DIR] [--per-kind 6] [--forms train] [--out FILE.json]

All needles lie in one text, at random places, so that each is a rival of the others; all questions are asked in one
pass over it. The words of the facts are ones the bundled model never saw as keys or values (the held-out split), in
forms it has seen ("train") or not ("held-out").
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

import numpy as np

import npukv
from npukv import bundled
from npukv.environment import environment
from npukv.evaluation.facts import KINDS, Fact, draw_fact
from npukv.evaluation.metrics import equals_first
from npukv.evaluation.splice import splice
from npukv.evaluation.words import word_pool
from npukv.generation import generate
from npukv.progress import ProgressReport
from npukv.prompt import build_prompt
from npukv.relevance.answer import KEEP, MAX_NEW_TOKENS, answer_from, key_context, room_for_text
from npukv.relevance.measures import DEFAULT, MEASURES
from npukv.relevance.scores import Scores
from npukv.text import tokenize


def draw_facts(rng: random.Random, words: list[str], per_kind: int, forms: str) -> list[Fact]:
    """Facts of every kind with different keys; the first pass key belongs to nobody, as in the plain needle."""
    facts: list[Fact] = []
    keys = iter(rng.sample(words, 4 * per_kind))
    for kind in KINDS:
        for number in range(per_kind):
            key = "" if kind == "pass key" and number == 0 else next(keys)
            facts.append(draw_fact(rng, kind, words, forms, key=key))
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--per-kind", type=int, default=6)
    parser.add_argument("--forms", choices=("train", "held-out"), default="train")
    parser.add_argument("--keep", nargs="+", default=["1", "2", "4"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--characters", type=int, help="use only this much of the text")
    parser.add_argument("--run", type=Path, help="keep the scores here, and resume from them")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    lm = npukv.load(options.model, options.device)
    rng = random.Random(options.seed)
    text = bundled.sample_text()[: options.characters]
    facts = draw_facts(rng, word_pool(text, "held-out"), options.per_kind, options.forms)
    text, spans = splice(text, [fact.statement for fact in facts], rng)
    tokens = tokenize(lm.tokenizer, text)
    questions = [fact.question for fact in facts]
    with ProgressReport() as progress:
        scored = npukv.score_segments(lm, tokens, questions, run=options.run, progress=progress)

    methods: dict[str, list[bool]] = {}
    rows = []
    for fact, span, scores in zip(facts, spans, scored, strict=True):
        row = {"kind": fact.kind, "question": fact.question, "value": fact.value, "character": span[0]}
        holding = [s.index for s in scores.segments if s.char_start <= span[0] and span[1] <= s.char_end]
        for measure in MEASURES:
            row[f"rank, {measure}"] = best_rank(scores, measure, holding)
            by_measure = Scores(scores.asked, scores.segments, scores.measured, measure)
            for keep in [*options.keep, KEEP] if measure == DEFAULT else options.keep:
                said = answer_from(lm, tokens, by_measure, keep=keep).text
                row[f"{measure}, {keep} kept"] = said
                methods.setdefault(f"{measure}, {keep} kept", []).append(right(said, fact))
        prompt = build_prompt(lm.tokenizer, fact.question)
        room = room_for_text(lm, prompt, MAX_NEW_TOKENS)
        said, _ = generate(lm, key_context(prompt, tokens, [(len(tokens) - room, len(tokens))]), MAX_NEW_TOKENS)
        row["last tokens"] = said
        methods.setdefault("last tokens", []).append(right(said, fact))
        rows.append(row)

    kinds = [fact.kind for fact in facts]
    print(f"\n{len(tokens):,} tokens, {len(scored[0]):,} segments, {len(facts)} questions ({options.forms} forms)")
    print(f"scored in {scored[0].seconds:.1f} s ({len(tokens) / scored[0].seconds:,.0f} tokens/s for all questions)")
    print(f"{'answers from':32s} {'right':>7s}   " + "  ".join(f"{kind:>8s}" for kind in KINDS))
    for method, hits in methods.items():
        counts = [sum(hit for hit, kind in zip(hits, kinds, strict=True) if kind == wanted) for wanted in KINDS]
        print(f"{method:32s} {sum(hits):3d}/{len(hits):<3d}   " + "  ".join(f"{count:8d}" for count in counts))
    for measure in MEASURES:
        print(f"ranks by {measure:20s} {[row[f'rank, {measure}'] for row in rows]}")
    for row in rows:
        said = row[f"{DEFAULT}, {KEEP} kept"]
        if not equals_first(said, [row["value"]]):
            print(f"missed by default: {row['question']} -> {said!r}, expected {row['value']!r}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "environment": environment(),
            "model": Path(lm.name).name,
            "options": {
                name: str(value) for name, value in vars(options).items() if name not in ("out", "run", "model")
            },
            "tokens": len(tokens),
            "segments": len(scored[0]),
            "seconds": scored[0].seconds,
            "right": {method: sum(hits) for method, hits in methods.items()},
            "questions": rows,
        }
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def best_rank(scores: Scores, measure: str, holding: list[int]) -> int:
    """0 = the needle's segment is first; overlapping segments may hold it both."""
    order = np.argsort(scores.by(measure), kind="stable").tolist()
    return min(order.index(index) for index in holding) if holding else len(order)


def right(said: str, fact: Fact) -> bool:
    """Whether the answer is the value, or a sentence that holds it as a word."""
    first = re.split(r"[.\n]", said)[0]
    return fact.value in re.findall(r"[\w'-]+", first)


if __name__ == "__main__":
    main()
