"""Training sequences of the bundled model: plain text, and text with facts followed by questions about them.

A row holds ``length + 1`` tokens and as many weights (in eighths). It is one stretch of plain text, or documents one
behind the other: <|bos|>, a context that begins anywhere in a work and holds facts, questions with answers, <|eos|>.
Everything comes from the train split of templates and words; a row follows from its seed alone.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass

import numpy as np
from bundled_data import BOS, EOS
from bundled_misses import near_misses
from bundled_phrases import TOKENS, find_phrases
from bundled_wide import Wide
from bundled_wording import attribute, invent, reword, verb
from bundled_wordings import read_forms

from npukv.evaluation.facts import KINDS, Fact, decoys, draw_fact, restate
from npukv.evaluation.pairs import ask_all, draw_pairs, join_questions
from npukv.evaluation.templates import ATTRIBUTES
from npukv.evaluation.variables import PREFIX as VARIABLES_PREFIX
from npukv.evaluation.variables import QUESTION as VARIABLES_QUESTION
from npukv.evaluation.variables import draw_chain
from npukv.evaluation.words import draw_key, draw_number, draw_uuid

# Loss weights in eighths. Novels' text counts in full where it stands alone; a context of facts is text that other rows
# show too; a question's weight makes it likelier where its fact is; answers are few tokens, and the aim.
PLAIN, ANSWER, END = 8, 64, 8

ABSENT = 0.13
SPLIT = "train"
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {values} for {key} is: {value}."
NEEDLE_HEAD = (
    "{some} special magic {values} {are} hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {values} afterwards."
)
NEEDLE_QUESTION = "What {are} the special magic {values} for {query} mentioned in the provided text?"
NEEDLE_PREFIX = "The special magic {values} for {query} mentioned in the provided text {are}"
VARIABLES_HEAD = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n"
COMMON_HEAD = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often."
)
COMMON_QUESTION = "What are the 10 most common words in the above list?"
COMMON_PREFIX = "The top 10 words that appear most often in the list are:"
CODED_HEAD = (
    "Read the following coded text and track the frequency of each coded word. "
    "Find the three most frequently appeared coded words."
)
CODED_QUESTION = (
    "Do not provide any explanation. Please ignore the dots '....'. "
    "What are the three most frequently appeared words in the above coded text?"
)
CODED_PREFIX = "According to the coded text above, the three most frequently appeared words are:"


@dataclass(frozen=True)
class Mix:
    """What rows are made of; shares of 1, weights in eighths."""

    plain_rows: float  # rows of nothing but text
    body: int  # weight of the text around facts
    question: int  # weight of a question
    reworded: float  # facts worded freely (bundled_wording); the others as the templates have it
    invented: float  # made-up words beside the real ones
    kin: float  # contexts whose keys share words
    paired: float  # questions for two facts at once
    several: float  # questions for all values of a key
    families: tuple[float, float, float, float, float]  # facts, needles, pairs, variables, common; the rest is coded
    wide: float = 0.0  # of the reworded facts, those in sentences of any form (bundled_wide)
    double: float = 0.0  # values of two words
    misses: float = 0.0  # facts asked for that have near misses and empty sentences in such forms beside them
    written: float = 0.04  # of those sentences, the ones whose forms were written by hand (bundled_wordings)


MIXES = {
    "listed": Mix(0.30, 2, 4, 0.0, 0.0, 0.30, 0.10, 0.06, (0.70, 0.12, 0.04, 0.06, 0.04)),
    "free": Mix(0.12, 1, 8, 0.85, 0.25, 0.45, 0.13, 0.08, (0.72, 0.11, 0.03, 0.07, 0.04)),
    "wide": Mix(0.16, 1, 8, 0.92, 0.40, 0.45, 0.12, 0.07, (0.74, 0.10, 0.03, 0.06, 0.04), 0.78, 0.04, 0.30),
    "written": Mix(0.16, 1, 8, 0.95, 0.40, 0.45, 0.12, 0.07, (0.74, 0.10, 0.03, 0.06, 0.04), 0.85, 0.04, 0.30, 0.65),
}


@dataclass
class Asked:
    question: str
    prefix: str
    answer: str


class Sequences:
    """Draws rows from an array of tokens (uint16), a tokenizer and a list of words."""

    def __init__(self, tokens: np.ndarray, tokenizer, words: list[str], mix: Mix = MIXES["free"]):  # type: ignore[no-untyped-def]
        self.mix = mix
        self.tokens = tokens
        self.tokenizer = tokenizer
        self.words = words + invent(random.Random("invented"), words, round(len(words) * mix.invented))
        if mix.wide or mix.misses:
            text = tokenizer.decode(tokens[:TOKENS].tolist())
            self.wide = Wide(find_phrases(text, words), self.words, mix.written)
            forms = read_forms()
            self.attributes = {kind: forms[f"ATTRIBUTES {kind}"] for kind in ATTRIBUTES}
            self.verbs = [tuple(line.split()) for line in forms["VERBS"]]
        # A token ends a sentence when its text ends in . ! ? or closing quotes after them.
        texts = [tokenizer.decode([i]).rstrip("\"'”’)") for i in range(tokenizer.get_vocab_size())]
        self.ends_sentence = np.array([text[-1:] in (".", "!", "?") for text in texts])
        starts = [tokenizer.id_to_token(i)[:1] in ("Ġ", "Ċ") for i in range(len(texts))]  # GPT-2's space and newline
        self.starts_word = np.array(starts)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def head(self, text: str) -> list[int]:
        """Line by line: newlines that end a string would merge, as they do not before more text."""
        return [i for line in text.splitlines(keepends=True) for i in self.ids(line)]

    def row(self, rng: random.Random, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (uint16) and weights (uint8), each [length + 1]."""
        ids: list[int] = []
        weights: list[int] = []
        room = length + 1
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

    def text(self, rng: random.Random, n: int) -> list[int]:
        start = rng.randrange(len(self.tokens) - n)
        return self.tokens[start : start + n].tolist()

    def _size(self, rng: random.Random, room: int) -> int:
        draw = rng.random()
        if draw < 0.5:
            # Not always to the end: else the place of "Answer:" there says whether the answer's beginning is given.
            return room - rng.randrange(96)
        if draw < 0.75:
            return min(room, rng.randrange(128, 640))
        return min(room, rng.choice((1024, rng.randrange(256, 2048))))

    def _document(self, rng: random.Random, size: int) -> tuple[list[int], list[int]]:
        draw = rng.random()
        families = self._facts, self._needles, self._pairs, self._variables, self._common
        for family, share in zip(families, self.mix.families, strict=True):
            if draw < share:
                return family(rng, size)
            draw -= share
        return self._coded(rng, size)

    # Joining a context and its questions

    def _tail(self, asked: list[Asked]) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        weights: list[int] = []
        for each in asked:
            tail = self.ids(f"\nQuestion: {each.question}\nAnswer:" + (f" {each.prefix}" if each.prefix else ""))
            answer = self.ids(f" {each.answer}.")
            ids += tail + answer
            # A long answer (four UUIDs) shall not outweigh a row's other answers.
            weights += [self.mix.question] * len(tail) + [max(8, min(ANSWER, 400 // len(answer)))] * len(answer)
        return [*ids, EOS], [*weights, END]

    def _join(self, context: list[int], asked: list[Asked]) -> tuple[list[int], list[int]]:
        tail, weights = self._tail(asked)
        return [BOS, *context, *tail], [self.mix.body] * (len(context) + 1) + weights

    def _splice(
        self, rng: random.Random, body: list[int], pieces: list[list[int]], ordered: bool = False
    ) -> tuple[list[int], list[int]]:
        """Pieces put after sentences of ``body`` (one time in five: between words); also the pieces' order in it."""
        array = np.array(body, dtype=np.int64)
        if rng.random() < 0.8:
            gaps = np.flatnonzero(self.ends_sentence[array[:-1]] & self.starts_word[array[1:]]) + 1
        else:
            gaps = np.flatnonzero(self.starts_word[array])
        places = gaps.tolist() or [len(body)]
        at = [rng.choice(places) for _ in pieces]
        if ordered:
            at.sort()
        order = sorted(range(len(pieces)), key=lambda i: (at[i], i))
        out: list[int] = []
        done = 0
        for i in order:
            out += body[done : at[i]] + pieces[i]
            done = at[i]
        return out + body[done:], order

    def _with_body(
        self, rng: random.Random, size: int, pieces: list[list[int]], tail: int, head: str = ""
    ) -> tuple[list[int], list[int]]:
        """A context of about ``size - tail`` tokens with ``pieces`` in it; also the pieces' order."""
        first = self.head(head + "\n") if head else []
        room = max(24, size - tail - 2 - len(first) - sum(map(len, pieces)))
        body = self.text(rng, room)
        if first:
            body = [i for i in body if i != EOS]
        context, order = self._splice(rng, body, pieces)
        return first + context, order

    def _in_noise(self, rng: random.Random, size: int, lines: list[str], tail: int, head: str = "") -> list[int]:
        """RULER's repeated sentences, with ``lines`` in their order among them."""
        noise = self.ids(NOISE + "\n")
        pieces = [self.ids(line + "\n") for line in lines]
        first = self.head(head + "\n") if head else []
        rows = max(1, (size - tail - 2 - len(first) - sum(map(len, pieces))) // len(noise))
        out, done = first, 0
        for at, piece in zip(sorted(rng.choices(range(rows + 1), k=len(pieces))), pieces, strict=True):
            out += noise * (at - done) + piece
            done = at
        return (out + noise * (rows - done))[:-1]

    # Families of documents

    def _facts(self, rng: random.Random, size: int) -> tuple[list[int], list[int]]:
        most = max(1, (size - 60) // 60)
        n = min(most, rng.choice((1, 1, 1, 2, 3, 4, 6, 8, 8, 12, 16, 20)))
        facts = self._draw_facts(rng, n)
        n = len(facts)  # few words make few keys
        asked: list[Asked] = []
        left_out: set[int] = set()
        multiple: list[tuple[int, int]] = []
        statements = [(i, fact.statement, fact.value) for i, fact in enumerate(facts)]
        questions = rng.sample(range(n), min(n, rng.choice((1, 1, 2, 4, 6, 8))))
        for i in questions:
            fact = facts[i]
            draw = rng.random()
            if draw < ABSENT:
                left_out.add(i)
            elif draw < ABSENT + self.mix.several and fact.key and fact.kind != "place":
                multiple.append((i, len(asked)))
                for _ in range(rng.randint(1, 3)):
                    value = rng.choice(self.words) if fact.kind == "word" else draw_number(rng, len(fact.value))
                    statements.append((i, restate(rng, fact, value, SPLIT).statement, value))
                asked.append(Asked(ask_all(fact), "", ""))
                continue
            elif draw < ABSENT + self.mix.several + self.mix.paired and n > 1:
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
        taken = {fact.key for fact in facts}
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

    def _draw_facts(self, rng: random.Random, n: int) -> list[Fact]:
        """Facts with different keys: of one kind and attribute, of one kind, or of any kind; keys may share words."""
        words = self.words
        style = rng.random()
        if n == 1:
            return [self._fact(rng, rng.choice(KINDS))]
        family = rng.sample(words, max(3, int(n**0.5) + 2)) if rng.random() < self.mix.kin else None
        kind = rng.choice(KINDS)
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
                other = self._fact(rng, rng.choice(KINDS), key)
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
        has = has or attribute(rng, kind, self.words)
        does = does or (verb(rng, self.words) if kind == "place" else None)
        value = (
            " ".join(rng.sample(self.words, 2))
            if kind in ("word", "place") and rng.random() < self.mix.double
            else None
        )
        fact = draw_fact(rng, kind, self.words, SPLIT, key=key, attribute=has, verb=does, value=value)
        if rng.random() < self.mix.reworded * self.mix.wide:
            return self.wide.reword(rng, fact)
        return reword(rng, fact, self.words) if rng.random() < self.mix.reworded else fact

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
        absent = not among and rng.random() < ABSENT
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
        return self._join(context, [Asked(COMMON_QUESTION, COMMON_PREFIX, answer)])

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
        return self._join(context, [Asked(CODED_QUESTION, CODED_PREFIX, ", ".join(words[1:4]))])
