"""Needles: facts of four kinds hidden in a text, with rivals, decoys and facts that are absent.

A fact says that a key has a value. A *rival* is a fact of the same kind and attribute about another key (a hard
negative); a *decoy* repeats the question's words without an answer, or is a near miss (a key that shares a word with
the one asked for, or another attribute of the same key).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from npukv.errors import InputError
from npukv.evaluation import templates as forms
from npukv.evaluation.sample import Sample
from npukv.evaluation.splice import splice
from npukv.evaluation.words import check_split, draw_key, draw_number, word_pool

KINDS = ("number", "pass key", "word", "place")


@dataclass(frozen=True)
class Fact:
    """A statement, a question it answers, and the answer.

    ``key`` is "" for a pass key that belongs to nobody: a text has only one such. ``attribute`` is what the key has:
    "magic number", "pass key", "favourite word", or the thing that is kept in a place. ``verb`` is for places alone.
    """

    kind: str
    key: str
    attribute: str
    value: str
    statement: str
    question: str
    prefix: str
    verb: tuple[str, str, str, str] | None = None

    def fill(self, form: str) -> str:
        """A form of ``npukv.evaluation.templates`` with this fact's words."""
        return _fill(form, self.kind, self.key, self.attribute, self.value, self.verb)


def _fill(form: str, kind: str, key: str, attribute: str, value: str, verb: tuple[str, str, str, str] | None) -> str:
    base, third, past, participle = verb or ("",) * 4
    words = {"k": key, "K": key[:1].upper() + key[1:], "a": attribute, "v": value, "t": attribute, "p": value}
    return form.format(**words, base=base, third=third, past=past, participle=participle)


def draw_value(rng: random.Random, kind: str, words: list[str]) -> str:
    """A value of a kind: 4 to 7 digits for a number, 5 for a pass key, else a word."""
    if kind == "number":
        return draw_number(rng, rng.randint(4, 7))
    if kind == "pass key":
        return draw_number(rng, 5)
    return rng.choice(words)


def draw_fact(
    rng: random.Random,
    kind: str,
    words: list[str],
    split: str = "held-out",
    *,
    key: str | None = None,
    attribute: str | None = None,
    value: str | None = None,
    verb: tuple[str, str, str, str] | None = None,
) -> Fact:
    """A fact of ``kind`` from random templates of ``split`` and random words; what is given is kept.

    A pass key has no key ("The pass key is 12345.") unless one is given.

    Raises:
        InputError: unknown kind or split; no words but the question's.
    """
    check_split(split)
    if kind not in KINDS:
        raise InputError(f"fact kind {kind!r} is unknown: one of {', '.join(KINDS)}")
    drawn = value is None  # a drawn value never repeats a word of the question
    key = key if key is not None else "" if kind == "pass key" else draw_key(rng, words)
    if kind == "place":
        attribute = attribute or rng.choice(words)
        verb = verb or rng.choice(forms.VERBS[split])
        lists = forms.PLACE_STATEMENTS, forms.PLACE_QUESTIONS, forms.PLACE_PREFIXES
    else:
        attribute = attribute or rng.choice(forms.ATTRIBUTES[kind][split])
        lists = (
            (forms.STATEMENTS, forms.QUESTIONS, forms.PREFIXES)
            if key
            else (forms.LONE_STATEMENTS, forms.LONE_QUESTIONS, forms.LONE_PREFIXES)
        )
    asked = {attribute, *key.split("-")}
    if drawn and kind in ("word", "place") and all(word in asked for word in words):  # the first word ends it, mostly
        raise InputError(f"got {len(words)} words, all of them in the question ({key}, {attribute}): give more words")
    while value is None or (drawn and value in asked):
        value = draw_value(rng, kind, words)
    statement, question, prefix = (
        _fill(rng.choice(group[split]), kind, key, attribute, value, verb) for group in lists
    )
    return Fact(kind, key, attribute, value, statement, question, prefix, verb)


def draw_rival(
    rng: random.Random, fact: Fact, words: list[str], split: str = "held-out", *, near: bool = False
) -> Fact:
    """A fact of the same kind and attribute about another key; ``near``: one that shares a word with it, if it has one.

    The rival of a place also keeps the thing and the verb; of a pass key without key, it is a pass key with one.
    """
    while True:
        key = draw_key(rng, words)
        if near and fact.key:
            parts = fact.key.split("-")
            other = rng.choice(words)
            key = f"{rng.choice(parts)}-{other}" if rng.random() < 0.5 else f"{other}-{parts[-1]}"
        rival = draw_fact(rng, fact.kind, words, split, key=key, attribute=fact.attribute, verb=fact.verb)
        if rival.key != fact.key and rival.value != fact.value:
            return rival


def decoys(rng: random.Random, fact: Fact, words: list[str], split: str = "held-out") -> list[str]:
    """Four sentences close to a fact's question that do not answer it: two without any answer, two near misses."""
    empty = forms.PLACE_EMPTY if fact.kind == "place" else forms.EMPTY if fact.key else forms.LONE_EMPTY
    sentences = [fact.fill(form) for form in rng.sample(empty, 2)]
    near = draw_rival(rng, fact, words, split, near=True)
    if fact.kind == "place":
        others = [word for word in (rng.choice(words) for _ in range(20)) if word not in (fact.attribute, fact.value)]
    else:
        others = [name for name in forms.ATTRIBUTES[fact.kind][split] if not _same_words(name, fact.attribute)]
    other = draw_fact(rng, fact.kind, words, split, key=fact.key, attribute=rng.choice(others), verb=fact.verb)
    return [*sentences, near.statement, other.statement]


def _same_words(one: str, other: str) -> bool:
    """Whether one attribute is part of the other ("magic number", "special magic number"): no safe near miss."""
    return one in other or other in one


def needles(
    text: str,
    kind: str,
    *,
    facts: int = 1,
    rivals: int = 0,
    near: bool = False,
    with_decoys: bool = False,
    absent: bool = False,
    prefix: bool = False,
    depth: float | None = None,
    seed: int = 0,
    split: str = "held-out",
    words: list[str] | None = None,
) -> Sample:
    """A needle in ``text``, and the question for it.

    Args:
        facts: facts in the text; one of them is asked for. The others are of the same kind and forms but about any
            attribute and key (a pass key among several has a key).
        rivals: further facts of the same kind *and attribute* about other keys.
        near: rivals' keys share a word with the key asked for.
        with_decoys: put the fact's decoys into the text, too.
        absent: leave out the fact that is asked for: nothing can be known, and ``evidence`` is empty.
        prefix: give the start of the answer ("The magic number for oak is").
        depth: where the fact lies, 0.0 to 1.0; None for anywhere.
        seed: the same arguments and seed give the same sample.
        words: words for keys and values; None takes those of ``text`` in the split.

    Returns:
        A Sample with metric "exact"; its evidence is the span of the fact's statement.

    Raises:
        InputError: unknown kind or split, fewer than one fact, or a text with too few words.
    """
    check_split(split)
    if facts < 1 or rivals < 0:
        raise InputError(f"{facts} facts and {rivals} rivals were asked for: expected at least 1 and 0")
    words = word_pool(text, split) if words is None else words
    if len(words) < 32:
        raise InputError(f"the text has {len(words)} usable {split} words: expected at least 32, give more of either")
    rng = random.Random(f"needle {kind} {facts} {rivals} {near} {seed}")
    several = facts + rivals > 1
    asked = draw_fact(rng, kind, words, split, key=draw_key(rng, words) if several else None)
    others: list[Fact] = []
    taken = {asked.key}
    while len(others) < facts - 1:
        other = draw_fact(rng, kind, words, split, key=draw_key(rng, words))
        if other.key not in taken:
            taken.add(other.key)
            others.append(other)
    others += [draw_rival(rng, asked, words, split, near=near) for _ in range(rivals)]
    sentences = [other.statement for other in others]
    if with_decoys:
        sentences += decoys(rng, asked, words, split)
    if absent:
        context, _ = splice(text, sentences, rng)
        evidence: tuple[tuple[int, int], ...] = ()
    else:
        context, spans = splice(text, [asked.statement, *sentences], rng, [depth])
        evidence = (spans[0],)
    return Sample(
        task=f"needle-{kind.replace(' ', '')}",
        context=context,
        question=asked.question,
        answers=(asked.value,),
        evidence=evidence,
        answer_prefix=asked.prefix if prefix else "",
        metric="exact",
        max_new_tokens=16,
        meta={"seed": seed, "facts": facts, "rivals": rivals, "decoys": with_decoys, "absent": absent, "depth": depth},
    )


def restate(rng: random.Random, fact: Fact, value: str, split: str) -> Fact:
    """Another statement of the same key and attribute with another value: keys may have several."""
    again = draw_fact(rng, fact.kind, [], split, key=fact.key, attribute=fact.attribute, value=value, verb=fact.verb)
    return replace(fact, value=value, statement=again.statement)
