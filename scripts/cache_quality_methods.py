"""The methods of scripts/bench_cache_quality.py, and what a model says over the caches they leave."""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from cache_quality_contexts import Context, ending_tokens
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
from cache_quality_select import Selector, exact, hashed, quest, selecting, stream
from transformers import DynamicCache

import npukv
from npukv.cache.hash_weights import HashWeights
from npukv.cache.profile import layer_shares

Make = Callable[[], Any]  # a fresh copy of a cache that has read the contexts
Feed = Callable[[Any, torch.Tensor], torch.Tensor]  # cache, ids [B, S] -> logits [B, S, V]


@dataclass
class Cell:
    """One method at one size, by the numbers of contexts."""

    part: str
    method: str
    share: float
    tokens: float = 0.0  # keys held (compress) or attended to (select)
    bytes: float = 0.0  # held, of the full cache's
    nll: dict[int, float] = field(default_factory=dict)  # mean over the tokens that follow
    agree: dict[int, float] = field(default_factory=dict)  # of the first choices with the full cache's
    answers: dict[str, dict[int, list[bool]]] = field(default_factory=lambda: {"one": {}, "eight": {}})
    mass: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # of the softmax: chosen, best possible

    def add(self, other: Cell) -> None:
        """What another worker found out about the same method and size."""
        self.tokens, self.bytes = other.tokens, other.bytes
        self.nll |= other.nll
        self.agree |= other.agree
        for name, answers in other.answers.items():
            self.answers[name] |= answers
        for name, masses in other.mass.items():
            self.mass.setdefault(name, []).extend(masses)


@dataclass(frozen=True)
class Read:
    """Contexts of one set ("text", "one" or "eight") and the full cache after them.

    Attributes:
        ids: [B, n].
        keys, values: per layer [B, Hkv, n, D].
        first: the full cache's first choices on a text [B, S], else None.
    """

    name: str
    contexts: Sequence[Context]
    ids: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    first: torch.Tensor | None


class Bench:
    """Runs a group of methods, each a method of this class, at one size over some contexts."""

    def __init__(self, lm: Any, options: argparse.Namespace, weights: dict[str, HashWeights]):
        self.lm, self.model, self.options = lm, lm.model, options
        self.ends = ending_tokens(lm.tokenizer)
        self.weights = weights
        self.presses = import_kvpress(options.kvpress) if options.kvpress else {}
        self.cells: dict[tuple[str, str, float], Cell] = {}
        self.parity: dict[str, dict[str, float]] = {}
        self.shares = functools.cache(partial(layer_shares, self.model))  # per layer, the same for all contexts
        self.budget = functools.cache(self._budget)

    def cell(self, part: str, method: str, share: float) -> Cell:
        return self.cells.setdefault((part, method, share), Cell(part, method, share))

    @torch.inference_mode()
    def run(self, group: str, share: float, name: str, contexts: Sequence[Context]) -> list[Cell]:
        """The full cache's cell and those of the group."""
        self.cells = {}
        ids = torch.tensor([context.ids for context in contexts], device=self.model.device)
        held = DynamicCache()
        self.model(ids, past_key_values=held, logits_to_keep=1)
        keys, values = [layer.keys for layer in held.layers], [layer.values for layer in held.layers]
        whole = self.cell("full", "full", 1.0)
        whole.tokens, whole.bytes = ids.shape[1], 1.0
        first = self.judge(name, contexts, whole, partial(kept_cache, keys, values), self.at_once)
        if first is not None:
            whole.agree = {context.number: 1.0 for context in contexts}
        getattr(self, group)(Read(name, contexts, ids, keys, values, first), share)
        return list(self.cells.values())

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
        numbers = [context.number for context in contexts]
        if name == "text":
            ids = torch.tensor([context.following for context in contexts], device=device)
            logits = feed(make(), ids[:, :-1])
            losses = torch.nn.functional.cross_entropy(logits.mT.float(), ids[:, 1:], reduction="none").mean(1)
            cell.nll |= dict(zip(numbers, losses.tolist(), strict=True))
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
        cell.answers[name] |= dict(zip(numbers, said, strict=True))
        return None

    def measure(self, read: Read, cell: Cell, make: Make, feed: Feed) -> None:
        first = self.judge(read.name, read.contexts, cell, make, feed)
        if first is not None and read.first is not None:
            numbers = [context.number for context in read.contexts]
            cell.agree |= dict(zip(numbers, (first == read.first).float().mean(1).tolist(), strict=True))

    # compress

    def _budget(self, share: float) -> int:
        """Keys that take the bytes that the clustered cache takes, its degrees and spare room included."""
        ids = torch.randint(self.model.config.vocab_size, (1, self.options.tokens), device=self.model.device)
        said = self._clustered(ids, keep=share).report()
        return min(self.options.tokens, round(said.physical_bytes / said.logical_bytes * self.options.tokens))

    def _clustered(self, ids: torch.Tensor, **settings: Any) -> Any:
        found = npukv.ClusteredCache(self.model.config, **settings)
        self.model(ids, past_key_values=found, logits_to_keep=1)
        found.compress()
        return found

    def _cluster(self, read: Read, share: float, ways: dict[str, dict[str, Any]]) -> None:
        for method, settings in ways.items():
            cell = self.cell("compress", method, share)
            cache = self._clustered(read.ids, **({"keep": share} | settings))
            said = cache.report()
            cell.tokens = said.ratio * said.logical_tokens  # the layers' mean
            cell.bytes = said.physical_bytes / said.logical_bytes
            self.measure(read, cell, partial(copy.deepcopy, cache), self.at_once)

    def clustered(self, read: Read, share: float) -> None:
        """As it comes; more for layers that look far back."""
        self._cluster(read, share, {"clustered": {}, "clustered by layer": {"keep": self.shares(share)}})

    def clustered_otherwise(self, read: Read, share: float) -> None:
        """As many last tokens as the others; compressed while reading."""
        self._cluster(
            read, share, {f"clustered, {RECENT} recent": {"recent": RECENT}, "clustered in steps": {"step": 256}}
        )

    def evict(self, read: Read, share: float) -> None:
        """The others' scores as this script computes them, with our first and last tokens inside the budget."""
        budget = self.budget(share)
        for method, found in self._scores(read.ids).items():
            places = [best(forced(score), budget)[..., None] for score in found]
            kept = [
                [
                    tensor.gather(2, place.expand(-1, -1, -1, tensor.shape[-1]))
                    for tensor, place in zip(held, places, strict=True)
                ]
                for held in (read.keys, read.values)
            ]
            cell = self.cell("compress", method, share)
            cell.tokens, cell.bytes = budget, budget / self.options.tokens
            self.measure(read, cell, partial(kept_cache, *kept), self.at_once)

    def _scores(self, ids: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        """Per method and layer [B, Hkv, n]; where there is kvpress, they are compared with its own."""
        scores: dict[str, list[torch.Tensor]] = {method: [] for method in SCORES}

        def look(layer: int, read: Any) -> None:
            for method, score in SCORES.items():
                scores[method].append(score(read))
            self.compare(read, {method: found[-1] for method, found in scores.items()})

        with reading(self.model, look):
            self.model.model(ids, past_key_values=DynamicCache())
        return scores

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

    def kvpress(self, read: Read, share: float) -> None:
        """kvpress's own code, as shipped: without our first and last tokens inside the budget."""
        tokens = read.ids.shape[1]
        for method, press in self.presses.items():
            cache = DynamicCache()
            with pressing(self.model, press(compression_ratio=1 - self.budget(share) / tokens)):
                self.model.model(input_ids=read.ids, past_key_values=cache)
            kept = [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]
            cell = self.cell("compress", f"kvpress {method}", share)
            cell.tokens = kept[0][0].shape[2]
            cell.bytes = cell.tokens / tokens
            self.measure(read, cell, partial(kept_cache, *kept), self.at_once)

    # select

    def select(self, read: Read, share: float) -> None:
        ways: dict[str, tuple[Any, int, int]] = {
            "exact top-k": (exact, 0, 0),
            "quest": (quest, 0, 0),
            "streaming": (stream, 4, 0),
        }
        self._select(read, share, ways | self._codes(read, [name for name in self.weights if name != "random 256"]))

    def select_256(self, read: Read, share: float) -> None:
        """Random codes twice as long."""
        self._select(read, share, self._codes(read, ["random 256"]))

    def _codes(self, read: Read, names: Sequence[str]) -> dict[str, tuple[Any, int, int]]:
        found: dict[str, tuple[Any, int, int]] = {}
        for name in names:
            weights = self.weights[name]
            projections = [weights.layer(i, held.shape[1], held.shape[-1]) for i, held in enumerate(read.keys)]
            found[f"codes, {name}"] = hashed(projections), 4, 16
        return found

    def _select(self, read: Read, share: float, ways: dict[str, tuple[Any, int, int]]) -> None:
        for method, (score, sink, recent) in ways.items():
            cell = self.cell("select", method, share)
            cell.tokens = round(share * self.options.tokens)
            bits = self.weights[method[7:]].bits if method.startswith("codes") else 0
            cell.bytes = 1 + bits / 8 / (2 * read.keys[0].shape[-1] * read.keys[0].element_size())
            selector = Selector(score, int(cell.tokens), sink, recent, self.options.dense)
            with selecting(self.model, selector):
                self.measure(read, cell, partial(kept_cache, read.keys, read.values), self.at_once)
            cell.mass.setdefault(read.name, []).extend(selector.masses)

    def hash(self, read: Read, share: float) -> None:
        """The cache itself, with its own defaults, one token at a time: must do what its codes do in one pass."""
        weights = "learned" if "learned" in self.weights else "random 128"
        cell = self.cell("select", f"hashed, {weights}", share)
        budget = round(share * self.options.tokens)
        cache = npukv.HashedCache(self.model.config, budget=budget, weights=self.weights[weights])
        self.model(read.ids, past_key_values=cache, logits_to_keep=1)
        said = cache.report()
        cell.tokens, cell.bytes = budget, said.physical_bytes / said.logical_bytes
        self.measure(read, cell, partial(copy.deepcopy, cache), self.one_by_one)
