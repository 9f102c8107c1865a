"""Training facts in words put together freely, often without sense.

What stays the same is that statement and question share key and attribute; subject, verb, order and what stands before,
between and after vary, so that nothing else is left to learn.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

import bundled_variety as lists
from bundled_wordings import shows_held_out
from tokenizers import Tokenizer

from npukv.evaluation import templates
from npukv.evaluation.facts import Fact
from npukv.evaluation.words import held_out

DETERMINERS = ("the", "the", "the", "the", "the", "a", "our", "this", "that", "his", "their", "one")


def attribute(rng: random.Random, kind: str, words: list[str], swapped: float = 0.0) -> str | None:
    """A made-up attribute of the kind, or None for one of the templates' (half the time).

    ``swapped`` of all have a name of any kind, whatever theirs: a "cipher" that is a word, a "nickname" of digits.
    """
    if kind == "place":
        return None
    any_kind = swapped > 0 and rng.random() < swapped  # without, the rows of a seed stay what they were
    kind = rng.choice(tuple(lists.NOUNS)) if any_kind else kind
    if rng.random() < 0.5:
        return rng.choice(templates.ATTRIBUTES[kind]["train"]) if any_kind else None
    noun = rng.choice(lists.NOUNS[kind]) if rng.random() < 0.7 else rng.choice(words)
    draw = rng.random()
    name = noun if draw < 0.3 else f"{rng.choice(lists.ADJECTIVES) if draw < 0.65 else rng.choice(words)} {noun}"
    return None if is_held_out(name) else name


def is_held_out(attribute: str) -> bool:
    """Whether the attribute is one of any kind that training must not show."""
    return any(attribute in group["held-out"] for group in templates.ATTRIBUTES.values())


def verb(rng: random.Random, words: list[str]) -> tuple[str, str, str, str] | None:
    """A verb of the list, any word inflected as if it were one, or None for the templates' own verbs."""
    draw = rng.random()
    if draw < 0.3:
        return None
    if draw < 0.65:
        return rng.choice(lists.VERBS)
    stem = rng.choice(words)
    if stem in (held[0] for held in templates.VERBS["held-out"]):
        return None
    return stem, stem + "s", stem + "ed", stem + "ed"


def invent(rng: random.Random, words: list[str], n: int) -> list[str]:
    """``n`` words that do not exist: two halves of words, or letters as they come; none is held out."""
    made: list[str] = []
    while len(made) < n:
        if rng.random() < 0.7:
            one, other = rng.choice(words), rng.choice(words)
            word = one[: rng.randint(2, len(one) - 1)] + other[rng.randint(1, len(other) - 2) :]
        else:
            word = "".join(rng.choices("abcdefghiklmnoprstuvwy", k=rng.randint(4, 9)))
        if 4 <= len(word) <= 12 and not held_out(word):
            made.append(word)
    return made


def beginnings(tokenizer: Tokenizer) -> list[str]:
    """Every token that begins a word, three small letters or longer."""
    return sorted(t[1:] for t in tokenizer.get_vocab() if t[0] == "Ġ" and re.fullmatch("[a-z]{3,}", t[1:]))


def coin(rng: random.Random, tokenizer: Tokenizer, begins: list[str], words: list[str], n: int) -> list[str]:
    """At most ``n`` words that do not exist: a token of ``begins``, each in turn, with another word's end; none is
    held out.

    A token that training never shows as an answer is learnt to be none: a model without these answered "afternoon" for
    a held-out "morning".
    """
    made: list[str] = []
    for i in range(4 * n):  # what falls apart into other tokens is left out
        if len(made) == n or not begins:
            break
        begin, end = begins[i % len(begins)], rng.choice(words)
        word = begin + end[rng.randint(1, len(end) - 2) :]
        if len(word) <= 14 and not held_out(word) and tokenizer.encode(f" {word}").tokens[0] == f"Ġ{begin}":
            made.append(word)
    return made


def reword(rng: random.Random, fact: Fact, words: list[str]) -> Fact:
    """The same fact, stated and asked for in other words, none of them held out."""
    place = fact.kind == "place"
    statement = _place_statement(rng) if place else _statement(rng, fact.key)
    question = _place_question(rng) if place else _question(rng, fact.key)
    statement, question = (_fill(rng, form, fact, words) for form in (statement, question))
    draw = rng.random()
    if draw < 0.2:
        statement = fact.statement
    if rng.random() < 0.25:
        question = fact.question
    if rng.random() < 0.35:
        statement = f"{_lead(rng, lists.LEADS, words)} {_lower(statement, fact)}"
    if rng.random() < 0.2 and statement.endswith(".") and statement.count(".") == 1:
        comma = "," if rng.random() < 0.8 else rng.choice((";", " -", ":"))
        statement = f"{statement[:-1]}{comma} {rng.choice(lists.TAILS)}."
    elif rng.random() < 0.1 and statement.endswith("."):
        statement = statement[:-1] + rng.choice(("!", ";", "...", ""))
    if rng.random() < 0.3:
        question = f"{_lead(rng, lists.QUESTION_LEADS, words)} {_lower(question, fact)}"
    if rng.random() < 0.15:
        question = f"{question[:-1]}, {rng.choice(lists.QUESTION_TAILS)}{question[-1]}"
    prefix = fact.prefix
    if rng.random() < 0.3:
        prefix = f"{_lead(rng, lists.LEADS, words)} {_lower(prefix, fact)}"
    elif rng.random() < 0.3:
        prefix = rng.choice(lists.PREFIXES)
    return replace(
        fact,
        statement=fact.statement if shows_held_out(fact, "STATEMENTS", statement) else statement,
        question=fact.question if shows_held_out(fact, "QUESTIONS", question) else question,
        prefix=fact.prefix if shows_held_out(fact, "PREFIXES", prefix) else prefix,
    )


def _fill(rng: random.Random, form: str, fact: Fact, words: list[str]) -> str:
    participle = rng.choice(lists.PARTICIPLES) if rng.random() < 0.7 else rng.choice(words)
    text = fact.fill(form.replace("{r}", participle))
    keep = form.startswith("{v}") or (form.startswith("{k}") and rng.random() < 0.5)  # an answer keeps its letters
    return text if keep else text[:1].upper() + text[1:]


def _subject(rng: random.Random, key: str) -> str:
    determiner = rng.choice(DETERMINERS)
    if rng.random() < 0.12:
        determiner += " " + rng.choice(lists.ADJECTIVES)
    if not key:
        return f"{determiner} {{a}}" + (" {r}" if rng.random() < 0.15 else "")
    if rng.random() < 0.12:
        return "{k}'s {a}"
    return f"{determiner} {{a}} {rng.choice(lists.RELATIONS)}"


def _value(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.78:
        return "{v}"
    if draw < 0.88:
        return rng.choice(('"{v}"', "'{v}'", "“{v}”", ": {v}"))
    return rng.choice(
        ("the word {v}", "the old {v}", "this: {v}", "a certain {v}", "one {v}", "named {v}", "plain {v}")
    )


def _statement(rng: random.Random, key: str) -> str:
    draw = rng.random()
    if draw < 0.2:
        return rng.choice(lists.STATEMENTS if key else lists.LONE_STATEMENTS)
    subject, copula = _subject(rng, key), rng.choice(lists.COPULAS)
    if rng.random() < 0.45:
        adverb = rng.choice(lists.ADVERBS)
        copula = f"{copula} {adverb}" if rng.random() < 0.8 else f"{adverb} {copula}"
    if draw < 0.72:
        return f"{subject} {copula} {_value(rng)}."
    if draw < 0.88:
        return f"{{v}} {copula} {subject}."
    return f"{subject}, {rng.choice(lists.MIDDLES)}, {copula} {_value(rng)}."


def _question(rng: random.Random, key: str) -> str:
    draw = rng.random()
    if draw < 0.3:
        return rng.choice(lists.QUESTIONS if key else lists.LONE_QUESTIONS)
    subject = _subject(rng, key)
    if draw < 0.65:
        wh = rng.choice(("What", "What", "What", "Which", "Whatever", "And what", "What exactly"))
        copula = rng.choice(("is", "is", "is", "was", "was", "will be", "would be", "has been", "might be", "is then"))
        auxiliary, _, rest = copula.partition(" ")
        return f"{wh} {auxiliary} {subject}{' ' + rest if rest else ''}?"
    request = rng.choice(lists.REQUESTS)
    asks = request.split()[0] in ("Can", "Could", "Will", "Would", "May", "Do", "Who", "Have")
    return f"{request} {subject}{'?' if asks else '.'}"


def _place_statement(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.2:
        return rng.choice(lists.PLACE_STATEMENTS)
    where = f"{rng.choice(lists.PREPOSITIONS)} {rng.choice(('the', 'the', 'the', 'a', 'his', 'that'))} "
    where += f"{rng.choice(lists.ADJECTIVES)} {{p}}" if rng.random() < 0.2 else "{p}"
    thing = (
        f"the {rng.choice(lists.ADJECTIVES)} {{t}}" if rng.random() < 0.15 else rng.choice(("the", "a", "his")) + " {t}"
    )
    adverb = f" {rng.choice(lists.ADVERBS)}" if rng.random() < 0.4 else ""
    does = rng.choice(
        ("{third}", "{past}", "{past}", "has {participle}", "had {participle}", "will {base}", "used to {base}")
    )
    if draw < 0.5:
        return rng.choice((f"{{K}}{adverb} {does} {thing} {where}.", f"{{K}} {does} {thing}{adverb} {where}."))
    if draw < 0.65:
        return f"{where},{adverb} {{K}} {does} {thing}.".replace(", {K}", rng.choice((", {K}", " {K}")))
    if draw < 0.8:
        copula = rng.choice(("is", "was", "has been", "will be", "lies", "had been"))
        by = rng.choice((f"{{participle}} by {{K}} {where}", f"{{participle}} {where} by {{K}}"))
        return f"{thing} {copula}{adverb} {by}."
    if draw < 0.9:
        return f"{rng.choice(('{K}', '{k}'))}'s {{t}} {rng.choice(('is', 'was', 'lies', 'stays'))}{adverb} {where}."
    middle = rng.choice(lists.MIDDLES)
    return rng.choice((f"{{K}}, {middle}, {does} {thing} {where}.", f"{{K}} {does} {thing}, {middle}, {where}."))


def _place_question(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.3:
        return rng.choice(lists.PLACE_QUESTIONS)
    adverb = f" {rng.choice(lists.ADVERBS)}" if rng.random() < 0.2 else ""
    if draw < 0.65:
        where = rng.choice(("Where", "Where", "Where", "In what place", "In which place", "Whereabouts", "Where then"))
        auxiliary = rng.choice(("did", "did", "does", "will", "would", "could", "must", "might"))
        return f"{where}{adverb} {auxiliary} {{K}} {{base}} the {{t}}?"
    if draw < 0.75:
        return f"Where {rng.choice(('has', 'had'))} {{K}}{adverb} {{participle}} the {{t}}?"
    request = rng.choice(lists.REQUESTS)
    asks = request.split()[0] in ("Can", "Could", "Will", "Would", "May", "Do", "Who", "Have")
    where = rng.choice(("where", "where", "the place where", "in which place"))
    return f"{request} {where} {{K}} {rng.choice(('{third}', '{past}'))} the {{t}}{'?' if asks else '.'}"


def _lead(rng: random.Random, leads: tuple[str, ...], words: list[str]) -> str:
    """One of ``leads``, or (three times in ten) one to four words without sense and a comma, a colon or "that"."""
    if rng.random() < 0.7:
        return rng.choice(leads)
    noise = " ".join(rng.choices(words, k=rng.randint(1, 4))).capitalize()
    return noise + rng.choice((",", ":", " that"))


def _lower(text: str, fact: Fact) -> str:
    """Without the capital that begins a sentence; a name keeps its own."""
    if fact.kind == "place" and text.startswith(fact.key[:1].upper() + fact.key[1:]):
        return text
    return text[:1].lower() + text[1:]
