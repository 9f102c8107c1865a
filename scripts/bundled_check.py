"""What a model folder can do, on held-out templates, words and texts: the table of the bundled model's card.

    python scripts/bundled_check.py MODEL --valid valid.jsonl.xz [--n 200] [--device DEVICE]

prints a table and, with --json FILE, writes it.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from bundled_data import BOS, works
from bundled_wordings import ask_in_kept_back_forms
from tokenizers import Tokenizer

from npukv.errors import InputError
from npukv.evaluation.facts import KINDS, needles
from npukv.evaluation.pairs import key_values, several_values, two_facts
from npukv.evaluation.sample import Sample
from npukv.evaluation.variables import variable_chain
from npukv.evaluation.words import word_pool

Model = Callable[[torch.Tensor], torch.Tensor]  # ids [B, T] -> logits [B, T, V]


def default_device() -> str:
    """This machine's accelerator, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else "cpu"


def encode(tokenizer: Tokenizer, sample: Sample, ahead: bool = False) -> tuple[list[int], list[int], list[int]]:
    """Context, question (with the answer's prefix) and answer as the model is fed them; ``ahead``: the question before
    the context, too."""
    prefix = f" {sample.answer_prefix}" if sample.answer_prefix else ""
    tail = f"\nQuestion: {sample.question}\nAnswer:{prefix}"
    context, asked, answer = (
        tokenizer.encode(text).ids for text in (sample.context, tail, f" {', '.join(sample.answers)}.")
    )
    first = tokenizer.encode(f"Question: {sample.question}\n").ids if ahead else []
    return first + context, asked, answer


def fit(
    make: Callable[[str], Sample],
    texts: Sequence[str],
    tokenizer: Tokenizer,
    length: int,
    rng: random.Random,
    ahead: bool = False,
) -> tuple[list[int], list[int], list[int]]:
    """A sample over a random stretch of the texts, so long that everything takes ``length`` tokens or little less."""
    text = rng.choice(texts)
    characters = length * 4
    start = rng.randrange(max(1, len(text) - length * 6))
    while True:
        parts = encode(tokenizer, make(text[start : start + characters].partition(" ")[2]), ahead)
        size = 1 + sum(map(len, parts))
        if size <= length:
            return parts
        characters = int(characters * length / size * 0.99) - 8
        if characters < 64:
            raise InputError(f"a sample takes {size} tokens with next to no text: give at least that for {length}")


@torch.inference_mode()
def accuracy(
    model: Model, samples: Sequence[tuple[list[int], list[int], list[int]]], device: str, batch: int = 16
) -> float:
    """Share of samples whose answer, with its closing period, is what greedy decoding gives, token for token."""
    right = 0
    for i in range(0, len(samples), batch):
        group = samples[i : i + batch]
        rows = [[BOS, *context, *tail, *answer] for context, tail, answer in group]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for row, values in zip(ids, rows, strict=True):
            row[: len(values)] = torch.tensor(values)
        guess = model(ids.to(device)).argmax(-1).cpu()
        for row, values, (_, _, answer) in zip(guess, rows, group, strict=True):
            end = len(values) - 1
            right += row[end - len(answer) : end].tolist() == answer
    return right / len(samples)


@torch.inference_mode()
def bits_per_byte(model: Model, texts: Sequence[str], tokenizer: Tokenizer, device: str, length: int = 2048) -> float:
    """Of whole texts, in windows of ``length`` tokens that do not overlap, each begun by <|bos|>."""
    windows, size = [], 0
    for text in texts:
        ids = [i for e in tokenizer.encode_batch_fast(text.splitlines(keepends=True)) for i in e.ids]
        windows += [[BOS, *ids[i : i + length - 1]] for i in range(0, len(ids), length - 1)]
        size += len(text.encode())
    total = 0.0
    whole = [window for window in windows if len(window) == length]
    for group in [whole[i : i + 16] for i in range(0, len(whole), 16)] + [[w] for w in windows if len(w) < length]:
        ids = torch.tensor(group, device=device)
        logits = model(ids[:, :-1]).float()
        total += F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
    return total / math.log(2) / size


@torch.inference_mode()
def relevance(
    model: Model, parts: Sequence[tuple[list[int], list[int], list[int]]], tokenizer: Tokenizer, device: str
) -> tuple[list[float], list[float], list[float]]:
    """Entropy of the first token, of the answer's tokens (up to its end, at most 8), and the question's mean -log p."""
    first, certainty, question = [], [], []
    for context, tail, _ in parts:
        ids = [BOS, *context, *tail]
        entropies: list[float] = []
        logits = model(torch.tensor([ids], device=device))[0].float()
        asked = F.cross_entropy(logits[-len(tail) : -1], torch.tensor(tail[1:], device=device)).item()
        for _ in range(8):
            chances = logits[-1].log_softmax(-1)
            entropies.append(-(chances.exp() * chances).sum().item())
            ids.append(int(chances.argmax()))
            word = tokenizer.decode(ids[-1:], skip_special_tokens=False)
            if "." in word or "\n" in word or ids[-1] <= 1:
                break
            logits = model(torch.tensor([ids], device=device))[0, -1:].float()
        first.append(entropies[0])
        certainty.append(sum(entropies) / len(entropies))
        question.append(asked)
    return first, certainty, question


def beats(lower: Sequence[float], higher: Sequence[float]) -> float:
    """Share of all pairs in which the one is lower than the other (area under the ROC curve)."""
    return sum((a < b) + 0.5 * (a == b) for a in lower for b in higher) / (len(lower) * len(higher))


def families(words: list[str]) -> dict[str, Callable[[str, int], Sample]]:
    """Name -> sample from a text and a seed."""
    table: dict[str, Callable[[str, int], Sample]] = {}
    for kind in KINDS:
        common = {"kind": kind, "words": words}
        table[f"{kind}, 1 fact"] = lambda text, seed, c=common: needles(text, seed=seed, **c)
        table[f"{kind}, 1 fact, prefix"] = lambda text, seed, c=common: needles(text, seed=seed, prefix=True, **c)
        table[f"{kind}, 8 facts"] = lambda text, seed, c=common: needles(text, seed=seed, facts=8, **c)
        table[f"{kind}, 7 rivals"] = lambda text, seed, c=common: needles(text, seed=seed, rivals=7, **c)
        table[f"{kind}, 7 near rivals"] = lambda text, seed, c=common: needles(
            text, seed=seed, rivals=7, near=True, **c
        )
        table[f"{kind}, decoys"] = lambda text, seed, c=common: needles(text, seed=seed, with_decoys=True, **c)
    table["two facts"] = lambda text, seed: two_facts(text, seed=seed, words=words)
    table["two facts, 2 rivals each"] = lambda text, seed: two_facts(text, seed=seed, rivals=2, words=words)
    table["3 values of a key"] = lambda text, seed: several_values(text, seed=seed, words=words)
    table["key-value, 32 pairs"] = lambda text, seed: key_values(words, pairs=32, seed=seed)
    table["key-value, 16 UUIDs"] = lambda text, seed: key_values(words, pairs=16, uuids=True, seed=seed)
    table["variables, 5 in a chain"] = lambda text, seed: variable_chain(text, seed=seed)
    table["variables, 2 chains"] = lambda text, seed: variable_chain(text, chains=2, seed=seed)
    return table


def find_families(names: Sequence[str]) -> Sequence[str]:
    """The names; raises InputError where one is no family's."""
    if unknown := set(names) - set(families([])):
        raise InputError(f"got families {sorted(unknown)}, expected some of: {'; '.join(families([]))}")
    return names


Parts = list[tuple[list[int], list[int], list[int]]]


class Preparer:
    """Makes the samples of one family; picklable, for a pool of processes."""

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer, n: int, length: int, segment: int, ahead: bool):
        self.texts, self.tokenizer, self.n, self.length, self.segment = texts, tokenizer, n, length, segment
        self.ahead = ahead
        self.words = word_pool("\n".join(texts), "held-out")

    def __call__(self, name: str) -> Parts:
        table = families(self.words)
        if name in table:
            n, length, make = self.n, self.length, table[name]
        else:
            n, length = self.n // 4, self.segment
            kind, _, side = name.partition(" in segments: ")

            def make(text: str, seed: int) -> Sample:
                return needles(text, kind, rivals=1, absent=side == "absent", seed=seed, words=self.words)

        rng = random.Random(name)
        given = self.texts, self.tokenizer, length, rng, self.ahead
        return [fit(lambda text, i=i: make(text, i), *given) for i in range(n)]


def check(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    n: int = 200,
    device: str = "cpu",
    length: int = 2048,
    segment: int = 384,
    characters: int | None = None,
    processes: int = 1,
    only: Sequence[str] = (),
    ahead: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """The table: bits per byte, accuracy by family, and how well certainty tells a segment with the fact from one
    with a rival's (area under the curve; 0.5 is chance). With ``only``, the accuracy of those families."""
    prepare = Preparer(texts, tokenizer, n, length, segment, ahead)
    names, kinds = list(find_families(only) or families([])), () if only else KINDS
    names += [f"{kind} in segments: {side}" for kind in kinds for side in ("present", "absent")]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        samples = dict(zip(names, pool.map(prepare, names, chunksize=1), strict=True))
    figures: dict[str, float] = {}

    def note(name: str, value: float) -> None:
        figures[name] = round(value, 4)
        say(f"{name:34s} {value:.4f}")

    if not only:
        note("bits per byte", bits_per_byte(model, [text[:characters] for text in texts], tokenizer, device, length))
    for name, parts in samples.items():
        if "segments" not in name:
            note(name, accuracy(model, parts, device))
    for kind in kinds:
        sides = (samples[f"{kind} in segments: {side}"] for side in ("present", "absent"))
        (first, certainty, question), (first2, certainty2, question2) = (
            relevance(model, parts, tokenizer, device) for parts in sides
        )
        note(f"{kind}, first token", beats(first, first2))
        note(f"{kind}, certainty E", beats(certainty, certainty2))
        # The same question over both segments: only pairs of one question are compared.
        pairs = list(zip(question, question2, strict=True))
        note(f"{kind}, question Q", sum(a < b for a, b in pairs) / len(pairs))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--valid", type=Path, required=True, help="works held out from training, .jsonl.xz")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--characters", type=int, help="of each work for bits per byte; default all")
    parser.add_argument("--kept-back", action="store_true", help="in sentences by the hands that wrote training's")
    parser.add_argument("--only", type=lambda text: text.split(";"), default=(), help="families, separated by ;")
    parser.add_argument("--ahead", action="store_true", help="the question stands before the context, too")
    parser.add_argument("--length", type=int, help="tokens of a context; default: the model's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        find_families(options.only)
    except InputError as error:
        parser.error(f"--only: {error}")
    if not (options.model / "model.safetensors").exists():
        sys.exit(f"no model.safetensors in {options.model}")
    from transformers import AutoModelForCausalLM

    if options.kept_back:
        ask_in_kept_back_forms()
    context = json.loads((options.model / "config.json").read_text())["max_position_embeddings"]
    if not 0 < (options.length or context) <= context:
        parser.error(f"--length: got {options.length}, expected 1 to {context}, the model's context")
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).to(options.device).eval()
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    start = time.time()
    figures = check(
        lambda ids: model(ids, use_cache=False).logits, tokenizer, list(works(options.valid)), n=options.n,
        device=options.device, length=options.length or model.config.max_position_embeddings,
        characters=options.characters, processes=os.cpu_count() or 1, only=options.only,
        ahead=options.ahead,
    )  # fmt: skip
    print(f"{time.time() - start:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
