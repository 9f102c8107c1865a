"""How much the question's rare words should weigh in the measure, on sentences kept back from training.

    python scripts/choose_measure.py --data DATA --out F [--n 130] [--levels hard,decoy]

DATA holds classics/valid.jsonl.xz. Ranks (0 = first) of the right segment by

    E + weight x Q - nats x min(share of words / enough, 1)

for every choice of the three, by E and by Q; levels as in scripts/evaluate_bundled.py. `npukv.relevance.measures` has
what was chosen, WORDS and ENOUGH.
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

WEIGHTS, NATS, ENOUGH = (0.5, 1.0), (0.5, 1.0, 2.0, 3.0), (0.7, 0.8, 1.0)


def forms() -> dict[str, tuple[float, float, float, float]]:
    """Name -> weights of E and Q, nats, enough."""
    found = {"E": (1.0, 0.0, 0.0, 1.0), "Q": (0.0, 1.0, 0.0, 1.0)}
    for weight in WEIGHTS:
        found[f"E + {weight:g} Q"] = (1.0, weight, 0.0, 1.0)
        for nats, enough in product(NATS, ENOUGH):
            found[f"E + {weight:g} Q - {nats:g} min(words / {enough:g}, 1)"] = (1.0, weight, nats, enough)
    return found


def level_ranks(lm: Any, level: str, n: int) -> dict[str, list[int | None]]:
    """Ranks of ``n`` questions, or of all there are, by form."""
    ranks: dict[str, list[int | None]] = {name: [] for name in forms()}
    done, started = 0, time.perf_counter()
    for job in field_jobs(max(n, 200), 256)[level]:
        if done >= n:
            break
        samples, tokens = make_field(job)
        case = Case(lm, samples, tokens=tokens, segment=SEGMENT, overlap=OVERLAP)
        for i, scores in enumerate(case.scores[: n - done]):
            for name, (first, second, nats, enough) in forms().items():
                words = np.minimum(scores.measured.words / enough, 1.0)
                values = first * scores.entropy + second * scores.question - nats * words
                ranks[name].append(case.rank(i, np.argsort(values, kind="stable")))
            done += 1
        print(f"{level}: {done} of {n} questions, {time.perf_counter() - started:.0f} s", flush=True)
    return ranks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with classics/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default=str(model_folder()), help="model folder; default: the bundled one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--n", type=int, default=130, help="questions of each level")
    parser.add_argument("--levels", default="hard,decoy")
    options = parser.parse_args()
    levels = options.levels.split(",")
    unknown = sorted({*levels} - {"easy", "hard", "decoy"})
    if unknown:
        parser.error(f"got levels {', '.join(unknown)}, expected some of easy, hard and decoy")
    texts = options.data / "classics" / "valid.jsonl.xz"
    if not texts.exists():
        parser.error(f"{texts}: is not there; --data names the folder that holds classics/")
    ask_in_kept_back_forms()
    lm = npukv.load(options.model, options.device)
    Shared.material = Material("\n\n".join(read_documents([texts])), lm.tokenizer)
    found: dict[str, Any] = {"environment": environment(), "ranks": {}}
    for level in levels:
        found["ranks"][level] = level_ranks(lm, level, options.n)
        write_json(options.out, found)
    for name in forms():
        shares = (
            f"{level} {100 * np.mean([rank < most for rank in ranks[name]]):.1f}"
            for level, ranks in found["ranks"].items()
            for most in (1, 4)
        )
        print(f"{name:36s} {'  '.join(shares)}")


if __name__ == "__main__":
    main()
