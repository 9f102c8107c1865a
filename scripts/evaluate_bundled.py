"""What the bundled model can do, alone and with XL3M: in its context, on 256 segments, on 20M tokens, on RULER at 128K.

    python scripts/evaluate_bundled.py --data DATA --out OUT [--quick] [--parts a,b,c,d]

DATA holds classics/train_*.jsonl.xz (four files are enough), classics/valid.jsonl.xz and ruler/inputs. OUT receives
results.json, tables.txt and records.jsonl.xz (every single result). Words and templates of facts are held out from
training; so are the texts, except in part c, for which 20M tokens of held-out text do not exist.

a  in a context of 2K: every task, read whole and by its best segments alone; bits per byte on held-out novels, beside
   a baseline model's
b  256 segments, easy (no rivals), hard (rivals in a quarter of the segments), decoys: ranks and answers by measure and
   by number of segments kept
c  20M tokens with rivals in a quarter of the segments: 20 facts: ranks, answers, time
d  RULER at 128K through XL3M beside RULER in the model's own context; in rounds over all tasks until time is up
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the worker processes are the parallelism

from bundled_wordings import ask_in_kept_back_forms
from evaluate_tables import Log, percent, ranks_and_answers
from evaluate_work import (
    OVERLAP,
    SEGMENT,
    Shared,
    Work,
    field_jobs,
    make_field,
    make_long_text,
    make_task,
    read_documents,
    tokenize_by,
)

from npukv.bundled import model_folder
from npukv.errors import InputError
from npukv.evaluation.case import Case
from npukv.evaluation.facts import KINDS
from npukv.evaluation.generate import generate_answers
from npukv.evaluation.material import Material
from npukv.evaluation.methods import Inapplicable, find_method
from npukv.evaluation.metrics import mean_and_interval, score_output
from npukv.evaluation.perplexity import measure_perplexity
from npukv.evaluation.sample import Sample
from npukv.evaluation.tasks import find_tasks
from npukv.relevance.answer import KEEP
from npukv.relevance.measures import DEFAULT
from npukv.relevance.pick import parse_keep

MEASURES = ("first", "certainty", "question", "certainty+question", "certainty+question+words")
TWO_LOOKS = f"xl3m-twice:{DEFAULT}:1"
BEHIND = ", question behind"  # and not before the text, too
BM25 = ("bm25:1",) if find_spec("bm25s") else ()


def until(works: Iterable[Work | None], seconds: float) -> Iterator[Work | None]:
    """The works that are taken within so many seconds of the first; the others are left out of the table's N."""
    started = time.perf_counter()
    for work in works:
        yield work
        if time.perf_counter() - started > seconds:
            return


def run_cases(
    lm: Any, works: Iterable[Work | None], methods: Sequence[str], batch: int | None = None
) -> list[dict[str, Any]]:
    """Choose segments for every sample by every method, then answer all of them in batches: one record each.

    Behind a method's name, BEHIND stands for answers to the question behind the text alone.
    """
    from npukv.relevance.answer import key_context

    chosen = {name: find_method(name.removesuffix(BEHIND)) for name in methods}
    records: list[dict[str, Any]] = []
    prompts, asked = [], []
    for samples, tokens in filter(None, works):
        case = Case(lm, samples, tokens=tokens, segment=SEGMENT, overlap=OVERLAP, batch=batch)
        for i, sample in enumerate(samples):
            for name, method in chosen.items():
                try:
                    choice = method(case, i)
                except Inapplicable:
                    continue
                records.append(
                    {
                        "task": sample.task,
                        "method": name,
                        "question": sample.question,
                        "answers": sample.answers,
                        "rank": None if choice.ranking is None else case.rank(i, choice.ranking),
                        "seconds": case.seconds,
                    }
                )
                read = sum(end - start for start, end in choice.spans)
                prompt = case.prompt(i, read, ahead=not name.endswith(BEHIND))
                prompts.append(key_context(prompt, tokens, choice.spans))
                asked.append(sample)
    outputs = generate_answers(lm, prompts, [sample.max_new_tokens for sample in asked])
    for record, sample, output in zip(records, asked, outputs, strict=True):
        record |= {"output": output, "score": score_output(sample, output)}
    return records


def in_context(lm: Any, works: dict[str, Iterator[Work | None]], log: Log) -> dict[str, Any]:
    """Part a: every task within the model's context: read whole, and its best segments alone."""
    columns = {
        "full" + BEHIND: "question behind",
        f"xl3m:{DEFAULT}:1": "best segment",
        f"xl3m:{DEFAULT}:{KEEP}": KEEP,
    }
    table = log.results.setdefault("in_context", {})
    for name, made in works.items():
        records = run_cases(lm, made, ["full", *columns])
        if records:
            by = {
                method: mean_and_interval(record["score"] for record in records if record["method"] == method)
                for method in ("full", *columns)
            }
            table[name] = by["full"] | {column: by[method] for method, column in columns.items()}
            log.keep("a", records)
            print(
                f"{name}: {', '.join(f'{m} {percent(s)}' for m, s in by.items())}, N = {table[name]['n']}", flush=True
            )
    rows = [
        [name, percent(score), *(percent(score[column]) for column in columns.values()), score["n"]]
        for name, score in table.items()
    ]
    log.table("a. In the model's context", rows, ["task", "whole (%, 95%)", *columns.values(), "N"])
    return table


def novels(models: dict[str, Any], text: str, log: Log) -> dict[str, Any]:
    """Part a: bits per byte on held-out novels."""
    found = {name: measure_perplexity(lm, text, batch=16).as_dict() for name, lm in models.items() if lm is not None}
    rows = [[name, f"{p['bits_per_byte']:.4f}", f"{p['perplexity']:.1f}", p["tokens"]] for name, p in found.items()]
    log.table("a. Held-out novels", rows, ["model", "bits per byte", "perplexity", "tokens"])
    return found


def fields(
    lm: Any, works: dict[str, Iterator[Work]], segments: int, seconds: float, keeps: Sequence[str], log: Log
) -> dict[str, Any]:
    """Part b: ranks and answers on ``segments`` segments, by level; each level stops asking after ``seconds``."""
    # More than one segment kept only by the default: answering costs as much as scoring.
    ranked = [*(f"xl3m:{m}:{keep}" for m in MEASURES for keep in (keeps if m == DEFAULT else ("1",))), TWO_LOOKS]
    behind = [name + BEHIND for name in ("oracle", f"xl3m:{DEFAULT}:1")]
    found = log.results.setdefault("segments", {})
    for level, made in works.items():
        started = time.perf_counter()
        records = run_cases(lm, until(made, seconds), ["oracle", "last", "random", *ranked, *BM25, *behind])
        found[level] = ranks_and_answers(records)
        log.keep(f"b {level}", records)
        n, took = found[level]["oracle"]["score"]["n"], time.perf_counter() - started
        log.ranks(f"b. {level}: {segments} segments, N = {n}, {took:.0f} s", found[level])
    return found


def long_text(lm: Any, samples: list[Sample], pool: Any, log: Log) -> dict[str, Any]:
    """Part c: facts in 20M tokens with rivals. BM25 is left out: indexing alone would take as long as all the rest."""
    started = time.perf_counter()
    tokens = tokenize_by(pool, samples[0].context)
    seconds = {"tokenise": time.perf_counter() - started}
    batch = max(1, 4 * lm.device.batch_tokens // SEGMENT)  # several questions share the segments' reading
    once = Case(lm, samples[:1], tokens=tokens, segment=SEGMENT, overlap=OVERLAP)
    seconds["one question"] = once.scores[0].seconds
    ranked = [*(f"xl3m:{measure}:1" for measure in MEASURES), f"xl3m:{DEFAULT}:{KEEP}", TWO_LOOKS]
    records = run_cases(lm, [(samples, tokens)], ["oracle", "last", *ranked], batch)
    log.keep("c", records)
    seconds["all questions"] = max(record["seconds"] for record in records)
    found = ranks_and_answers(records)
    times = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    log.ranks(f"c. {len(tokens):,} tokens, {len(once.segments):,} segments, {len(samples)} facts; {times}", found)
    ranks = [[method, *_by_kind(found[method])] for method in ranked]
    log.table("c. Ranks (0 = first)", ranks, ["method", *KINDS])
    return {"tokens": len(tokens), "segments": len(once.segments), "seconds": seconds, "methods": found}


def _by_kind(entry: dict[str, Any]) -> list[str]:
    return [" ".join(map(str, cell["ranks"])) for cell in entry["kinds"].values()]


def ruler(
    lm: Any,
    works: Iterator[Work | None],
    names: list[str],
    tokens: int,
    n: int,
    deadline: float,
    own: dict[str, Any],
    log: Log,
) -> dict[str, Any]:
    """Part d: RULER at ``tokens`` tokens through XL3M, in rounds until the deadline; beside it, in the own context."""
    methods = [*(f"xl3m:{DEFAULT}:{keep}" for keep in ("1", KEEP, "fill", "passages")), "last", "oracle"]
    records: list[dict[str, Any]] = []
    found = log.results.setdefault("ruler", {})
    done = 0
    while done < n and (done == 0 or time.perf_counter() < deadline):
        rounds = min(10, n - done)
        new = run_cases(lm, islice(works, rounds * len(names)), methods)
        records += new
        done += rounds
        for name in names:
            for method in methods:
                scores = [r["score"] for r in records if r["task"] == name and r["method"] == method]
                if scores:
                    found.setdefault(name, {})[method] = mean_and_interval(scores)
        log.keep("d", new)
    rows = [
        [name, percent(own.get(name)), *(percent(entry.get(method)) for method in methods)]
        for name, entry in found.items()
    ]
    log.table(f"d. RULER at {tokens:,} tokens, N = {done}", rows, ["task", "own context, full", *methods])
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with classics/ and ruler/")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT", "evaluation"), help="folder for the results")
    parser.add_argument("--model", default=str(model_folder()), help="model folder; default: the bundled one")
    parser.add_argument("--baseline", help="model folder to compare bits per byte with")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parts", default="a,b,c,d")
    parser.add_argument("--tasks", default="*", help="of a and d, comma-separated; a name may end in *")
    parser.add_argument("--context", type=int, help="tokens of a sample in a; default: the model's context")
    parser.add_argument("--n", type=int, default=200, help="samples of every task in a, questions of every level in b")
    parser.add_argument("--ruler-n", type=int, default=200, help="samples of every task in d, if time allows")
    parser.add_argument("--ruler-from", type=int, default=0, help="first seed of d, which two processes can share")
    parser.add_argument("--seconds", type=float, default=225, help="after so long, no further round of d begins")
    parser.add_argument("--level-seconds", type=float, default=60, help="scoring time of each level of b")
    parser.add_argument(
        "--keeps", default=f"1,{KEEP},2,4,fill,passages", help="segments kept in b, by the default measure"
    )
    parser.add_argument("--levels", default="easy,hard,decoy", help="levels of b")
    parser.add_argument("--kept-back", action="store_true", help="in sentences by the hands that wrote training's")
    parser.add_argument("--no-novels", action="store_true", help="leave bits per byte out of a")
    parser.add_argument("--quick", action="store_true", help="a few samples at small sizes, to prove every path")
    return parser.parse_args()


def main() -> None:
    began = time.perf_counter()
    chosen = arguments()
    chosen.out.mkdir(parents=True, exist_ok=True)
    parts = chosen.parts.split(",")
    names = [name for name in find_tasks(chosen.tasks.split(",")) if name.startswith("ruler-")]
    if "d" in parts and not names:
        sys.exit(f"got --tasks {chosen.tasks}, which names none of RULER's: add ruler-*, or leave d out of --parts")
    n, ruler_n, segments, long_tokens, each, ruler_tokens = chosen.n, chosen.ruler_n, 256, 20_000_000, 5, 131_072
    if chosen.quick:
        n, ruler_n, segments, long_tokens, each, ruler_tokens = 4, 1, 12, 20_000, 1, 8_192

    for keep in chosen.keeps.split(","):
        try:
            parse_keep(keep)
        except InputError as error:
            sys.exit(f"--keeps: {error}")
    if chosen.kept_back:
        ask_in_kept_back_forms()
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chosen.model)
    config = AutoConfig.from_pretrained(chosen.model).get_text_config()
    chosen.context = chosen.context or config.max_position_embeddings
    held_out = "\n\n".join(read_documents([chosen.data / "classics" / "valid.jsonl.xz"]))
    Shared.material = Material(held_out, tokenizer, documents=chosen.data / "ruler" / "inputs")
    _ = Shared.material.words, Shared.material.haystack.tokens()  # found once here, inherited by all workers
    if not BM25:
        print("bm25s is not installed: BM25 is left out of part b (pip install 'npukv[eval]')", flush=True)
    places = {"data", "out", "model", "baseline"}  # of this machine, and of no use to another
    asked = {key: str(value) for key, value in vars(chosen).items() if key not in places}
    results: dict[str, Any] = {"arguments": asked}
    log = Log(chosen.out, results)
    # Forked before the device is touched. One pool works through all samples, ahead of the model; the other makes
    # part c's text, which is then tokenised by all cores at once.
    processes = multiprocessing.get_context("fork")
    with processes.Pool(os.cpu_count()) as pool, processes.Pool(os.cpu_count()) as spare:
        near, spread = {}, {}
        if "a" in parts:
            near = {
                name: pool.imap(make_task, [(name, chosen.context, seed) for seed in range(n)], 8)
                for name in find_tasks(chosen.tasks.split(","))
            }
        if "b" in parts:
            spread = {
                level: pool.imap(make_field, jobs)
                for level, jobs in field_jobs(n, segments).items()
                if level in chosen.levels.split(",")
            }
        if "c" in parts:
            files = sorted((chosen.data / "classics").glob("train_*.jsonl.xz"))
            far = spare.apply_async(make_long_text, (files, long_tokens, each))
        if "d" in parts:
            seeds = range(chosen.ruler_from, chosen.ruler_from + ruler_n)
            deep = pool.imap(make_task, [(name, ruler_tokens, seed) for seed in seeds for name in names])

        import npukv
        from npukv.environment import environment

        lm = npukv.load(chosen.model, chosen.device)
        results["environment"] = environment()
        own: dict[str, Any] = {}
        failed: list[str] = []
        try:
            for part in parts:  # a part that fails does not cost the others
                started = time.perf_counter()
                try:
                    if part == "a":
                        own = in_context(lm, near, log)
                        models = {
                            "bundled": lm,
                            "baseline": chosen.baseline and npukv.load(chosen.baseline, chosen.device),
                        }
                        if not chosen.no_novels:
                            text = held_out[:200_000] if chosen.quick else held_out
                            results["novels"] = novels(models, text, log)
                    elif part == "b":
                        fields(lm, spread, segments, chosen.level_seconds, chosen.keeps.split(","), log)
                    elif part == "c":
                        results["long"] = long_text(lm, far.get(), spare, log)
                    elif part == "d":
                        deadline = began + chosen.seconds
                        ruler(lm, deep, names, ruler_tokens, ruler_n, deadline, own, log)
                except Exception:
                    failed.append(part)
                    traceback.print_exc()
                print(f"part {part}: {time.perf_counter() - started:.0f} s", flush=True)
                log.save()
        finally:  # what has been measured is kept, whatever happens
            results["seconds"] = time.perf_counter() - began
            log.save()
    print(f"{results['seconds']:.0f} s in all; written to {chosen.out}")
    if failed:
        sys.exit(f"failed: parts {', '.join(failed)}")


if __name__ == "__main__":
    main()
