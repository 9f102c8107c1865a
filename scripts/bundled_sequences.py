"""Training sequences of the bundled model: plain text, and text with facts followed by questions about them.

A row holds ``length + 1`` tokens and as many weights (in eighths). It is one stretch of plain text, or documents one
behind the other: <|bos|>, a context that begins anywhere in a work and holds facts, questions with answers, <|eos|>.
Everything comes from the train split of templates and words; a row follows from its seed alone.
"""

from __future__ import annotations

import random

import numpy as np
from bundled_data import BOS
from bundled_documents import PLAIN, Asked
from bundled_misses import near_misses
from bundled_mixes import MIXES, Mix
from bundled_natural_rows import NaturalDocuments
from bundled_phrases import TOKENS, find_phrases
from bundled_wide import Wide
from bundled_wording import attribute, beginnings, coin, invent, reword, verb
from bundled_wordings import read_forms

from npukv.evaluation.facts import Fact, decoys, draw_fact, restate
from npukv.evaluation.pairs import ask_all, join_questions
from npukv.evaluation.templates import ATTRIBUTES
from npukv.evaluation.words import draw_key, draw_number

SPLIT = "train"
FRESH = 64  # coined words of a row: more than it takes


class Sequences(NaturalDocuments):
    """Draws rows from an array of tokens (uint16), a tokenizer and a list of words."""

    def __init__(self, tokens: np.ndarray, tokenizer, words: list[str], mix: Mix = MIXES["free"]):  # type: ignore[no-untyped-def]
        super().__init__(tokens, tokenizer, mix)
        self.words = words + invent(random.Random("invented"), words, round(len(words) * mix.invented))
        self.given = len(self.words)  # what stands behind them is coined
        self.begins = beginnings(tokenizer) if mix.coined else []
        self.words += coin(random.Random("coined"), tokenizer, self.begins, words, round(len(words) * mix.coined))
        if mix.wide or mix.misses:
            text = tokenizer.decode(tokens[:TOKENS].tolist())
            self.wide = Wide(find_phrases(text, words), self.words, mix)
            forms = read_forms()
            self.attributes = {kind: forms[f"ATTRIBUTES {kind}"] for kind in ATTRIBUTES}
            self.verbs = [tuple(line.split()) for line in forms["VERBS"]]

    def row(self, rng: random.Random, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (uint16) and weights (uint8), each [length + 1]."""
        ids: list[int] = []
        weights: list[int] = []
        room = length + 1
        if self.mix.fresh:
            self._coin_anew(rng)
        if rng.random() >= self.mix.plain_rows:
            while room >= 160:
                size = self._size(rng, room)
                for _ in range(8):
                    document = self._document(rng, size)
                    if len(document[0]) <= room:
                        ids += document[0]
                        weights += document[1]
                        break
                    size = max(128, size - 64)
                else:
                    break
                room = length + 1 - len(ids)
        if room > 0:
            ids += [BOS, *self.text(rng, room - 1)]
            weights += [PLAIN] * room
        return np.array(ids, dtype=np.uint16), np.array(weights, dtype=np.uint8)

    def _coin_anew(self, rng: random.Random) -> None:
        """Other coined words, as many as before: of the same ones all the time a model learns how each goes on."""
        count = len(self.words) - self.given
        begins = rng.sample(self.begins, min(FRESH, len(self.begins)))
        made = coin(rng, self.tokenizer, begins, self.words[: self.given], FRESH)
        if made:
            self.words[self.given :] = (made * (count // len(made) + 1))[:count]

    def _size(self, rng: random.Random, room: int) -> int:
        draw = rng.random()
        if draw < 0.5:
            # Not always to the end: else the place of "Answer:" there says whether the answer's beginning is given.
            return room - rng.randrange(96)
        if draw < 0.75:
            return min(room, rng.randrange(128, 640))
        return min(room, rng.choice((1024, rng.randrange(256, 2048))))

    def _document(self, rng: random.Random, size: int) -> tuple[list[int], list[int]]:
        self.ahead = 0
        if self.mix.ahead and rng.random() < self.mix.ahead:
            self.ahead = rng.choice(self.mix.before)
            if rng.random() < self.mix.clipped:
                size = min(size, rng.randrange(192, 640))
            size = max(128, size - 22 * self.ahead)
        if self.mix.natural and rng.random() < self.mix.natural:
            return self._natural(rng, size)
        draw = rng.random()
        families = self._facts, self._needles, self._pairs, self._variables, self._common
        for family, share in zip(families, self.mix.families, strict=True):
            if draw < share:
                return family(rng, size)
            draw -= share
        return self._coded(rng, size)

    # Families of documents

    def _facts(self, rng: random.Random, size: int) -> tuple[list[int], list[int]]:
        most = max(1, (size - 60) // 60)
        n = min(most, rng.choice(self.mix.facts))
        facts = self._draw_facts(rng, n)
        n = len(facts)  # few words make few keys
        asked: list[Asked] = []
        left_out: set[int] = set()
        multiple: list[tuple[int, int]] = []
        absent = self.mix.absent
        statements = [(i, fact.statement, fact.value) for i, fact in enumerate(facts)]
        questions = rng.sample(range(n), min(n, rng.choice(self.mix.questions)))
        for i in questions:
            fact = facts[i]
            draw = rng.random()
            if draw < absent:
                left_out.add(i)
            elif draw < absent + self.mix.several and fact.key and fact.kind != "place":
                multiple.append((i, len(asked)))
                for _ in range(rng.randint(1, 3)):
                    value = rng.choice(self.words) if fact.kind == "word" else draw_number(rng, len(fact.value))
                    statements.append((i, self._reword(rng, restate(rng, fact, value, SPLIT)).statement, value))
                asked.append(Asked(ask_all(fact), "", ""))
                continue
            elif draw < absent + self.mix.several + self.mix.paired and n > 1:
                other = rng.choice([j for j in range(n) if j != i])
                asked.append(Asked(join_questions(fact, facts[other]), "", f"{fact.value}, {facts[other].value}"))
                continue
            question, prefix = fact.question, fact.prefix if rng.random() < 0.4 else ""
            asked.append(Asked(question, prefix, fact.value))
        shown = [statement for statement in statements if statement[0] not in left_out]
        if rng.random() < 0.3:
            for fact in rng.sample(facts, min(len(facts), 2)):
                close = decoys(rng, fact, self.words, SPLIT)
                shown += [(-1, text, "") for text in rng.sample(close, rng.randint(1, 3))]
        if self.mix.beside and rng.random() < self.mix.beside:
            shown += [(-1, text, "") for text in self._beside(rng)]
        taken = {fact.key for fact in facts}
        for i in sorted(left_out) if self.mix.alone else ():
            if facts[i].key and rng.random() < self.mix.alone and len(shown) < most:
                shown += [(-1, text, "") for text in self._others(rng, facts[i], taken)]
        for i in questions if self.mix.misses else ():
            if rng.random() < self.mix.misses and len(shown) < most:
                shown += [
                    (-1, text, "")
                    for text in near_misses(rng, facts[i], taken, self.words, self._fact, self.wide.empty)
                ]
        pieces = [self.ids(" " + text) for _, text, _ in shown]
        tail = sum(len(self.ids(each.question)) + len(self.ids(each.prefix)) + 20 for each in asked) + 8
        context, order = self._with_body(rng, size, pieces, tail)
        for i, position in multiple:
            values = [shown[j][2] for j in order if shown[j][0] == i]  # in the order of the text
            asked[position].answer = ", ".join(dict.fromkeys(values))
        return self._join(context, asked)

    def _others(self, rng: random.Random, fact: Fact, taken: set[str]) -> list[str]:
        """One to three statements that give the fact's attribute to keys that are none of the ``taken``."""
        keys = {draw_key(rng, self.words) for _ in range(rng.choice((1, 1, 2, 3)))} - taken
        return [self._fact(rng, fact.kind, key, like=fact).statement for key in sorted(keys)]

    def _draw_facts(self, rng: random.Random, n: int) -> list[Fact]:
        """Facts with different keys: of one kind and attribute, of one kind, or of any kind; keys may share words."""
        words = self.words
        style = rng.random()
        if n == 1:
            return [self._fact(rng, rng.choice(self.mix.kinds))]
        family = rng.sample(words, max(3, int(n**0.5) + 2)) if rng.random() < self.mix.kin else None
        kind = rng.choice(self.mix.kinds)
        first = self._fact(rng, kind, draw_key(rng, family or words))
        facts = [first]
        taken = {first.key}
        for _ in range(n * 4):
            if len(facts) == n:
                break
            key = draw_key(rng, family or words)
            if key in taken and rng.random() < 0.9:
                continue
            same = key in taken  # the same key with another attribute
            taken.add(key)
            if style < 0.35 and not same:
                facts.append(self._fact(rng, kind, key, like=first))
            elif style < 0.65 and not same:
                facts.append(self._fact(rng, kind, key))
            else:
                other = self._fact(rng, rng.choice(self.mix.kinds), key)
                if all((other.key, other.attribute) != (fact.key, fact.attribute) for fact in facts):
                    facts.append(other)
        return facts

    def _fact(self, rng: random.Random, kind: str, key: str | None = None, like: Fact | None = None) -> Fact:
        """A fact of the lists or in free variation; ``like`` gives attribute and verb."""
        has, does = (like.attribute, like.verb) if like else (None, None)
        if not self.mix.reworded:
            return draw_fact(rng, kind, self.words, SPLIT, key=key, attribute=has, verb=does)
        if self.mix.wide and rng.random() < 0.05:
            has = has or (rng.choice(self.attributes[kind]) if self.attributes.get(kind) else None)
            does = does or (rng.choice(self.verbs) if kind == "place" and self.verbs else None)
        has = has or attribute(rng, kind, self.words, self.mix.swapped)
        does = does or (verb(rng, self.words) if kind == "place" else None)
        value = (
            " ".join(rng.sample(self.words, 2))
            if kind in ("word", "place") and rng.random() < self.mix.double
            else None
        )
        fact = draw_fact(rng, kind, self.words, SPLIT, key=key, attribute=has, verb=does, value=value)
        return self._reword(rng, fact)

    def _reword(self, rng: random.Random, fact: Fact) -> Fact:
        """The same fact in free variation, or as it is."""
        if not self.mix.reworded:
            return fact
        if rng.random() < self.mix.reworded * self.mix.wide:
            return self.wide.reword(rng, fact)
        return reword(rng, fact, self.words) if rng.random() < self.mix.reworded else fact
