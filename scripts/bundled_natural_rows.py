"""Training documents of facts as people write them (bundled_natural), among others like them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from bundled_documents import Asked
from bundled_mixes import Mix
from bundled_natural import Fillers, Relation, kind_of, put_in, read_relations, slots
from bundled_ruler import RulerDocuments


@dataclass
class Told:
    """A relation, what fills its slots, and the statement that tells it."""

    relation: Relation
    filled: dict[str, str]
    statement: str

    def asks_the_same(self, question: str, other: Told) -> bool:
        """Whether the question about this one could as well be meant for the other."""
        return self.relation is other.relation and all(
            self.filled[each] == other.filled[each] for each in slots(question)
        )


class NaturalDocuments(RulerDocuments):
    """Documents with such facts, where the mix has any."""

    def __init__(self, tokens: np.ndarray, tokenizer, mix: Mix):  # type: ignore[no-untyped-def]
        super().__init__(tokens, tokenizer, mix)
        if mix.natural or mix.beside:
            self.relations, self.pools = read_relations()

    def _tell(self, rng: random.Random, relation: Relation, given: dict[str, str] | None = None) -> Told:
        filled = Fillers(self.pools, self.words).fill(rng, relation, given)
        return Told(relation, filled, put_in(rng.choice(relation.statements), filled))

    def _another(self, rng: random.Random, told: Told) -> Told:
        """The same relation of others: all different, or with one of its slots alone changed."""
        if rng.random() < 0.5:
            return self._tell(rng, told.relation)
        changed = rng.sample(sorted(told.filled), min(len(told.filled), rng.choice((1, 1, 2))))
        kept = {slot: value for slot, value in told.filled.items() if slot not in changed}
        return self._tell(rng, told.relation, kept)

    def _of_the_same(self, rng: random.Random, told: Told) -> Told:
        """Another relation in which someone or something of this one stands."""
        relation = rng.choice(self.relations)
        for _ in range(6):
            every = {slot for text in relation.statements for slot in slots(text)}
            shared = [(slot, mine) for slot in sorted(every) for mine in sorted(told.filled)
                      if kind_of(slot) == kind_of(mine)]  # fmt: skip
            if shared:
                slot, mine = rng.choice(shared)
                return self._tell(rng, relation, {slot: told.filled[mine]})
            relation = rng.choice(self.relations)
        return self._tell(rng, relation)

    def _draw_told(self, rng: random.Random, n: int) -> list[Told]:
        told = [self._tell(rng, rng.choice(self.relations))]
        style = rng.random()
        while len(told) < n:
            draw, one = rng.random(), rng.choice(told)
            if draw < (0.8 if style < 0.2 else 0.25):
                told.append(self._another(rng, one))
            elif draw < (0.9 if style < 0.2 else 0.45):
                told.append(self._of_the_same(rng, one))
            else:
                told.append(self._tell(rng, rng.choice(self.relations)))
        return told

    def _beside(self, rng: random.Random) -> list[str]:
        """One to three such statements that nothing is asked about."""
        return [self._tell(rng, rng.choice(self.relations)).statement for _ in range(rng.choice((1, 1, 2, 3)))]

    def _natural(self, rng: random.Random, size: int) -> tuple[list[int], list[int]]:
        """A document about so many tokens long: ids and weights, as `Documents._join` gives them."""
        n = max(1, min((size - 60) // 70, rng.choice(self.mix.facts)))
        told = self._draw_told(rng, n)
        asked: dict[str, Asked] = {}
        about: set[int] = set()
        for i in [rng.randrange(n) for _ in range(min(n + 1, rng.choice(self.mix.questions)))]:
            one = told[i]
            slot, question = rng.choice(one.relation.questions)
            if not any(one.asks_the_same(question, other) for other in told if other is not one):
                text = put_in(question, one.filled)
                asked.setdefault(text, Asked(text, "", one.filled[slot]))
                about.add(i)
        # Of a fact as of all others once, however many questions ask for it.
        left_out = {i for i in sorted(about) if rng.random() < self.mix.absent}
        shown = [each.statement for i, each in enumerate(told) if i not in left_out]
        # Beside a fact that is not there others may have what is asked for, as in other families.
        shown += [
            self._tell(rng, told[i].relation).statement for i in sorted(left_out) if rng.random() < self.mix.alone
        ]
        pieces = [self.ids(" " + statement) for statement in shown]
        tail = sum(len(self.ids(each.question)) + 20 for each in asked.values()) + 8
        context, _ = self._with_body(rng, size, pieces, tail)
        return self._join(context, list(asked.values()))
