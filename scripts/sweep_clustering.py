"""Variants of clustering beside evictions of the same size: facts found, and perplexity, after the context is gone.

    python scripts/sweep_clustering.py [--model DIR] [--device DEVICE] [--contexts 200] [--out FILE] [--only NAME ...]

Contexts of 1,792 tokens of the bundled text hold 8 facts each. The model reads them once, with full attention; each
variant compresses the keys and values, and only then come the questions, all 8 of them to the same cache. An answer
counts when every token of it, and the period behind it, is what greedy decoding gives. Perplexity is that of the 256
tokens that follow contexts without facts, relative to the full cache. Figures of 200 contexts: one standard error is
about 1.2 points of accuracy; variants see the same contexts, so that their differences are sharper than that.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, normalize

import npukv
from npukv import bundled
from npukv.cache.clustered_layer import Row
from npukv.cache.profile import layer_needs, layer_shares
from npukv.cache.rotary import Rotary
from npukv.environment import environment
from npukv.evaluation.facts import draw_fact
from npukv.evaluation.splice import splice
from npukv.evaluation.words import draw_key, word_pool
from npukv.language_model import LanguageModel

FACTS = 8
KEEPS = (0.5, 0.25, 0.2, 0.125)

Held = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values of each layer, [B, Hkv, T, D]
Variant = Callable[[LanguageModel, Held], Any]  # -> a cache that holds less


@dataclass(frozen=True)
class Asked:
    """Contexts that have been read, and what is asked about them."""

    held: Held
    rows: torch.Tensor  # [B * questions, S], questions and answers, padded on the right
    answers: list[tuple[int, int]]  # where each row's answer begins and ends
    questions: int


def facts_context(
    lm: LanguageModel, text: str, words: list[str], seed: int, tokens: int
) -> tuple[list[int], list[Any]]:
    """Ids of a context with 8 facts, exactly `tokens` long, and the facts."""
    rng = random.Random(f"sweep {seed}")
    start = rng.randrange(len(text) - 10 * tokens)
    body = text[start : start + 8 * tokens].partition(" ")[2]
    facts: dict[str, Any] = {}
    while len(facts) < FACTS:
        key = draw_key(rng, words)
        facts[key] = draw_fact(rng, rng.choice(("number", "pass key", "word")), words, key=key)
    size = int(3.4 * tokens)
    while True:
        context, _ = splice(body[:size], [fact.statement for fact in facts.values()], random.Random(seed))
        ids = lm.encode(context)
        if len(ids) <= tokens - 8:
            break
        size -= max(20, 3 * (len(ids) - tokens + 9))
    bos = [lm.tokenizer.bos_token_id]
    return (bos + ids + lm.encode(body[size:]))[:tokens], list(facts.values())


@torch.inference_mode()
def read(lm: LanguageModel, rows: list[list[int]]) -> Held:
    from transformers import DynamicCache

    cache = DynamicCache(config=lm.model.config)
    lm.model(torch.tensor(rows, device=lm.model.device), past_key_values=cache, logits_to_keep=1)
    return [(layer.keys, layer.values) for layer in cache.layers]


def batches(lm: LanguageModel, contexts: int, tokens: int, following: int, batch: int) -> Iterator[Asked]:
    """Facts first; then texts to go on with, a quarter as many."""
    text = bundled.sample_text()
    words = word_pool(text, "held-out")
    for first in range(0, contexts, batch):
        made = [facts_context(lm, text, words, seed, tokens) for seed in range(first, min(first + batch, contexts))]
        rows, answers = [], []
        for _, facts in made:
            for fact in facts:
                asked = lm.encode(f"\nQuestion: {fact.question}\nAnswer: {fact.prefix}")
                answer = lm.encode(f" {fact.value}.")
                rows.append(asked + answer)
                answers.append((len(asked), len(asked) + len(answer)))
        width = max(map(len, rows))
        padded = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=lm.model.device)
        yield Asked(read(lm, [ids for ids, _ in made]), padded, answers, FACTS)
    rng = random.Random("perplexity")
    for first in range(0, max(1, contexts // 4), batch):
        rows = []
        while len(rows) < min(batch, max(1, contexts // 4) - first):
            start = rng.randrange(len(text) - 10 * tokens)
            ids = lm.encode(text[start : start + 8 * tokens].partition(" ")[2])
            rows.append([lm.tokenizer.bos_token_id, *ids][: tokens + following])
        after = torch.tensor([row[tokens:] for row in rows], device=lm.model.device)
        yield Asked(read(lm, [row[:tokens] for row in rows]), after, [], 1)


def filled(lm: LanguageModel, held: Held, **options: Any) -> Any:
    """A ClusteredCache that has read the contexts, and not compressed."""
    cache = npukv.ClusteredCache(lm.model.config, **options)
    for layer, (keys, values) in zip(cache.attending, held, strict=True):
        layer.lazy_initialization(keys, values)
        batch, _, tokens, _ = keys.shape
        layer._resize(tokens)
        layer.keys.copy_(keys)
        layer.values.copy_(values)
        layer.rows, layer.padding = [Row(0, tokens, tokens)] * batch, [0] * batch
        layer.seen = layer.kept = tokens
    return cache


def clustered(
    keep: float, rotated: bool = False, degrees: bool = True, profile: bool = False, **options: Any
) -> Variant:
    def make(lm: LanguageModel, held: Held) -> Any:
        shares = layer_shares(lm.model, keep) if profile else keep
        cache = filled(lm, held, keep=shares, **options)
        if rotated:
            for layer in cache.attending:
                layer.rotary._parameters = {}
        cache.compress()
        if not degrees:
            for layer in cache.attending:
                layer.bias.zero_()
        return cache

    return make


def evicted(keep: float, scores: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], plain: bool = False) -> Variant:
    """Keep the keys with the highest scores, 4 sinks and 64 recent tokens among them."""

    def make(lm: LanguageModel, held: Held) -> Any:
        left = []
        for index, (keys, values) in enumerate(held):
            tokens = keys.shape[2]
            where = torch.arange(tokens, device=keys.device)
            seen = Rotary(lm.model.config, index).undo(keys, where, tokens) if plain else keys
            score = scores(seen.float(), values.float())
            score[:, :, :4] = score[:, :, -64:] = math.inf
            chosen = score.topk(math.ceil(keep * tokens), dim=-1).indices.sort(dim=-1).values[..., None]
            left.append(tuple(x.gather(2, chosen.expand(-1, -1, -1, x.shape[3])) for x in (keys, values)))
        cache = filled(lm, left, keep=1.0)  # type: ignore[arg-type]
        for layer, (keys, _) in zip(cache.attending, held, strict=True):
            layer.seen = keys.shape[2]
        return cache

    return make


def key_difference(keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """KeyDiff (arXiv 2504.15364): how far a key is from the mean key."""
    unit = normalize(keys, dim=-1)
    return -(unit * unit.mean(2, keepdim=True)).sum(-1)


def variants() -> dict[str, tuple[float, Variant]]:
    found: dict[str, tuple[float, Variant]] = {"full": (1.0, lambda lm, held: filled(lm, held, keep=1.0))}
    for keep in KEEPS:
        found[f"clustered {keep}"] = keep, clustered(keep)
        found[f"clustered by layer {keep}"] = keep, clustered(keep, profile=True)
        found[f"KeyDiff {keep}"] = keep, evicted(keep, key_difference)
        found[f"KeyDiff before RoPE {keep}"] = keep, evicted(keep, key_difference, plain=True)
    found["streaming 0.25"] = (
        0.25,
        evicted(0.25, lambda k, v: torch.arange(k.shape[2]).to(k).expand(k.shape[:3]).clone()),
    )
    found["key norm 0.25"] = 0.25, evicted(0.25, lambda k, v: -k.norm(dim=-1))
    for name, options in {
        "likeness alone": {"typical": 0.0},
        "typical 0.5": {"typical": 0.5},
        "typical 2": {"typical": 2.0},
        "matched after RoPE": {"rotated": True},
        "without log N": {"degrees": False},
        "passes of 1/2": {"share": 0.5},
        "passes of 0.36": {"share": 0.36},
        "passes of 0.3": {"share": 0.3},
        "passes of 1/8": {"share": 0.125},
        "chunks of 64": {"chunk": 64},
        "chunks of 256": {"chunk": 256},
        "chunks of 2048": {"chunk": 2048},
        "recent 64": {"recent": 64},
        "recent 112": {"recent": 112},
        "as published: after RoPE, halving, 64, likeness": {"rotated": True, "share": 0.5, "chunk": 64, "typical": 0.0},
    }.items():
        found[f"{name} 0.25"] = 0.25, clustered(0.25, **options)  # type: ignore[arg-type]
    return found


@torch.inference_mode()
def ask(lm: LanguageModel, cache: Any, asked: Asked) -> tuple[list[int], float]:
    """Which answers are right (1 or 0), and the mean loss of texts."""
    if asked.questions > 1:
        cache.batch_repeat_interleave(asked.questions)
    start = cache.get_seq_length()
    where = torch.arange(start, start + asked.rows.shape[1], device=asked.rows.device)[None]
    hidden = lm.model.model(asked.rows, past_key_values=cache, position_ids=where.expand(len(asked.rows), -1))[0]
    head = lm.model.get_output_embeddings()
    if not asked.answers:
        losses = cross_entropy(head(hidden[:, :-1]).flatten(0, 1).float(), asked.rows[:, 1:].flatten())
        return [], float(losses)
    said = [head(hidden[row, begin - 1 : end - 1]).argmax(-1) for row, (begin, end) in enumerate(asked.answers)]
    right = [
        (each == asked.rows[row, begin:end]).all()
        for row, (each, (begin, end)) in enumerate(zip(said, asked.answers, strict=True))
    ]
    return torch.stack(right).int().tolist(), math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype")
    parser.add_argument("--contexts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=1792)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--only", nargs="*", help="variants whose name contains one of these")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lm = npukv.load(options.model, options.device, options.dtype)
    chosen = {
        name: variant
        for name, variant in variants().items()
        if name == "full" or not options.only or any(word in name for word in options.only)
    }
    right: dict[str, list[int]] = {name: [] for name in chosen}
    losses: dict[str, list[float]] = {name: [] for name in chosen}
    sizes: dict[str, float] = {}
    failed: dict[str, str] = {}
    seconds = dict.fromkeys(chosen, 0.0)
    for asked in batches(lm, options.contexts, options.tokens, 256, options.batch):
        for name, (_, make) in chosen.items():
            if name in failed:
                continue
            lm.device.synchronize()
            started = time.perf_counter()
            try:
                cache = make(lm, asked.held)
                sizes[name] = sum(layer.kept for layer in cache.attending) / len(cache.attending) / options.tokens
                found, loss = ask(lm, cache, asked)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
                continue
            right[name] += found
            losses[name] += [] if math.isnan(loss) else [loss]
            lm.device.synchronize()
            seconds[name] += time.perf_counter() - started
    if "full" in failed:
        sys.exit("the full cache failed, so nothing can be compared")
    full = sum(right["full"]) / len(right["full"])
    base = sum(losses["full"]) / len(losses["full"])
    print(f"{options.contexts} contexts, {len(right['full'])} questions; full cache: {full:.1%} right")
    table = {}
    for name in chosen:
        if name in failed:
            print(f"{name:50s} failed: {failed[name]}")
            continue
        accuracy = sum(right[name]) / len(right[name])
        ratio = math.exp(sum(losses[name]) / len(losses[name]) - base)
        table[name] = {"kept": sizes[name], "accuracy": accuracy, "relative": accuracy / full, "perplexity": ratio}
        print(
            f"{name:50s} kept {sizes[name]:.3f}  right {accuracy:.3f}  of full {accuracy / full:.3f}  "
            f"perplexity x {ratio:.4f}  {seconds[name]:.1f} s",
            flush=True,
        )
    if options.out:
        record = {
            "environment": environment(),
            "model": Path(lm.name).name,
            "fingerprint": lm.fingerprint,
            "contexts": options.contexts,
            "tokens": options.tokens,
            "layer_needs": layer_needs(lm.model),
            "table": table,
            "failed": failed,
            "right": {name: "".join(map(str, found)) for name, found in right.items()},
            "losses": losses,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
