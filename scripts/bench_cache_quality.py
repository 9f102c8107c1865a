"""What smaller caches cost: perplexity and answers from contexts that fill the window, beside other methods' caches.

    python scripts/bench_cache_quality.py --out quality.json [--text FILE...] [--n 200] [--kvpress DIR] [--codes FILE]

Three sets of contexts of held-out text, equally long: text followed by more of it; one fact; eight facts of one kind,
each asked for. A context is read (and its cache compressed) before what follows is seen.

compress  keys are dropped or merged for good: npukv.ClusteredCache beside Knorm, SnapKV, Expected Attention, KeyDiff
          and StreamingLLM at as many bytes: with --kvpress that library's own code as it is shipped; and the scores as
          this script computes them, with 4 first and 64 last tokens inside every budget, and a check against its own.
select    all keys are held, every later token attends to its own choice: in one pass, hash codes, the exact top-k,
          Quest (pages of 16) and streaming, the first two layers dense for all; npukv.HashedCache token by token.

An answer counts when each of its tokens and a token that ends it are the model's first choice: the same as greedy
generation gives. The work is cut into jobs (a group of methods at one size over a batch of contexts), which --workers
processes on the one device share; what the issue's table needs comes first, and no job begins after --seconds, so that
figures may rest on different numbers of contexts: each says on how many. A job that fails is told and the others run.
Prints tables, writes JSON with every single outcome as it goes, and draws accuracy against kept share beside it.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cache_quality_contexts import Context, fact_context, text_context
from cache_quality_methods import Bench, Cell
from cache_quality_report import draw, print_tables, summarise
from evaluate_work import read_documents

import npukv
from npukv.bundled import model_folder, sample_text
from npukv.cache.hash_weights import HashWeights, bundled_path
from npukv.environment import as_given, environment
from npukv.evaluation.material import Material
from npukv.text import read_source

SETS = ("text", "one", "eight")
#: Seconds between two writings of what there is so far.
WRITE_EVERY = 30.0


@dataclass(frozen=True)
class Job:
    """`group` (a method of Bench) at one size, over the contexts of a set from number `start` on."""

    group: str
    share: float
    name: str
    start: int


def plan(options: argparse.Namespace) -> list[Job]:
    """What the issue's table needs first, batch by batch over all methods; then all else."""
    first, then = [], []
    if "compress" in options.parts:
        first += [(group, options.shares) for group in ("clustered", "kvpress" if options.kvpress else "evict")]
        then += [(group, options.shares) for group in ("clustered_otherwise", *["evict"] * bool(options.kvpress))]
    if "select" in options.parts:
        first += [("select", options.budgets)]
        then += [("select_256", options.budgets), ("hash", options.budgets)]
    return [
        Job(group, share, name, start)
        for tier in (first, then)
        for start in range(0, options.n, options.batch)
        for name in SETS
        for group, shares in tier
        for share in shares
    ]


class Worker:
    """A model on the device with the methods, and the text that contexts are made of."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.lm = npukv.load(options.model, options.device, options.dtype)
        self.bench = Bench(self.lm, options, code_weights(self.lm.model.config, options))
        self.material = Material(read_text(options.text), self.lm.tokenizer)

    def contexts(self, name: str, start: int) -> list[Context]:
        options, numbers = self.options, range(start, min(self.options.n, start + self.options.batch))
        if name == "text":
            return [text_context(self.material, options.tokens, options.following, number) for number in numbers]
        return [fact_context(self.material, options.tokens, 1 if name == "one" else 8, number) for number in numbers]

    def run(self, job: Job, contexts: Sequence[Context]) -> tuple[list[Cell], dict[str, dict[str, float]], str]:
        """The cells, how near our scores are to kvpress's, and what went wrong."""
        try:
            cells = self.bench.run(job.group, job.share, job.name, contexts)
        except Exception as error:
            traceback.print_exc()
            return [], {}, f"{type(error).__name__}: {error}"
        finally:
            self.lm.device.release_memory()
        return cells, self.bench.parity, ""


_worker: list[Worker] = []  # of a worker process


def _begin(options: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    _worker.append(Worker(options))


def _contexts(name: str, start: int) -> list[Context]:
    return _worker[0].contexts(name, start)


def _run(job: Job, contexts: Sequence[Context]) -> tuple[list[Cell], dict[str, dict[str, float]], str]:
    return _worker[0].run(job, contexts)


class Findings:
    """What all jobs found, and the file it is written to."""

    def __init__(self, options: argparse.Namespace, head: dict[str, Any]) -> None:
        self.options, self.head = options, head
        self.cells: dict[tuple[str, str, float], Cell] = {}
        self.failed: dict[str, str] = {}
        self.parity: dict[str, dict[str, float]] = {}
        self.done = 0
        self._began = self._written = time.perf_counter()

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._began

    def add(self, job: Job, cells: list[Cell], parity: dict[str, dict[str, float]], error: str, total: int) -> None:
        self.done += 1
        for cell in cells:
            at = cell.part, cell.method, cell.share
            self.cells.setdefault(at, Cell(*at)).add(cell)
        for method, new in parity.items():
            old = self.parity.setdefault(method, dict(new))
            old["largest_difference"] = max(old["largest_difference"], new["largest_difference"])
            old["least_equal_choices"] = min(old["least_equal_choices"], new["least_equal_choices"])
        if error:
            self.failed[job.group] = error
        print(
            f"{self.elapsed:6.1f} s  {self.done} of {total}: {job.group} at {job.share:g}, {job.name} from {job.start}"
            + (f": FAILED {error}" if error else ""),
            flush=True,
        )
        if time.perf_counter() - self._written > WRITE_EVERY:
            self.write()

    def write(self) -> dict[str, Any]:
        full = self.cells.get(("full", "full", 1.0))
        found = self.head | {
            "contexts": {} if full is None else {"text": len(full.nll)} | {k: len(v) for k, v in full.answers.items()},
            "seconds": round(self.elapsed, 1),
            "failed": self.failed,
            "kvpress": {"version": _version(self.options.kvpress), "own_scores_beside_it": self.parity},
            "cells": [summarise(cell, full) for cell in self.cells.values()],
        }
        part = self.options.out.with_name(self.options.out.name + ".partial")
        part.write_text(json.dumps(found, indent=1) + "\n")
        part.replace(self.options.out)
        self._written = time.perf_counter()
        return found


def work_alone(options: argparse.Namespace, jobs: Sequence[Job], findings: Findings) -> None:
    worker = Worker(options)
    read: dict[tuple[str, int], list[Context]] = {}
    for job in jobs:
        if findings.elapsed > options.seconds:
            findings.failed["time"] = f"was up: {findings.done} of {len(jobs)} jobs were done (--seconds)"
            return
        if (job.name, job.start) not in read:
            read[job.name, job.start] = worker.contexts(job.name, job.start)
        if job.group not in findings.failed:  # a method that failed once is left out
            findings.add(job, *worker.run(job, read[job.name, job.start]), len(jobs))


def work_together(options: argparse.Namespace, jobs: Sequence[Job], findings: Findings) -> None:
    """Processes on one device: a model this small leaves it idle between the launches of one."""
    with ProcessPoolExecutor(options.workers, get_context("spawn"), _begin, (options,)) as pool:
        read = {
            at: pool.submit(_contexts, *at) for at in dict.fromkeys((job.name, job.start) for job in jobs)
        }  # made side by side as well
        left, tried = list(jobs), set[Job]()
        running: dict[Future[Any], Job] = {}
        while left or running:
            while left and len(running) < options.workers:
                job = left.pop(0)
                if findings.elapsed > options.seconds:
                    findings.failed["time"] = f"was up: {findings.done} of {len(jobs)} jobs were done (--seconds)"
                    left = []
                elif job.group not in findings.failed:
                    future = pool.submit(_run, job, read[job.name, job.start].result())
                    running[future] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, (cells, parity, error) = running.pop(future), future.result()
                if error and job not in tried:  # the memory may have been another process's just then
                    tried.add(job)
                    left.insert(2 * options.workers, job)
                else:
                    findings.add(job, cells, parity, error, len(jobs))


def code_weights(config: Any, options: argparse.Namespace) -> dict[str, HashWeights]:
    """Projections by name: random orthogonal ones of two sizes; learned ones of a file, or that ship with the model.

    Raises:
        InputError: the learned ones are another model's; without that, random ones would stand under their name.
    """
    found = {"random 128": HashWeights(128), "random 256": HashWeights(256)}
    path = options.codes
    if path is None and Path(getattr(config, "_name_or_path", "") or "/").resolve() == model_folder().resolve():
        path = bundled_path()
    if path is None or "select" not in options.parts:
        return found
    return found | {"learned": HashWeights.load(path, config)}


def read_text(files: Sequence[str]) -> str:
    """All characters of the files: text, or .jsonl.xz as in scripts/evaluate_bundled.py."""
    if not files:
        return sample_text()
    packed = [Path(file) for file in files if file.endswith(".jsonl.xz")]
    plain = [file for file in files if not file.endswith(".jsonl.xz")]
    parts = [*read_documents(packed), *([read_source(plain).text] if plain else [])]
    return "\n\n".join(parts)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder; default: the bundled one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    parser.add_argument(
        "--text",
        nargs="*",
        default=[],
        help="held-out text, files of text or .jsonl.xz; default: the bundled King James text",
    )
    parser.add_argument("--out", type=Path, default=Path("cache-quality.json"))
    parser.add_argument("--n", type=int, default=200, help="contexts of each set")
    parser.add_argument("--batch", type=int, help="contexts read at once; default: 50 on a card, 4 on the CPU")
    parser.add_argument("--workers", type=int, help="processes on the device; default: 8 on a card, 1 on the CPU")
    parser.add_argument("--tokens", type=int, default=1792, help="of a context")
    parser.add_argument("--following", type=int, default=256, help="tokens predicted after a text")
    parser.add_argument("--parts", default="compress,select")
    parser.add_argument("--shares", type=_numbers, default=_numbers("0.5,0.25,0.2,0.125"), help="kept, by compress")
    parser.add_argument("--budgets", type=_numbers, default=_numbers("0.03,0.06,0.12"), help="attended to, by select")
    parser.add_argument("--dense", type=int, default=2, help="first layers that select attends to in full")
    parser.add_argument("--kvpress", type=Path, help="kvpress's wheel, or a folder with its package")
    parser.add_argument("--codes", type=Path, help="learned hash codes; default: those that ship with the model")
    parser.add_argument("--seconds", type=float, default=150, help="after so long, no further job begins")
    return parser.parse_args(given)


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    lm = npukv.load(options.model, options.device, options.dtype)
    options.batch = options.batch or (50 if lm.device.captures else 4)
    options.workers = options.workers or (8 if lm.device.captures else 1)
    if options.tokens + options.following > lm.context:
        raise SystemExit(
            f"got {options.tokens} and {options.following} tokens, expected at most {lm.context} together (the model's "
            "context): lower --tokens"
        )
    code_weights(lm.model.config, options)  # refused before work starts
    jobs = plan(options)
    findings = Findings(
        options,
        {
            "environment": environment(),
            "options": as_given(options),
            "model": {"name": Path(lm.name).name, "fingerprint": lm.fingerprint, "dtype": options.dtype},
            "device": lm.device.description(),
            "text": ", ".join(Path(file).name for file in options.text) or "the King James Bible (bundled)",
        },
    )
    work: Callable[..., None] = work_alone if options.workers == 1 else work_together
    try:
        work(options, jobs, findings)
    except BrokenProcessPool as error:
        findings.failed["workers"] = f"{error}; {findings.done} of {len(jobs)} jobs were done"
    found = findings.write()
    print_tables(found)
    draw(found, options.out.with_suffix(".png"))
    print(f"written: {options.out}; {found['seconds']:.0f} s")


def _version(path: Path | None) -> str:
    """As the wheel or the package's installation names it."""
    if path is None:
        return "not run: the other methods are this script's own, from their papers' formulas"
    return next((found.name.removesuffix(".dist-info") for found in path.glob("kvpress-*.dist-info")), path.name)


if __name__ == "__main__":
    main()
