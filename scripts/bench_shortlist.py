"""Shortlists over twenty million tokens with rivals: recall of each cheaper look, time of first and later questions.

    python scripts/bench_shortlist.py --data DATA --out FILE.json [--tokens 20000000] [--each 20] [--shape llama-2-7b]

DATA holds train_*.jsonl.xz, as for scripts/bench_20m.py, whose text with rivals this is (`--each` questions of every
kind). Figures are written as they come. `--shape` adds times of a model of that shape, random weights and tokens.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_20m import CUT, SHARES, holding, rank_of, read_questions, timed
from bench_20m_texts import make_texts

import npukv
from npukv.environment import environment
from npukv.parallel.ranks import ALONE
from npukv.parallel.tokens import open_tokens
from npukv.relevance.plan import make_plan
from npukv.relevance.shortlist import bm25_distances, interleave
from npukv.relevance.sketch import open_sketch, search
from npukv.relevance.words import word_shares
from npukv.text import Tokens


def recall(lm: Any, tokens: Any, asked: list[dict[str, Any]], stop: float) -> dict[str, Any]:
    """Ranks of the right segments by each look, and seconds a look."""
    sketch = open_sketch(lm, tokens)
    ranks: dict[str, list[int]] = {}
    seconds: dict[str, list[float]] = {}
    for at, one in enumerate(asked):
        if at and time.time() > stop:
            break
        plan = make_plan(lm, tokens, (one["question"],), **CUT)
        looks = {
            "bm25": lambda p=plan: bm25_distances(lm, p),
            "words": lambda p=plan: -word_shares(lm, p),
            "keys": lambda p=plan: search(lm, sketch, p.prompts[0], p.segments, ranks=ALONE),
        }
        found = {}
        for name, look in looks.items():
            found[name], taken = timed(lm, look)
            seconds.setdefault(name, []).append(taken)
        found["sketch"] = interleave(found["words"], found["keys"])
        for name, values in found.items():
            ranks.setdefault(name, []).append(rank_of(values, holding(plan, one["span"])))
    return {"segments": len(plan.segments), "ranks": ranks, "seconds": seconds}


def times(lm: Any, tokens: Any, questions: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Seconds to score everything; by a cheaper look, of a first question and of later ones."""
    few = Tokens(tokens.ids[:100_000], tokens.starts[:100_000], 0)
    found: dict[str, Any] = {}
    for mode in ("exact", "words", "sketch"):
        npukv.score_segments(lm, few, questions[0], mode=mode, **options)  # warm
        fresh = replace(tokens, folder=None, sketches={})
        asked = questions[:1] if mode == "exact" else questions
        found[mode] = []
        for question in asked:
            score = partial(npukv.score_segments, lm, fresh, question, mode=mode, **options)
            found[mode].append(timed(lm, score)[1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=float, default=20e6)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shape")
    parser.add_argument("--shape-tokens", type=float, default=1e6)
    parser.add_argument("--seconds", type=float, default=150)
    chosen = parser.parse_args()
    stop = time.time() + chosen.seconds
    found: dict[str, Any] = {}

    def keep(name: str, value: Any) -> None:
        found[name] = value
        chosen.out.write_text(json.dumps(found, indent=1) + "\n")

    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    lm = npukv.load(device=chosen.device)
    keep("environment", environment())
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_texts(sorted(chosen.data.glob("train_*.jsonl.xz")), work, lm.tokenizer, int(chosen.tokens), chosen.each)
        asked = read_questions(work, "rivals")
        tokens = open_tokens(lm.tokenizer, (work / "rivals.txt").read_text(encoding="utf-8"), work / "index")
        keep("recall", recall(lm, tokens, asked, stop))
        if time.time() < stop:
            keep("times", times(lm, tokens, [one["question"] for one in asked[:8]], CUT))
    segments = found["recall"]["segments"]
    for name, ranks in found["recall"]["ranks"].items():
        counts = [sum(rank < max(1, round(share / 100 * segments)) for rank in ranks) for share in SHARES]
        print(f"{name:8} within {SHARES} %: {counts} of {len(ranks)}, worst {max(ranks):,} of {segments:,}")
    for name, seconds in found["recall"]["seconds"].items():
        print(f"{name:8} {np.median(seconds):.3f} s a look")
    if chosen.shape and time.time() < stop:
        from npukv.bench.score import random_lm

        device = lm.device
        del lm
        lm = random_lm(chosen.shape, device, device.default_dtype())
        lm.model.config.max_position_embeddings = 4096
        count = int(chosen.shape_tokens)
        ids = np.random.default_rng(0).integers(2, lm.model.config.vocab_size, count, dtype=np.int32)
        questions = [f"What is the special magic number for {name}?" for name in ("heron", "oak", "anchor", "lamp")]
        options = {"segment": 1000, "overlap": 0, "horizon": 1, "forward": "plain"}
        keep("shape", times(lm, Tokens(ids, np.arange(count), count, None, "random"), questions, options))
    for name in ("times", "shape"):
        if name in found:
            exact = found[name]["exact"][0]
            for mode in ("words", "sketch"):
                first, *later = found[name][mode]
                middle = float(np.median(later))
                print(
                    f"{name}: exact {exact:.2f} s; {mode} first {first:.2f} s ({exact / first:.1f}x), "
                    f"later {middle:.3f} s ({exact / middle:.0f}x)"
                )


if __name__ == "__main__":
    main()
