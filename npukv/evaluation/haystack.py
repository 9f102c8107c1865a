"""Text of a wanted length in tokens, cut from a long one that is tokenised only once."""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Any

from npukv.errors import InputError

Count = Callable[[Sequence[str]], list[int]]  # token counts of strings, each tokenised on its own, no special tokens

BLOCK = 1000  # characters counted at a time
COUNTED = 1_000_000  # tokens up to which every line is counted
BATCH = 4096  # blocks per call of the tokenizer: keeps its output small at 20M tokens
GAP = re.compile(r"(?<=\S)\s(?=\S)")  # a lone space between words: tokenizers do not merge across it


def token_counter(tokenizer: Any) -> Count:
    """A ``Count`` for a transformers tokenizer."""

    def count(texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        # verbose=False: a string longer than the model's context is no mistake here
        return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]

    return count


class Haystack:
    """A long text from which pieces of a wanted number of tokens are cut.

    The text is tokenised in blocks of about 1,000 characters that end between words, and only as far as pieces need;
    afterwards a piece costs a look-up and one block. Block counts add up exactly for byte-level BPE; a tokenizer that
    marks the start of every string counts one token too many per block, so that pieces come out short, never long.

    Args:
        text: any text, at least one word.
        count: token counts of strings (see ``token_counter``).
    """

    def __init__(self, text: str, count: Count):
        if not text.strip():
            raise InputError("the text to cut samples from is empty: give a file with some words in it")
        self.text = text
        self.count = count
        self.borders = list(_borders(text))  # characters where blocks begin, and the text's end
        self.totals: list[int] = [0]  # tokens before each border counted so far

    def tokens(self) -> int:
        """Tokens in the whole text (counts all of it)."""
        self._count_blocks(len(self.borders) - 1)
        return self.totals[-1]

    def take(self, tokens: int, rng: random.Random) -> str:
        """A piece of at most ``tokens`` tokens from a random place: short of it by a word, or less than 1% if longer.

        A text that is too short is repeated, from a random place on.
        """
        if tokens <= 0:
            raise InputError(f"a piece of {tokens} tokens was asked for: expected at least 1")
        blocks = len(self.borders) - 1
        # Guess from characters whether the whole text is needed, so that short pieces never count all of it.
        short = tokens > len(self.text) / 8 and self.tokens() <= tokens
        start = rng.randrange(blocks) if short else rng.randint(0, self._last_start(tokens))
        parts: list[str] = []
        first = self.text[self.borders[start] : self.borders[start + 1]]
        bare, spaced = self.count([first.lstrip(), first])  # a word that lost its space may take more tokens
        left = tokens - max(0, bare - spaced)
        while left > 0:
            end = self._end(start, left)
            parts.append(self.text[self.borders[start] : self.borders[end]])
            left -= self.totals[end] - self.totals[start]
            if end < blocks:
                parts.append(self._start_of(self.text[self.borders[end] : self.borders[end + 1]], left))
                break
            start = 0  # from the beginning again
            parts.append("\n")
            left -= 1
        return "".join(parts).strip()

    def _end(self, start: int, tokens: int) -> int:
        """The last border at most ``tokens`` tokens behind border ``start``."""
        blocks = len(self.borders) - 1
        end = start
        while True:
            self._count_blocks(min(blocks, end + 64))
            end = bisect_right(self.totals, self.totals[start] + tokens) - 1
            if end < len(self.totals) - 1 or end == blocks:
                return end

    def _last_start(self, tokens: int) -> int:
        """The last block from which ``tokens`` tokens follow, guessed low from the first blocks."""
        self._count_blocks(min(len(self.borders) - 1, 64))
        counted = len(self.totals) - 1
        per_token = self.borders[counted] / max(1, self.totals[-1])
        if tokens * per_token * 1.5 < len(self.text):
            return max(0, bisect_right(self.borders, len(self.text) - tokens * per_token * 1.5) - 1)
        spare = self.tokens() - tokens
        return max(0, bisect_right(self.totals, spare) - 1)

    def _count_blocks(self, blocks: int) -> None:
        while len(self.totals) <= blocks:
            first = len(self.totals) - 1
            last = min(blocks, first + BATCH)
            texts = [self.text[self.borders[i] : self.borders[i + 1]] for i in range(first, last)]
            self.totals += list(accumulate(self.count(texts), initial=self.totals[-1]))[1:]

    def _start_of(self, text: str, tokens: int) -> str:
        """The longest start of ``text`` that ends between words and has at most ``tokens`` tokens."""
        gaps = [0, *(gap.start() for gap in GAP.finditer(text)), len(text)]
        low, high = 0, len(gaps) - 1  # text[:gaps[low]] fits
        while low < high:
            middle = (low + high + 1) // 2
            if self.count([text[: gaps[middle]]])[0] <= tokens:
                low = middle
            else:
                high = middle - 1
        return text[: gaps[low]]


def _borders(text: str) -> Iterator[int]:
    at = 0
    while at < len(text):
        yield at
        gap = GAP.search(text, at + BLOCK)
        at = gap.start() if gap else len(text)
    yield len(text)


def fill(lines: Iterator[str], tokens: int, count: Count, separator: str = "\n") -> list[str]:
    """Lines drawn until they hold ``tokens`` tokens: never more and short of it by a line, or within 1% if very long.

    Every line is counted up to a million tokens; beyond, one in sixteen, so that 20 million tokens cost little more.
    """
    kept: list[str] = []
    used = 0.0
    while used < COUNTED:
        batch = list(islice(lines, 64 if len(kept) < 4096 else 4096))
        if not batch:
            return kept
        for line, size in zip(batch, count([separator + line for line in batch]), strict=True):
            if used + size > tokens:
                return kept
            kept.append(line)
            used += size
    wanted = used + 0.995 * (tokens - used)
    while used < wanted:
        batch = list(islice(lines, 4096))
        if not batch:
            break
        counted = batch[::16]
        mean = sum(count([separator + line for line in counted])) / len(counted)
        batch = batch[: int((wanted - used) / mean)]
        if not batch:
            break
        kept += batch
        used += mean * len(batch)
    return kept
