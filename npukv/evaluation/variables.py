"""Variable tracking: chains of assignments spread over a text (after RULER, arXiv 2404.06654)."""

from __future__ import annotations

import random
import string
from itertools import pairwise

from npukv.errors import InputError
from npukv.evaluation.sample import Sample
from npukv.evaluation.splice import splice

QUESTION = "Find all variables that are assigned the value {value} in the text above."
PREFIX = (
    "According to the chain(s) of variable assignment in the text above, {n} variables are assigned the value "
    "{value}, they are:"
)


def draw_chain(rng: random.Random, variables: int) -> tuple[list[str], str, list[str]]:
    """Names, value, and statements of a chain: "VAR ABCDE = 12345", "VAR FGHIJ = VAR ABCDE", ..."""
    names: list[str] = []
    while len(names) < variables:
        name = "".join(rng.choices(string.ascii_uppercase, k=5))
        if name not in names:
            names.append(name)
    value = str(rng.randrange(10_000, 100_000))
    links = [f"VAR {later} = VAR {earlier}" for earlier, later in pairwise(names)]
    return names, value, [f"VAR {names[0]} = {value}", *links]


def variable_chain(text: str, *, variables: int = 5, chains: int = 1, seed: int = 0) -> Sample:
    """Chains of assignments in the order they must be read, spliced into ``text``; one chain's variables are asked for.

    Raises:
        InputError: fewer than one variable or chain.
    """
    if variables < 1 or chains < 1:
        raise InputError(f"{chains} chains of {variables} variables were asked for: expected at least 1 of each")
    rng = random.Random(f"variables {variables} {chains} {seed}")
    drawn = [draw_chain(rng, variables) for _ in range(chains)]
    sentences, depths, mine = [], [], []
    for number, (_, _, statements) in enumerate(drawn):
        for depth, statement in zip(sorted(rng.random() for _ in statements), statements, strict=True):
            mine.append(number == 0)
            sentences.append(statement + ".")
            depths.append(depth)
    context, spans = splice(text, sentences, rng, depths)
    names, value, _ = drawn[0]
    return Sample(
        task="variables",
        context=context,
        question=QUESTION.format(value=value),
        answers=tuple(names),
        evidence=tuple(sorted(span for span, own in zip(spans, mine, strict=True) if own)),
        answer_prefix=PREFIX.format(n=len(names), value=value),
        max_new_tokens=64,
        meta={"seed": seed, "variables": variables, "chains": chains},
    )
