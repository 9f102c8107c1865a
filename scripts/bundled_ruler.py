"""Training documents in the manner of RULER's tasks, and key-value pairs."""

from __future__ import annotations

import random
import string

from bundled_documents import Asked, Documents

from npukv.evaluation.pairs import draw_pairs
from npukv.evaluation.ruler import (
    CODED_ANSWER,
    CODED_HEAD,
    CODED_QUESTION,
    COMMON_ANSWER,
    COMMON_HEAD,
    COMMON_QUESTION,
    NEEDLE,
    VARIABLES_HEAD,
)
from npukv.evaluation.variables import PREFIX as VARIABLES_PREFIX
from npukv.evaluation.variables import QUESTION as VARIABLES_QUESTION
from npukv.evaluation.variables import draw_chain
from npukv.evaluation.words import draw_key, draw_number, draw_uuid

# As RULER's own, but in the singular where one value is asked for.
NEEDLE_HEAD = (
    "{some} special magic {values} {are} hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {values} afterwards."
)
NEEDLE_QUESTION = "What {are} the special magic {values} for {query} mentioned in the provided text?"
NEEDLE_PREFIX = "The special magic {values} for {query} mentioned in the provided text {are}"


class RulerDocuments(Documents):
    """Needles, pairs, chains of variables, common and coded words, of ``words``."""

    words: list[str]

    def _needles(self, rng: random.Random, size: int) -> tuple[list[int], list[int]]:
        """RULER's needle tasks: several keys, values or queries, in text, in noise, or among other needles."""
        uuids = rng.random() < 0.3
        values = "uuids" if uuids else "numbers"
        each = 70 if uuids else 32
        most = max(1, (size - 160) // each)
        among = rng.random() < 0.35
        n = most if among else min(most, rng.choice((1, 1, 2, 4, 4, 8)))
        key_uuids = uuids and rng.random() < 0.5
        if key_uuids:
            n = max(1, min(n, (size - 160) // 100))
        keys = [draw_uuid(rng) if key_uuids else draw_key(rng, self.words, 0.8) for _ in range(n)]
        keys = list(dict.fromkeys(keys))
        draw = rng.random()
        asked_keys = keys[: 4 if draw < 0.2 and size > 400 else 1]
        per_key = rng.randint(2, 4) if 0.2 <= draw < 0.4 and size > 400 else 1
        stated: list[tuple[str, str]] = []
        absent = not among and rng.random() < self.mix.absent
        for key in keys:
            for _ in range(per_key if key in asked_keys else 1):
                stated.append((key, draw_uuid(rng) if uuids else draw_number(rng, rng.choice((5, 6, 7, 7)))))
        rng.shuffle(stated)
        shown = [] if absent else stated
        lines = [NEEDLE.format(values=values, key=key, value=value) for key, value in shown]
        one = len(asked_keys) * per_key == 1
        query = asked_keys[0] if len(asked_keys) == 1 else ", ".join(asked_keys[:-1]) + ", and " + asked_keys[-1]
        words = {"values": values[:-1] if one else values, "query": query, "are": "is" if one else "are"}
        question = NEEDLE_QUESTION.format(**words)
        if not one:
            question = question.replace("are the", "are all the")
        head = NEEDLE_HEAD.format(some="A" if one else "Some", **words) if rng.random() < 0.7 else ""
        asked = Asked(question, NEEDLE_PREFIX.format(**words) if rng.random() < 0.7 else "", "")
        order = list(range(len(stated)))
        tail = len(self.ids(asked.question + asked.prefix)) + 16 + len(asked_keys) * per_key * (each // 2)
        if among and not absent:
            context = self.head("\n".join([head, *lines] if head else lines))
        elif rng.random() < 0.35:
            context = self._in_noise(rng, size, lines, tail, head)
        else:
            context, places = self._with_body(rng, size, [self.ids(" " + line) for line in lines], tail, head)
            order = places or order
        answers = [stated[j][1] for key in asked_keys for j in order if stated[j][0] == key]
        asked.answer = ", ".join(answers)
        return self._join(context, [asked])

    def _pairs(self, rng: random.Random, size: int) -> tuple[list[int], list[int]]:
        uuids = rng.random() < 0.4
        n = max(1, min(rng.choice((4, 8, 16, 32, 48)), (size - 120) // (75 if uuids else 24)))
        pairs = draw_pairs(rng, n, self.words, uuids)
        context = self.head("".join(f'"{key}": "{value}",\n' for key, value in pairs.items()))
        asked = [Asked(f'What is the value of "{key}"?', "", pairs[key]) for key in rng.sample(list(pairs), min(n, 2))]
        return self._join(context, asked)

    def _variables(self, rng: random.Random, size: int) -> tuple[list[int], list[int]]:
        chains = [draw_chain(rng, rng.randint(2, 5)) for _ in range(rng.choice((1, 1, 2) if size > 400 else (1,)))]
        asked = []
        for names, value, _ in chains:
            prefix = VARIABLES_PREFIX.format(n=len(names), value=value) if rng.random() < 0.8 else ""
            asked.append(Asked(VARIABLES_QUESTION.format(value=value), prefix, ", ".join(names)))
        rng.shuffle(asked)
        statements = [iter(chain[2]) for chain in chains]
        turns = [i for i, chain in enumerate(chains) for _ in chain[2]]
        rng.shuffle(turns)
        lines = [next(statements[i]) for i in turns]
        head = VARIABLES_HEAD if rng.random() < 0.6 else ""
        tail = 110 * len(chains) + 20
        if rng.random() < 0.6:
            context = self._in_noise(rng, size, lines, tail, head)
        else:
            pieces = [self.ids(f" {line}.") for line in lines]
            room = max(24, size - tail - 16 * len(lines))
            context, _ = self._splice(rng, self.text(rng, room), pieces, ordered=True)
            context = (self.head(head + "\n") if head else []) + context
        return self._join(context, asked)

    def _common(self, rng: random.Random, size: int) -> tuple[list[int], list[int]]:
        """A numbered list in which ten words come often, the others seldom."""
        seldom = rng.randint(1, 3)
        often = rng.randint(seldom * 2 + 1, 12)
        entries = (size - 110) // 7
        often = min(often, max(2, entries // 14))
        seldom = min(seldom, max(1, often // 2 - 1))
        common = rng.sample(self.words, 10)
        words = common * often
        while len(words) < entries - seldom:
            words += [rng.choice(self.words)] * seldom
        rng.shuffle(words)
        listed = " ".join(f"{i}. {word}" for i, word in enumerate(words, start=1))
        answer = ", ".join(word for word in dict.fromkeys(words) if word in common)
        context = self.head(f"{COMMON_HEAD}\n{listed}")
        return self._join(context, [Asked(COMMON_QUESTION, COMMON_ANSWER, answer)])

    def _coded(self, rng: random.Random, size: int) -> tuple[list[int], list[int]]:
        """Made-up words whose frequencies fall as a power of their rank; the most frequent is dots."""
        kinds = max(8, size // 50)
        words = ["....", *("".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(kinds - 1))]
        shares = [rank ** -rng.uniform(1.6, 2.2) for rank in range(1, kinds + 1)]
        total = (size - 110) // 4
        counts = [max(1, round(total * share / sum(shares))) for share in shares]
        if not counts[1] > counts[2] > counts[3] > counts[4]:
            counts = [counts[0], 8, 6, 4, *[1] * (kinds - 4)]
        text = [word for word, times in zip(words, counts, strict=True) for _ in range(times)]
        rng.shuffle(text)
        context = self.ids(CODED_HEAD + " " + " ".join(text))
        return self._join(context, [Asked(CODED_QUESTION, CODED_ANSWER, ", ".join(words[1:4]))])
