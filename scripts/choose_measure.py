"""How certainty, the question and its rare words should weigh in the measure, on sentences kept back from training.

    python scripts/choose_measure.py --data DATA --out F [--n 400] [--segments 64] [--levels hard,decoy]

DATA holds classics/valid.jsonl.xz. Ranks (0 = first) of the right segment by

    a x E or a x the root of E, + b x Q - nats x min(share of words / enough, 1)

for every choice of the four, by E and by Q; levels as in scripts/evaluate_bundled.py. Each once as scored, and once
with E of a second look at the best by the default measure (`npukv.relevance.second_look`). What is best on the
questions of even number is also judged on the others. `npukv.relevance.measures` has what was chosen.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from bundled_wordings import ask_in_kept_back_forms
from evaluate_work import OVERLAP, SEGMENT, Shared, field_jobs, make_field, read_documents

import npukv
from npukv.bundled import model_folder
from npukv.environment import environment
from npukv.evaluation.case import Case
from npukv.evaluation.material import Material
from npukv.evaluation.summary import write_json
from npukv.relevance.second_look import look_again

CERTAINTY, QUESTION, NATS, ENOUGH = (0.5, 1.0, 2.0, 3.0), (0.5, 1.0), (0.5, 1.0, 2.0), (0.7, 0.8, 1.0)

LOOKS = ("", ", second look")

Form = tuple[bool, float, float, float, float]  # the root of E; weights of E and Q; nats, enough


def forms() -> dict[str, Form]:
    """Name -> form."""
    found: dict[str, Form] = {"E": (False, 1.0, 0.0, 0.0, 1.0), "Q": (False, 0.0, 1.0, 0.0, 1.0)}
    for root, a, b in product((False, True), CERTAINTY, QUESTION):
        certain = f"{a:g} root E" if root else f"{a:g} E"
        found[f"{certain} + {b:g} Q"] = (root, a, b, 0.0, 1.0)
        for nats, enough in product(NATS, ENOUGH):
            found[f"{certain} + {b:g} Q - {nats:g} min(words / {enough:g}, 1)"] = (root, a, b, nats, enough)
    return found


def level_ranks(lm: Any, level: str, n: int, segments: int) -> dict[str, list[int | None]]:
    """Ranks of ``n`` questions, or of all there are, by form."""
    ranks: dict[str, list[int | None]] = {name + look: [] for look in LOOKS for name in forms()}
    done, started = 0, time.perf_counter()
    for job in field_jobs(max(n, 200), segments)[level]:
        if done >= n:
            break
        samples, tokens = make_field(job)
        case = Case(lm, samples, tokens=tokens, segment=SEGMENT, overlap=OVERLAP)
        for i, once in enumerate(case.scores[: n - done]):
            for look, scores in zip(LOOKS, (once, look_again(lm, tokens, once, 1)), strict=True):
                rows = slice(None) if scores.shortlist is None else scores.shortlist
                e, q, words = scores.entropy[rows], scores.question[rows], scores.measured.words[rows]
                for name, (root, a, b, nats, enough) in forms().items():
                    values = np.full(len(scores), np.inf)
                    values[rows] = a * (np.sqrt(e) if root else e) + b * q - nats * np.minimum(words / enough, 1.0)
                    ranks[name + look].append(case.rank(i, np.argsort(values, kind="stable")))
            done += 1
        print(f"{level}: {done} of {n} questions, {time.perf_counter() - started:.0f} s", flush=True)
    return ranks


def shares(ranks: dict[str, dict[str, list[int | None]]], name: str, half: slice = slice(None)) -> str:
    """In %: how often the right one is first, and among four, by level."""
    return "  ".join(
        f"{level} {100 * np.mean([rank is not None and rank < most for rank in found[name][half]]):.1f}"
        for level, found in ranks.items()
        for most in (1, 4)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with classics/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default=str(model_folder()), help="model folder; default: the bundled one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--n", type=int, default=400, help="questions of each level")
    parser.add_argument("--segments", type=int, default=64, help="of a text")
    parser.add_argument("--levels", default="hard,decoy")
    options = parser.parse_args()
    levels = options.levels.split(",")
    unknown = sorted({*levels} - {"easy", "hard", "decoy"})
    if unknown:
        parser.error(f"got levels {', '.join(unknown)}, expected some of easy, hard and decoy")
    if options.segments < 16:  # ten questions and their rivals and decoys need room
        parser.error(f"--segments: got {options.segments}, expected at least 16")
    texts = options.data / "classics" / "valid.jsonl.xz"
    if not texts.exists():
        parser.error(f"{texts}: is not there; --data names the folder that holds classics/")
    ask_in_kept_back_forms()
    lm = npukv.load(options.model, options.device)
    Shared.material = Material("\n\n".join(read_documents([texts])), lm.tokenizer)
    ranks: dict[str, dict[str, list[int | None]]] = {}
    found: dict[str, Any] = {"environment": environment(), "segments": options.segments, "ranks": ranks}
    for level in levels:
        ranks[level] = level_ranks(lm, level, options.n, options.segments)
        write_json(options.out, found)
    even, odd = slice(0, None, 2), slice(1, None, 2)

    def first(name: str) -> float:
        return sum(sum(rank == 0 for rank in found[name][even]) / len(found[name][even]) for found in ranks.values())

    for name in sorted(next(iter(ranks.values())), key=first):
        print(f"{name:56s} even: {shares(ranks, name, even)}   odd: {shares(ranks, name, odd)}")


if __name__ == "__main__":
    main()
