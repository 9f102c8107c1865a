"""Learn the projections of hash codes for a model: which of its keys get attention, from a few texts of its own kind.

    python scripts/train_hash.py --model DIR --out codes.safetensors [--text FILE...] [--method kl|paper] [--bits 128]
    python scripts/train_hash.py --bundled          # writes the codes that ship with the bundled model
    python scripts/train_hash.py --compare          # random, paper and kl on the bundled model, nothing is written

Then `npukv.HashedCache(model.config, budget=2048, weights="codes.safetensors")`.

Contexts are stretches of text, every other one with eight facts in it that are asked for at its end. Queries are those
of the last eighth of a context, keys those of what comes before.

kl      cross-entropy between the exact softmax and softmax(tau x similarity of codes), signs straight through, Adam,
        from random orthogonal projections.
paper   equation 9 of HATA (arXiv 2506.02572): weighted distances of relaxed codes, balance, and decorrelation; averaged
        over keys and queries, with unsquared norms, and a tenth of the paper's rate: the other forms tried here (its
        own rate, weaker decorrelation, normal numbers to start from) did worse.

Figures are the share of the exact softmax's mass that falls on the selected keys, in contexts of text that was not
trained on: by codes (distances summed over the query heads of a KV head) and by the exact top-k.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import npukv
from npukv import attention, bundled
from npukv.cache.hash_weights import HashWeights, bundled_path
from npukv.errors import InputError, NpukvError
from npukv.evaluation.facts import KINDS, draw_fact
from npukv.evaluation.splice import splice
from npukv.evaluation.words import draw_key, word_pool
from npukv.ops.hashing import random_orthogonal

METHODS = ("kl", "paper")
COLLECTING = "npukv-collecting"
SHARES = (0.03, 0.06, 0.12)
FACTS = 8
QUERIES = 32  # of each head and step


@dataclass(frozen=True)
class Attended:
    """One layer in one context: queries [Hkv, G, M, D] and the keys before them [Hkv, N, D], float32 on the CPU."""

    queries: torch.Tensor
    keys: torch.Tensor
    scale: float

    def on(self, device: torch.device) -> Attended:
        return Attended(self.queries.to(device), self.keys.to(device), self.scale)


# contexts


def context(lm: Any, text: str, length: int, rng: random.Random, split: str, facts: int) -> list[int]:
    """`length` tokens: a stretch of the text, or one with facts in it and their questions and answers at the end."""
    start = rng.randrange(max(1, len(text) - 8 * length))
    stretch = text[start : start + 8 * length]
    head = [] if lm.tokenizer.bos_token_id is None else [lm.tokenizer.bos_token_id]
    if not facts:
        return (head + lm.encode(stretch))[:length]
    words = word_pool(text[:2_000_000], split)
    kind = rng.choice(KINDS)
    drawn = [draw_fact(rng, kind, words, split, key=draw_key(rng, words)) for _ in range(facts)]
    asked = "".join(f"\nQuestion: {fact.question}\nAnswer: {fact.prefix} {fact.value}." for fact in drawn)
    tail = lm.encode(asked)
    room = length - len(head) - len(tail) - len(lm.encode(" ".join(fact.statement for fact in drawn)))
    if room < length // 2:
        raise InputError(f"{facts} facts and their questions leave {room} of {length} tokens: give a larger --length")
    filler = lm.tokenizer.decode(lm.encode(stretch)[: room + 16])  # encoded anew it may be a little shorter
    told, _ = splice(filler, [fact.statement for fact in drawn], rng)
    return (head + lm.encode(told))[: length - len(tail)] + tail


@contextmanager
def collecting(lm: Any, queries: int) -> Iterator[dict[int, Attended]]:
    """Within, a pass of one context leaves what each layer's last `queries` tokens attended to."""
    from transformers import AttentionInterface, AttentionMaskInterface

    found: dict[int, Attended] = {}

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: Any = None, **rest: Any) -> Any:
        first = key.shape[2] - queries
        asked = query[0, :, -queries:].unflatten(0, (key.shape[1], -1))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        found[module.layer_idx] = Attended(asked.float().cpu(), key[0, :, :first].float().cpu(), scale)
        return attention.attend(module, query, key, value, mask, scaling=scaling, **rest)

    AttentionInterface.register(COLLECTING, attend)
    AttentionMaskInterface.register(COLLECTING, attention.mask)
    before = lm.model.config._attn_implementation
    lm.model.set_attn_implementation(COLLECTING)
    try:
        yield found
    finally:
        lm.model.set_attn_implementation(before)


@torch.no_grad()
def collect(lm: Any, text: str, contexts: int, length: int, seed: int, split: str) -> list[dict[int, Attended]]:
    """Per context, the full-attention layers' queries and keys. Odd contexts hold facts."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    full = {i for i, layer in enumerate(DynamicCache(config=lm.model.config).layers) if type(layer) is DynamicLayer}
    gathered = []
    for number in range(contexts):
        rng = random.Random(f"{split} {seed} {number}")
        ids = context(lm, text, length, rng, split, FACTS if number % 2 else 0)
        if len(ids) < length:
            raise InputError(f"the text gives {len(ids)} tokens, expected contexts of {length}: give more --text")
        with collecting(lm, length // 8) as found:
            lm.model(torch.tensor([ids], device=lm.device.torch_device), use_cache=False, logits_to_keep=1)
        gathered.append({layer: seen for layer, seen in found.items() if layer in full})
        show(f"{split} contexts", number + 1, contexts)
    return gathered


# learning: one layer at a time, all of its heads at once


def train_kl(
    contexts: Sequence[Attended], weights: torch.Tensor, steps: int, seed: int, rate: float = 0.01
) -> tuple[torch.Tensor, list[float]]:
    """From `weights` [Hkv, D, bits]; returns the learned ones and the loss of every step."""
    generator = torch.Generator().manual_seed(seed)
    weights = weights.clone().requires_grad_(True)
    temperature = torch.full((weights.shape[0], 1, 1), math.log(0.2), device=weights.device, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [weights], "lr": rate}, {"params": [temperature], "lr": 2 * rate}])
    losses = []

    def code(x: torch.Tensor) -> torch.Tensor:
        projected = x @ weights
        relaxed = torch.tanh(projected / projected.detach().abs().mean((1, 2), keepdim=True))
        return relaxed + (relaxed.sign() - relaxed).detach()

    for step in range(steps):
        queries, seen = sample(contexts[step % len(contexts)], generator)
        exact = (queries @ seen.keys.transpose(1, 2) * seen.scale).softmax(-1)
        similar = code(queries) @ code(seen.keys).transpose(1, 2) * temperature.exp()
        loss = -(exact * similar.log_softmax(-1)).sum(-1).mean(1)
        losses.append(float(loss.detach().mean()))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    return weights.detach(), losses


def train_paper(
    contexts: Sequence[Attended], weights: torch.Tensor, steps: int, seed: int, rate: float = 0.01
) -> tuple[torch.Tensor, list[float]]:
    """As `train_kl`, by equation 9: labels of the top tenth of keys fall from 20 to 1, those of the others are -1."""
    sharpness, near, balanced, uncorrelated = 0.1, 0.01, 2.0, 1.0
    generator = torch.Generator().manual_seed(seed)
    weights = weights.clone().requires_grad_(True)
    width, bits = weights.shape[1:]
    optimizer = torch.optim.SGD([weights], lr=rate, momentum=0.9, weight_decay=1e-6)
    losses = []
    for step in range(steps):
        queries, seen = sample(contexts[step % len(contexts)], generator)
        products = queries @ seen.keys.transpose(1, 2)
        top = products.topk(max(1, products.shape[-1] // 10), dim=-1).indices
        grades = torch.linspace(20, 1, top.shape[-1], device=weights.device).expand(top.shape)
        labels = torch.full_like(products, -1).scatter(2, top, grades)
        asked, held = (2 * torch.sigmoid(sharpness * (x @ weights)) - 1 for x in (queries, seen.keys))
        apart = asked.square().sum(-1)[..., None] + held.square().sum(-1)[:, None] - 2 * asked @ held.transpose(1, 2)
        if bits <= width:
            gram, unit = weights.transpose(1, 2) @ weights, 1.0
        else:  # more columns than dimensions cannot be orthonormal; equally spread ones are the nearest to it
            gram, unit = weights @ weights.transpose(1, 2), bits / width
        identity = torch.eye(gram.shape[-1], device=weights.device) * unit
        loss = near * (labels * apart).mean((1, 2)) + balanced * held.mean(1).norm(dim=-1)
        loss = loss + uncorrelated * (gram - identity).flatten(1).norm(dim=-1)
        losses.append(float(loss.detach().mean()))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    return weights.detach(), losses


def sample(seen: Attended, generator: torch.Generator) -> tuple[torch.Tensor, Attended]:
    """A few queries [Hkv, QUERIES, D] of any head of the group."""
    queries = seen.queries.flatten(1, 2)
    return queries[:, torch.randperm(queries.shape[1], generator=generator)[:QUERIES].to(queries.device)], seen


def learn(
    contexts: Sequence[dict[int, Attended]], method: str, bits: int, steps: int, seed: int, device: torch.device
) -> tuple[HashWeights, list[float]]:
    """All layers; also the loss of every step, averaged over heads and layers."""
    train = train_kl if method == "kl" else train_paper
    learned, history = {}, []
    for number, layer in enumerate(layers := sorted(contexts[0])):
        seen = [each[layer].on(device) for each in contexts]
        heads, _, width = seen[0].keys.shape
        start = random_orthogonal(heads, width, bits, seed=seed + layer).to(device)
        weights, losses = train(seen, start, steps, seed)
        if not torch.isfinite(weights).all():
            raise InputError(f"the {method} training of layer {layer} diverged; take another --seed or fewer --steps")
        learned[layer] = weights.cpu()
        history.append(losses)
        show(f"{method}, layers", number + 1, len(layers))
    return HashWeights(bits, seed, learned), torch.tensor(history).mean(0).tolist()


# measuring


def captured(
    contexts: Sequence[dict[int, Attended]], weights: HashWeights | None, device: torch.device, skip: int = 0
) -> list[float]:
    """Softmax mass on the selected keys at each of SHARES; None = the exact top-k. Layers from `skip` on."""
    masses: list[list[float]] = []
    for each in contexts:
        for layer, seen in each.items():
            if layer < skip:
                continue
            seen = seen.on(device)
            exact = (seen.queries @ seen.keys[:, None].transpose(-1, -2) * seen.scale).softmax(-1)  # [Hkv, G, M, N]
            if weights is None:
                score = exact.sum(1)
            else:
                heads, _, width = seen.keys.shape
                projection = weights.layer(layer, heads, width).to(device)
                held = torch.where(seen.keys @ projection > 0, 1.0, -1.0)
                asked = torch.where(seen.queries @ projection[:, None] > 0, 1.0, -1.0).sum(1)  # [Hkv, M, bits]
                score = asked @ held.transpose(1, 2)
                score = score + torch.arange(score.shape[-1], device=device) / (2 * score.shape[-1])  # ties: the last
            order = score.argsort(-1, descending=True)
            ranked = exact.gather(-1, order[:, None].expand_as(exact)).cumsum(-1).mean((0, 1, 2))
            masses.append([float(ranked[max(1, round(share * len(ranked))) - 1]) for share in SHARES])
    return torch.tensor(masses).mean(0).tolist()


def table(rows: dict[str, list[float]]) -> str:
    lines = ["selector            " + "".join(f"{share:>8.0%}" for share in SHARES)]
    lines += [f"{name:<20}" + "".join(f"{mass:8.3f}" for mass in masses) for name, masses in rows.items()]
    return "\n".join(lines)


def show(what: str, done: int, total: int) -> None:
    print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)


def read(paths: Sequence[Path]) -> str:
    """Plain text; .xz is unpacked, .jsonl.xz joined from its "text" fields."""
    parts = []
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected a text, .txt.xz or .jsonl.xz")
        with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
            raw = str(file.read())
        if ".jsonl" in path.name:
            raw = "\n\n".join(json.loads(line)["text"] for line in raw.splitlines())
        parts.append(raw)
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id; left out: the bundled model")
    parser.add_argument("--out", type=Path, help="safetensors file to write")
    parser.add_argument("--bundled", action="store_true", help="write the bundled model's own codes")
    parser.add_argument("--compare", action="store_true", help="measure random, paper and kl codes")
    parser.add_argument("--text", type=Path, nargs="+", help="texts to learn from; left out: the bundled one")
    parser.add_argument("--evaluate", type=Path, nargs="+", help="texts to measure on; left out: the last tenth")
    parser.add_argument("--method", choices=METHODS, default="kl")
    parser.add_argument("--bits", type=int, default=128)
    parser.add_argument("--contexts", type=int, help="contexts to learn from (10; with --bundled 24)")
    parser.add_argument("--measured", type=int, default=6, help="contexts to measure on")
    parser.add_argument("--length", type=int, help="tokens of a context; left out: the model's, at most 4096")
    parser.add_argument("--steps", type=int, help="steps per layer (200; with --bundled 480)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype")
    options = parser.parse_args(arguments)
    if options.bundled and (options.model or options.out):
        parser.error("--bundled takes the bundled model and its own place: leave out --model and --out")
    if not (options.bundled or options.out or options.compare):
        parser.error("say where to write: --out FILE or --bundled; or --compare")
    options.contexts = options.contexts or (24 if options.bundled else 10)
    options.steps = options.steps or (480 if options.bundled else 200)
    try:
        run(options)
    except NpukvError as error:
        sys.exit(str(error))


def run(options: argparse.Namespace) -> None:
    started = time.monotonic()
    HashWeights(options.bits)  # refuses what is no number of bits
    lm = npukv.load(options.model, device=options.device, dtype=options.dtype)
    device = lm.device.torch_device
    text = read(options.text) if options.text else bundled.sample_text()
    length = options.length or min(lm.context, 4096)
    cut = len(text) if options.evaluate else len(text) * 9 // 10
    other = read(options.evaluate) if options.evaluate else text[cut:]
    training = collect(lm, text[:cut], options.contexts, length, options.seed, "train")
    held_out = collect(lm, other, options.measured, length, options.seed, "held-out")
    rows = {"exact top-k": captured(held_out, None, device)}
    for bits in sorted({options.bits, 2 * options.bits} if options.compare else {options.bits}):
        rows[f"random, {bits} bits"] = captured(held_out, HashWeights(bits, options.seed), device)
    result: tuple[HashWeights, list[float]] | None = None
    for method in METHODS if options.compare else (options.method,):
        weights, losses = learn(training, method, options.bits, options.steps, options.seed, device)
        rows[f"{method}, {options.bits} bits"] = captured(held_out, weights, device)
        if method == options.method:
            result = weights, losses
        print(f"{method}: loss {losses[0]:.3f} -> {losses[-1]:.3f}", file=sys.stderr, flush=True)
    print(f"softmax mass on the selected keys, {options.measured} contexts of {length} tokens")
    print(table(rows))
    path = bundled_path() if options.bundled else options.out
    if path is None or result is None:
        return
    weights, losses = result
    described = {
        "method": options.method,
        "steps": options.steps,
        "contexts": options.contexts,
        "length": length,
        "seed": options.seed,
        "fingerprint": lm.fingerprint,
        "loss": [round(loss, 4) for loss in losses[:: max(1, options.steps // 20)]],
        "mass": {name: [round(mass, 4) for mass in masses] for name, masses in rows.items()},
        "shares": list(SHARES),
        "seconds": round(time.monotonic() - started, 1),
    }
    weights.save(path, lm.model.config, described)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
