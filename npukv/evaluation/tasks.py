"""All tasks by name. To add one, write a function in a file of its own and name it here.

A task is a function ``(material, tokens, seed, depth) -> Sample``: the sample's prompt, with the question on both sides
of the text and with the answer, holds at most ``tokens`` tokens; the same arguments give the same sample; ``depth``
(0..1, or None for anywhere) places the evidence, where a task has a single piece of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from npukv.errors import InputError
from npukv.evaluation.facts import KINDS, needles
from npukv.evaluation.material import Material
from npukv.evaluation.pairs import key_values, several_values, two_facts
from npukv.evaluation.ruler import RULER
from npukv.evaluation.sample import Sample
from npukv.evaluation.variables import variable_chain

Task = Callable[[Material, int, int, "float | None"], Sample]

EXACT = 32_768  # up to this length samples are counted after they are made, and shortened if they came out too long
PER_RIVAL = 1536  # tokens of text per rival: a quarter of all segments of 384 tokens hold one


def in_text(
    make: Callable[..., Sample],
    material: Material,
    tokens: int,
    seed: int,
    depth: float | None = None,
    *,
    task: str,
    facts: int,
) -> Sample:
    """A sample that ``make(text, seed, depth)`` makes from a piece of the material, fitted to ``tokens`` tokens.

    ``facts``: how many sentences it adds at most.
    """
    over = 0
    while True:
        free = tokens - 96 - over - (0 if tokens <= EXACT else material.fact_tokens * facts)
        if free < 64:
            raise InputError(f"{tokens} tokens are too few for {task}: ask for {tokens + 64 - free} or more")
        text = material.haystack.take(free, random.Random(f"{task} {tokens} {seed}"))
        sample = replace(make(text, seed, depth), task=task)
        if tokens > EXACT:
            return sample
        asked = f"Question: {sample.question}\n"
        prompt = f"{asked}{sample.context}\n{asked}Answer: {sample.answer_prefix}"
        excess = material.count([prompt])[0] + sample.max_new_tokens + 8 - tokens
        if excess <= 0:
            return sample
        over += excess


def needle_task(
    material: Material, tokens: int, seed: int, depth: float | None = None, *, task: str, kind: str, facts: int = 1
) -> Sample:
    """One fact to find among ``facts`` of its kind."""

    def make(text: str, seed: int, depth: float | None) -> Sample:
        return needles(text, kind, facts=facts, depth=depth, seed=seed, split=material.split, words=material.words)

    return in_text(make, material, tokens, seed, depth, task=task, facts=facts)


def rival_task(
    material: Material, tokens: int, seed: int, depth: float | None = None, *, task: str, kind: str, decoys: bool
) -> Sample:
    """Hard negatives: facts of the same kind and attribute about other keys, one per 1,536 tokens but at least 7.

    ``decoys``: and sentences that repeat the question without an answer, and near misses.
    """
    rivals = max(7, tokens // PER_RIVAL)

    def make(text: str, seed: int, depth: float | None) -> Sample:
        return needles(
            text,
            kind,
            rivals=rivals,
            with_decoys=decoys,
            depth=depth,
            seed=seed,
            split=material.split,
            words=material.words,
        )

    return in_text(make, material, tokens, seed, depth, task=task, facts=rivals + 5)


def two_fact_task(material: Material, tokens: int, seed: int, depth: float | None = None, *, task: str) -> Sample:
    """A question that needs two facts from different places (``depth`` is not used)."""

    def make(text: str, seed: int, depth: float | None) -> Sample:
        return two_facts(text, seed=seed, split=material.split, words=material.words)

    return in_text(make, material, tokens, seed, depth, task=task, facts=2)


def several_value_task(material: Material, tokens: int, seed: int, depth: float | None = None, *, task: str) -> Sample:
    """Every value of a key that has three (``depth`` is not used)."""

    def make(text: str, seed: int, depth: float | None) -> Sample:
        return several_values(text, seed=seed, split=material.split, words=material.words)

    return in_text(make, material, tokens, seed, depth, task=task, facts=3)


def variable_task(material: Material, tokens: int, seed: int, depth: float | None = None, *, task: str) -> Sample:
    """Variables that hold a value by a chain of assignments (``depth`` is not used)."""

    def make(text: str, seed: int, depth: float | None) -> Sample:
        return variable_chain(text, seed=seed)

    return in_text(make, material, tokens, seed, depth, task=task, facts=5)


def key_value_task(material: Material, tokens: int, seed: int, depth: float | None = None, *, task: str) -> Sample:
    """The value of one key in a list of key-value pairs that fills the length."""
    trial = key_values(material.words, pairs=64, seed=seed)
    free = tokens - trial.max_new_tokens - 96
    pairs = int(free / material.count([trial.context])[0] * 64 * 0.97)
    if pairs < 1:
        raise InputError(f"{tokens} tokens are too few for {task}: ask for {tokens - free + 64} or more")
    return replace(key_values(material.words, pairs=pairs, depth=depth, seed=seed), task=task)


def _short(kind: str) -> str:
    return kind.replace(" ", "")


_TASKS: dict[str, Callable[..., Sample]] = {
    **{f"needle-{_short(kind)}": partial(needle_task, kind=kind) for kind in KINDS},
    **{f"eight-{_short(kind)}": partial(needle_task, kind=kind, facts=8) for kind in KINDS},
    **{f"rivals-{_short(kind)}": partial(rival_task, kind=kind, decoys=False) for kind in KINDS},
    **{f"decoys-{_short(kind)}": partial(rival_task, kind=kind, decoys=True) for kind in KINDS},
    "two-facts": two_fact_task,
    "several-values": several_value_task,
    "key-values": key_value_task,
    "variables": variable_task,
}
TASKS: dict[str, Task] = {**{name: partial(function, task=name) for name, function in _TASKS.items()}, **RULER}


def find_tasks(names: list[str]) -> dict[str, Task]:
    """The tasks of these names; a name may end in ``*`` for all that begin so.

    Raises:
        InputError: a name fits no task.
    """
    found: dict[str, Task] = {}
    for name in names:
        fitting = [task for task in TASKS if task == name or (name.endswith("*") and task.startswith(name[:-1]))]
        if not fitting:
            raise InputError(f"got task {name!r}, expected one of: {', '.join(TASKS)} (a name may end in *)")
        found |= {task: TASKS[task] for task in fitting}
    return found
