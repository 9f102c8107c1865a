"""What smaller caches cost: perplexity and answers from contexts that fill the window, beside other methods' caches.

    python scripts/bench_cache_quality.py --out quality.json [--text FILE...] [--n 200] [--kvpress WHEEL] [--codes FILE]

Three sets of contexts of held-out text, equally long: text followed by more of it; one fact; eight facts of one kind,
each asked for. A context is read (and its cache compressed) before what follows is seen.

compress  keys are dropped or merged for good: npukv.ClusteredCache, and the scores of Knorm, SnapKV, Expected
          Attention, KeyDiff and StreamingLLM at as many bytes, with 4 first and 64 last tokens inside every budget.
          With --kvpress also that library's own code as it is shipped, and a check of our scores against its own.
select    all keys are held, every later token attends to its own choice: npukv.HashedCache token by token, and, in one
          pass, hash codes, the exact top-k, Quest (pages of 16) and streaming; the first two layers dense for all.

An answer counts when each of its tokens and a token that ends it are the model's first choice: the same as greedy
generation gives. Contexts are worked through in rounds over all methods until --seconds are up, so that N is the same
for all. Prints tables, writes JSON with every single outcome, and draws accuracy against kept share beside it.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cache_quality_contexts import Context, ending_tokens, fact_context, text_context
from cache_quality_evict import (
    RECENT,
    SCORES,
    best,
    forced,
    import_kvpress,
    kept_cache,
    press_scores,
    pressing,
    reading,
)
from cache_quality_report import draw, print_tables, summarise
from cache_quality_select import Selector, exact, hashed, quest, selecting, stream
from evaluate_work import read_documents
from transformers import DynamicCache

import npukv
from npukv.bundled import sample_text
from npukv.cache.hash_weights import HashWeights, bundled
from npukv.cache.profile import layer_shares
from npukv.environment import environment
from npukv.evaluation.material import Material
from npukv.text import read_source

Make = Callable[[], Any]  # a fresh copy of a cache that has read the contexts
Feed = Callable[[Any, torch.Tensor], torch.Tensor]  # cache, ids [B, S] -> logits [B, S, V]


@dataclass
class Cell:
    """One method at one size: an entry per context."""

    part: str
    method: str
    share: float
    tokens: float = 0.0  # keys held (compress) or attended to (select)
    bytes: float = 0.0  # held, of the full cache's
    nll: list[float] = field(default_factory=list)  # mean over the tokens that follow
    agree: list[float] = field(default_factory=list)  # of the first choices with the full cache's
    answers: dict[str, list[list[bool]]] = field(default_factory=lambda: {"one": [], "eight": []})
    mass: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # of the softmax: chosen, best possible
    seconds: float = 0.0


class Bench:
    def __init__(self, lm: Any, options: argparse.Namespace, weights: dict[str, HashWeights]):
        self.lm, self.model, self.options = lm, lm.model, options
        self.ends = ending_tokens(lm.tokenizer)
        self.weights = weights
        self.presses = import_kvpress(options.kvpress) if options.kvpress else {}
        self.cells: dict[tuple[str, str, float], Cell] = {}
        self.failed: dict[str, str] = {}
        self.by_layer: dict[float, list[float]] = {}
        self.parity: dict[str, dict[str, float]] = {}

    def cell(self, part: str, method: str, share: float) -> Cell:
        return self.cells.setdefault((part, method, share), Cell(part, method, share))

    # what is fed after a context

    def at_once(self, cache: Any, ids: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(self.options.tokens, self.options.tokens + ids.shape[1], device=ids.device)[None]
        return self.model(ids, past_key_values=cache, position_ids=positions).logits

    def one_by_one(self, cache: Any, ids: torch.Tensor) -> torch.Tensor:
        steps = [self.model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(ids.shape[1])]
        return torch.cat(steps, dim=1)

    def judge(self, name: str, contexts: Sequence[Context], cell: Cell, make: Make, feed: Feed) -> torch.Tensor | None:
        """Adds what the model says after these contexts to a cell. Returns its first choices on a text, else None."""
        device = self.model.device
        if name == "text":
            ids = torch.tensor([context.following for context in contexts], device=device)
            logits = feed(make(), ids[:, :-1])
            for row, target in zip(logits, ids[:, 1:], strict=True):
                cell.nll.append(float(torch.nn.functional.cross_entropy(row.float(), target)))
            return logits.argmax(-1)
        said: list[list[bool]] = [[] for _ in contexts]
        for number in range(len(contexts[0].questions)):
            asked = [context.questions[number] for context in contexts]
            width = max(len(question.ids) + len(question.value) for question in asked)
            rows = [question.ids + question.value for question in asked]
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
            first = feed(make(), ids).argmax(-1).tolist()
            for good, question, choice in zip(said, asked, first, strict=True):
                at = len(question.ids) - 1
                value = choice[at : at + len(question.value)]
                good.append(value == question.value and choice[at + len(question.value)] in self.ends)
        cell.answers[name] += said
        return None

    def measure(
        self, name: str, contexts: Sequence[Context], cell: Cell, make: Make, feed: Feed, full: torch.Tensor | None
    ) -> None:
        self.lm.device.synchronize()
        started = time.perf_counter()
        first = self.judge(name, contexts, cell, make, feed)
        if first is not None and full is not None:
            cell.agree += (first == full).float().mean(1).tolist()
        self.lm.device.synchronize()
        cell.seconds += time.perf_counter() - started

    @torch.inference_mode()
    def round(self, name: str, contexts: Sequence[Context]) -> None:
        """All methods on some contexts of one set ("text", "one" or "eight")."""
        ids = torch.tensor([context.ids for context in contexts], device=self.model.device)
        scores: dict[str, list[torch.Tensor]] = {method: [] for method in SCORES}
        whole = self.cell("full", "full", 1.0)

        def look(layer: int, read: Any) -> None:
            for method, score in SCORES.items():
                scores[method].append(score(read))
            if len(whole.nll) <= self.options.batch:  # on the first round
                self.compare(read, {method: found[-1] for method, found in scores.items()})

        cache = DynamicCache()
        with reading(self.model, look):
            self.model(ids, past_key_values=cache, logits_to_keep=1)
        keys, values = [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]
        whole.tokens, whole.bytes = ids.shape[1], 1.0
        full = self.judge(name, contexts, whole, partial(kept_cache, keys, values), self.at_once)
        if full is not None:
            whole.agree += [1.0] * len(contexts)
        if "compress" in self.options.parts:
            self.guard(self.cluster, name, contexts, ids, full)
            self.guard(self.evict, name, contexts, keys, values, scores, full)
            if self.presses:
                self.guard(self.press, name, contexts, ids, full)
        if "select" in self.options.parts:
            self.guard(self.select, name, contexts, keys, values, full)
            self.guard(self.hash, name, contexts, ids, full)

    def guard(self, work: Callable[..., None], name: str, *arguments: Any) -> None:
        """An error in one method is printed and recorded, the others run; a method that failed once is left out."""
        if work.__name__ in self.failed:
            return
        try:
            work(name, *arguments)
        except Exception as error:
            traceback.print_exc()
            self.failed[work.__name__] = f"{type(error).__name__}: {error}"

    def shares(self, share: float) -> list[float]:
        """Per layer, `share` on average; the same for all contexts."""
        if share not in self.by_layer:
            self.by_layer[share] = layer_shares(self.model, share)
        return self.by_layer[share]

    def budget(self, share: float) -> int:
        """Keys that take the bytes that the clustered cache took, its degrees and spare room included."""
        ours = self.cells.get(("compress", "clustered", share))
        return min(self.options.tokens, round((ours.bytes if ours and ours.bytes else share) * self.options.tokens))

    def evict(
        self, name: str, contexts: Any, keys: list[torch.Tensor], values: list[torch.Tensor], scores: Any, full: Any
    ) -> None:
        for method, found in scores.items():
            for share in self.options.shares:
                budget = self.budget(share)
                places = [best(forced(score), budget)[..., None] for score in found]
                kept = [
                    [
                        tensor.gather(2, place.expand(-1, -1, -1, tensor.shape[-1]))
                        for tensor, place in zip(held, places, strict=True)
                    ]
                    for held in (keys, values)
                ]
                cell = self.cell("compress", method, share)
                cell.tokens, cell.bytes = budget, budget / self.options.tokens
                self.measure(name, contexts, cell, partial(kept_cache, *kept), self.at_once, full)

    def cluster(self, name: str, contexts: Any, ids: torch.Tensor, full: Any) -> None:
        """As it comes; more for layers that look far back; as many last tokens as the others; while reading."""
        ways: dict[str, dict[str, Any]] = {"clustered": {}, "clustered by layer": {}}
        ways |= {f"clustered, {RECENT} recent": {"recent": RECENT}, "clustered in steps": {"step": 256}}
        for method, settings in ways.items():
            for share in self.options.shares:
                cell = self.cell("compress", method, share)
                keep = self.shares(share) if method == "clustered by layer" else share
                cache = npukv.ClusteredCache(self.model.config, keep=keep, **settings)
                self.model(ids, past_key_values=cache, logits_to_keep=1)
                cache.compress()
                said = cache.report()
                cell.tokens = said.ratio * said.logical_tokens  # the layers' mean
                cell.bytes = said.physical_bytes / said.logical_bytes
                self.measure(name, contexts, cell, partial(copy.deepcopy, cache), self.at_once, full)

    def press(self, name: str, contexts: Any, ids: torch.Tensor, full: Any) -> None:
        """kvpress's own code, as shipped: without our first and last tokens inside the budget."""
        for method, press in self.presses.items():
            for share in self.options.shares:
                cache = DynamicCache()
                with pressing(self.model, press(compression_ratio=1 - self.budget(share) / ids.shape[1])):
                    self.model.model(input_ids=ids, past_key_values=cache)
                kept = [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]
                cell = self.cell("compress", f"kvpress {method}", share)
                cell.tokens = kept[0][0].shape[2]
                cell.bytes = cell.tokens / ids.shape[1]
                self.measure(name, contexts, cell, partial(kept_cache, *kept), self.at_once, full)

    def compare(self, read: Any, ours: dict[str, torch.Tensor]) -> None:
        """Our scores beside kvpress's: the largest difference where both are finite, and the share of equal choices."""
        for method, press in self.presses.items():
            theirs = press_scores(press(compression_ratio=0.75), read).float()
            budget = int(0.25 * theirs.shape[-1])
            mine = best(ours[method], budget)
            held = torch.zeros_like(theirs, dtype=torch.bool).scatter_(-1, mine, True)
            same = held.gather(-1, best(theirs, budget)).float().mean()
            found = self.parity.setdefault(method, {"largest_difference": 0.0, "least_equal_choices": 1.0})
            if method != "streaming":  # its scores are 0 and 1, ours are places
                finite = ours[method].isfinite()
                difference = float((ours[method] - theirs)[finite].abs().max() / theirs[finite].abs().max())
                found["largest_difference"] = max(found["largest_difference"], difference)
            found["least_equal_choices"] = min(found["least_equal_choices"], float(same))

    def select(self, name: str, contexts: Any, keys: list[torch.Tensor], values: list[torch.Tensor], full: Any) -> None:
        ways: dict[str, tuple[Any, int, int]] = {
            "exact top-k": (exact, 0, 0),
            "quest": (quest, 0, 0),
            "streaming": (stream, 4, 0),
        }
        for which, weights in self.weights.items():
            projections = [weights.layer(i, held.shape[1], held.shape[-1]) for i, held in enumerate(keys)]
            ways[f"codes, {which}"] = hashed(projections), 4, 16
        for method, (score, sink, recent) in ways.items():
            for share in self.options.budgets:
                cell = self.cell("select", method, share)
                cell.tokens = round(share * self.options.tokens)
                bits = self.weights[method[7:]].bits if method.startswith("codes") else 0
                cell.bytes = 1 + bits / 8 / (2 * keys[0].shape[-1] * keys[0].element_size())
                selector = Selector(score, int(cell.tokens), sink, recent, self.options.dense)
                with selecting(self.model, selector):
                    self.measure(name, contexts, cell, partial(kept_cache, keys, values), self.at_once, full)
                cell.mass.setdefault(name, []).extend(selector.masses)

    def hash(self, name: str, contexts: Any, ids: torch.Tensor, full: Any) -> None:
        """The cache itself, with its own defaults, one token at a time: must do what its codes do in one pass."""
        weights = "learned" if "learned" in self.weights else "random 128"
        for share in self.options.budgets:
            cell = self.cell("select", f"hashed, {weights}", share)
            budget = round(share * self.options.tokens)
            cache = npukv.HashedCache(self.model.config, budget=budget, weights=self.weights[weights])
            self.model(ids, past_key_values=cache, logits_to_keep=1)
            said = cache.report()
            cell.tokens, cell.bytes = budget, said.physical_bytes / said.logical_bytes
            self.measure(name, contexts, cell, partial(copy.deepcopy, cache), self.one_by_one, full)


def code_weights(config: Any, codes: Path | None) -> dict[str, HashWeights]:
    """Projections by name: random orthogonal ones of two sizes; learned ones of a file, or that ship with the model."""
    found = {"random 128": HashWeights(128), "random 256": HashWeights(256)}
    learned = bundled(config, 128) if codes is None else HashWeights.load(codes, config)
    return found if learned is None else found | {"learned": learned}


def read_text(files: Sequence[str]) -> tuple[str, str]:
    """All characters of the files (text, or .jsonl.xz as in scripts/evaluate_bundled.py), and what to call them."""
    if not files:
        return sample_text(), "the King James Bible (bundled)"
    packed = [Path(file) for file in files if file.endswith(".jsonl.xz")]
    plain = [file for file in files if not file.endswith(".jsonl.xz")]
    parts = [*read_documents(packed), *([read_source(plain).text] if plain else [])]
    return "\n\n".join(parts), ", ".join(Path(file).name for file in files)


def make_sets(material: Material, options: argparse.Namespace) -> Iterator[tuple[str, list[Context]]]:
    """Batches of the three sets in turn."""
    for start in range(0, options.n, options.batch):
        seeds = range(start, min(options.n, start + options.batch))
        yield "text", [text_context(material, options.tokens, options.following, seed) for seed in seeds]
        yield "one", [fact_context(material, options.tokens, 1, seed) for seed in seeds]
        yield "eight", [fact_context(material, options.tokens, 8, seed) for seed in seeds]


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
    parser.add_argument("--batch", type=int, help="contexts read at once; default: 200 on a card, 4 on the CPU")
    parser.add_argument("--tokens", type=int, default=1792, help="of a context")
    parser.add_argument("--following", type=int, default=256, help="tokens predicted after a text")
    parser.add_argument("--parts", default="compress,select")
    parser.add_argument("--shares", type=_numbers, default=_numbers("0.5,0.25,0.2,0.125"), help="kept, by compress")
    parser.add_argument("--budgets", type=_numbers, default=_numbers("0.03,0.06,0.12"), help="attended to, by select")
    parser.add_argument("--dense", type=int, default=2, help="first layers that select attends to in full")
    parser.add_argument("--kvpress", type=Path, help="kvpress's wheel, or a folder with its package")
    parser.add_argument("--codes", type=Path, help="learned hash codes; default: those that ship with the model")
    parser.add_argument("--seconds", type=float, default=150, help="after so long, no further round begins")
    return parser.parse_args(given)


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    began = time.perf_counter()
    lm = npukv.load(options.model, options.device, options.dtype)
    options.batch = options.batch or (200 if lm.device.captures else 4)
    if options.tokens + options.following > lm.context:
        raise SystemExit(
            f"got {options.tokens} and {options.following} tokens, expected at most {lm.context} together (the model's "
            "context): lower --tokens"
        )
    text, source = read_text(options.text)
    material = Material(text, lm.tokenizer)
    bench = Bench(lm, options, code_weights(lm.model.config, options.codes))
    counts: dict[str, int] = {}
    seconds: list[float] = []
    for name, contexts in make_sets(material, options):
        started = time.perf_counter()
        if name == "text" and counts and started - began + sum(seconds[-3:]) > options.seconds:
            print(f"time is up after {counts}", flush=True)
            break
        bench.round(name, contexts)
        counts[name] = counts.get(name, 0) + len(contexts)
        seconds.append(time.perf_counter() - started)
        print(f"{name}: {counts[name]} contexts, {seconds[-1]:.1f} s, {started - began:.0f} s in all", flush=True)
    found = {
        "environment": environment(),
        "options": {key: str(value) for key, value in vars(options).items()},
        "model": {"name": Path(lm.name).name, "fingerprint": lm.fingerprint, "dtype": options.dtype},
        "device": lm.device.description(),
        "text": source,
        "contexts": counts,
        "seconds": round(time.perf_counter() - began, 1),
        "failed": bench.failed,
        "kvpress": {"version": _version(options.kvpress), "own_scores_beside_it": bench.parity},
        "cells": [summarise(cell, bench.cells["full", "full", 1.0]) for cell in bench.cells.values() if cell.nll],
    }
    partial_file = options.out.with_name(options.out.name + ".partial")
    partial_file.write_text(json.dumps(found, indent=1) + "\n")
    partial_file.replace(options.out)
    print_tables(found)
    draw(found, options.out.with_suffix(".png"))
    print(f"written: {options.out}; {found['seconds']:.0f} s")


def _version(path: Path | None) -> str:
    return (
        "not run: the other methods are this script's own, from their papers' formulas" if path is None else path.name
    )


if __name__ == "__main__":
    main()
