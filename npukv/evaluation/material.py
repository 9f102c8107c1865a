"""What tasks are made of: a text, its words, token counts, and the user's question sets."""

from __future__ import annotations

import json
import lzma
import math
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from npukv.errors import InputError
from npukv.evaluation.facts import KINDS, draw_fact
from npukv.evaluation.haystack import Count, Haystack, token_counter
from npukv.evaluation.words import check_split, word_pool


@dataclass(frozen=True)
class Asked:
    """One question of a user's question set: its answers, and the numbers of the documents that hold them."""

    question: str
    answers: tuple[str, ...]
    documents: tuple[int, ...]


class Material:
    """Everything a task draws from.

    Args:
        text: the haystack, any text.
        tokenizer: of the model to be judged; lengths are in its tokens.
        split: "held-out" or "train": which words, and which templates of facts, are used.
        documents: folder with RULER's question sets, squad*.json and hotpotqa*.json (also .xz), or None. They are not
            part of npukv: their licence (CC BY-SA 4.0) differs.
    """

    def __init__(self, text: str, tokenizer: Any, *, split: str = "held-out", documents: Path | None = None):
        self.tokenizer = tokenizer
        self.count: Count = token_counter(tokenizer)
        self.haystack = Haystack(text, self.count)
        self.split = check_split(split)
        self.folder = documents
        self._questions: dict[str, tuple[list[Asked], list[str]]] = {}

    @cached_property
    def words(self) -> list[str]:
        """The split's words of the text: lower-case, 4 to 10 letters, sorted."""
        words = word_pool(self.haystack.text, self.split)
        if len(words) < 32:
            raise InputError(
                f"the text has {len(words)} usable {self.split} words: expected at least 32, give more text"
            )
        return words

    @cached_property
    def fact_tokens(self) -> int:
        """Tokens to set aside for the statement of a fact: the mean over some of all kinds, and a fifth more."""
        rng = random.Random("fact tokens")
        drawn = [draw_fact(rng, kind, self.words, self.split) for kind in KINDS for _ in range(16)]
        return math.ceil(1.2 * sum(self.count([fact.statement for fact in drawn])) / len(drawn))

    def questions(self, source: str) -> tuple[list[Asked], list[str]]:
        """Questions and all documents of a question set ("squad" or "hotpotqa").

        Raises:
            InputError: no folder was given, or it lacks the set.
        """
        if source not in self._questions:
            if self.folder is None:
                raise InputError(f"needs the {source} question set: give its folder (--documents DIR)")
            found = sorted(Path(self.folder).glob(f"{source}*json*"))
            if not found:
                raise InputError(
                    f"no {source}*.json or {source}*.json*.xz in {self.folder}: put the question set there"
                )
            self._questions[source] = _READERS[source](_read_json(found[0]))
        return self._questions[source]


def _read_json(path: Path) -> Any:
    try:
        if path.suffix == ".xz":
            with lzma.open(path, "rt", encoding="utf-8") as file:
                return json.load(file)
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, lzma.LZMAError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): give the question set as published") from error


def _squad(data: Any) -> tuple[list[Asked], list[str]]:
    numbers: dict[str, int] = {}
    asked = []
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            number = numbers.setdefault(paragraph["context"], len(numbers))
            for entry in paragraph["qas"]:
                answers = tuple(dict.fromkeys(answer["text"] for answer in entry["answers"]))
                if answers and not entry.get("is_impossible"):
                    asked.append(Asked(entry["question"], answers, (number,)))
    return asked, list(numbers)


def _hotpotqa(data: Any) -> tuple[list[Asked], list[str]]:
    numbers: dict[str, int] = {}
    asked = []
    for entry in data:
        texts = {title: f"{title}\n{''.join(sentences)}" for title, sentences in entry["context"]}
        for text in texts.values():
            numbers.setdefault(text, len(numbers))
        titles = dict.fromkeys(title for title, _ in entry["supporting_facts"])
        own = tuple(numbers[texts[title]] for title in titles if title in texts)
        asked.append(Asked(entry["question"], (entry["answer"],), own))
    return asked, list(numbers)


_READERS = {"squad": _squad, "hotpotqa": _hotpotqa}
