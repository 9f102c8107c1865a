"""A document of the bundled model's training: <|bos|>, a context, questions with answers, <|eos|>, and its weights."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from bundled_data import BOS, EOS
from bundled_mixes import Mix

from npukv.evaluation.ruler import NOISE

# Loss weights in eighths. Novels' text counts in full where it stands alone; a context of facts is text that other rows
# show too; a question's weight makes it likelier where its fact is; answers are few tokens, and the aim.
PLAIN, ANSWER, END = 8, 64, 8


@dataclass
class Asked:
    question: str
    prefix: str
    answer: str


class Documents:
    """Joins contexts and questions; from an array of tokens (uint16), a tokenizer and a mix."""

    def __init__(self, tokens: np.ndarray, tokenizer, mix: Mix):  # type: ignore[no-untyped-def]
        self.mix, self.tokens, self.tokenizer = mix, tokens, tokenizer
        self.ahead = 0  # of a document's questions, so many stand before its context, too
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

    def text(self, rng: random.Random, n: int) -> list[int]:
        start = rng.randrange(len(self.tokens) - n)
        return self.tokens[start : start + n].tolist()

    def _tail(self, asked: list[Asked]) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        weights: list[int] = []
        for each in asked:
            asking = self.ids(f"\nQuestion: {each.question}\nAnswer:")
            # No weight: a model that has learnt that beginnings follow "Answer:" gives one wherever it is unsure.
            begun = self.ids(f" {each.prefix}") if each.prefix else []
            answer = self.ids(f" {each.answer}.")
            ids += asking + begun + answer
            # A long answer (four UUIDs) shall not outweigh a row's other answers.
            weights += [self.mix.question] * len(asking) + [0] * len(begun)
            weights += [max(8, min(ANSWER, 400 // len(answer)))] * len(answer)
        return [*ids, EOS], [*weights, END]

    def _join(self, context: list[int], asked: list[Asked]) -> tuple[list[int], list[int]]:
        tail, weights = self._tail(asked)
        # No weight: nothing says what will be asked.
        ahead = [i for each in asked[: self.ahead] for i in self.ids(f"Question: {each.question}\n")]
        body = [self.mix.body] * (len(context) + 1)
        return [BOS, *ahead, *context, *tail], [body[0], *[0] * len(ahead), *body[1:], *weights]

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
