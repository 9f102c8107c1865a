"""Facts as people write them, asked as people ask: whole in one context, and by XL3M's default.

    python scripts/bench_natural.py --data DATA [--facts F.tsv] [--context 1024] [--out FILE.json]

DATA holds classics/valid.jsonl.xz. Each line of the facts (scripts/natural) is a statement, a question and an answer;
the statement stands once in a stretch of a held-out novel, and is right what holds the answer in any capitals. Weights
are chosen on kept-back.tsv; held-out.tsv, which nobody has looked at, is for figures. Training has facts of the kind by
other hands (`bundled_natural.py`).
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path

from evaluate_work import OVERLAP, SEGMENT, read_documents

import npukv
from npukv.bundled import model_folder
from npukv.environment import environment
from npukv.evaluation.case import Case
from npukv.evaluation.generate import generate_answers
from npukv.evaluation.material import Material
from npukv.evaluation.methods import find_method
from npukv.evaluation.metrics import mean_and_interval
from npukv.evaluation.sample import Sample
from npukv.evaluation.splice import splice
from npukv.evaluation.summary import write_json
from npukv.relevance.answer import key_context

METHODS = ("full", "xl3m", "oracle")


def read_facts(path: Path) -> list[tuple[str, str, str]]:
    """Statement, question and answer of each line."""
    facts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if len(fields) != 3 or fields[2] not in fields[0]:
            raise SystemExit(f"{path}, line {number}: expected statement, question and an answer that stands in it")
        facts.append((fields[0], fields[1], fields[2]))
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with classics/")
    parser.add_argument("--facts", type=Path, default=Path(__file__).parent / "natural" / "held-out.tsv")
    parser.add_argument("--model", default=str(model_folder()))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--context", type=int, default=1024, help="tokens around each statement, about")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    facts = read_facts(options.facts)
    lm = npukv.load(options.model, options.device)
    novels = "\n\n".join(read_documents([options.data / "classics" / "valid.jsonl.xz"]))
    haystack = Material(novels, lm.tokenizer).haystack
    found: dict[str, list[float]] = defaultdict(list)
    for number, (statement, question, answer) in enumerate(facts):
        rng = random.Random(number)
        context, [span] = splice(haystack.take(options.context, rng), [statement], rng)
        sample = Sample("natural", context, question, (answer,), (span,), max_new_tokens=16)
        case = Case(lm, [sample], segment=SEGMENT, overlap=OVERLAP)
        prompts = []
        for name in METHODS:
            spans = find_method(name)(case, 0).spans
            prompts.append(key_context(case.prompt(0, sum(e - s for s, e in spans)), case.tokens, spans))
        for name, said in zip(METHODS, generate_answers(lm, prompts, [16] * len(prompts)), strict=True):
            found[name].append(float(answer.lower() in said.lower()))
        rank = case.rank(0, case.scores[0].ranking())
        found["right segment first"].append(float(rank == 0))
    table = {name: mean_and_interval(scores) for name, scores in found.items()}
    for name, score in table.items():
        low, high = 100 * score["low"], 100 * score["high"]
        print(f"{name:22s} {100 * score['mean']:5.1f} ({low:.0f} to {high:.0f})  N = {score['n']}")
    if options.out:
        write_json(options.out, {"environment": environment(), "facts": options.facts.name, "table": table})


if __name__ == "__main__":
    main()
