"""Pieces of which wide sentences are made: phrases of real texts, words of the pool, and what ties them."""

from __future__ import annotations

import random

import bundled_variety as lists
from bundled_phrases import Phrases

from npukv.evaluation.facts import Fact

NEAR = (
    "of",
    "of",
    "of",
    "for",
    "for",
    "for",
    "about",
    "above",
    "after",
    "against",
    "among",
    "around",
    "at",
    "before",
    "behind",
    "below",
    "beside",
    "between",
    "beyond",
    "by",
    "concerning",
    "from",
    "inside",
    "near",
    "next to",
    "on",
    "opposite",
    "over",
    "regarding",
    "round",
    "through",
    "to",
    "towards",
    "under",
    "upon",
    "with",
    "within",
    "close to",
    "in front of",
    "in respect of",
    "on account of",
    "as regards",
    "instead of",
    "along with",
    "per",
)
BE = (
    "is",
    "is",
    "is",
    "was",
    "was",
    "remains",
    "stays",
    "stayed",
    "remained",
    "stands as",
    "stands at",
    "proved",
    "proves to be",
    "turns out to be",
    "turned out",
    "continues to be",
    "still is",
    "equals",
    "means",
    "comes to",
    "came out as",
    "shall be",
    "must surely be",
    "cannot but be",
    "had to be",
    "being",
    "was always going to be",
    "is held to be",
    "counts as",
    "runs",
    "ran",
    "stood",
    "goes as",
    "is no other than",
    "will remain",
    "has always been",
    "has long been",
    "never was anything but",
    "is none other than",
    "is still",
    "was then",
    "is now",
    "might as well be",
)
SIGNS = (": ", " = ", " - ", ", ", " -- ", "; ", ", namely ", ", that is, ", ", to wit, ", ", i.e. ", "? ", "... ")
SAID = (
    "said",
    "cried",
    "asked",
    "answered",
    "whispered",
    "shouted",
    "replied",
    "wrote",
    "thought",
    "added",
    "repeated",
    "insisted",
    "muttered",
    "sang",
    "declared",
    "went on",
    "began",
)
WHO = (
    "he",
    "she",
    "they",
    "I",
    "we",
    "somebody",
    "the clerk",
    "an old man",
    "my aunt",
    "the boy",
    "everyone",
    "the judge",
    "a stranger",
    "the captain",
    "her brother",
    "the others",
    "nobody",
    "the teacher",
    "one of them",
    "you",
)
URGED = (
    "be sure",
    "mark well",
    "let nobody doubt",
    "rest easy",
    "never forget",
    "write down",
    "take note",
    "tell them",
    "believe me",
    "do not deny",
    "have no fear",
    "consider",
    "keep in mind",
    "let it be said",
    "be warned",
    "know",
    "learn",
    "suppose",
    "observe",
    "trust",
    "be told",
    "imagine",
    "admit",
    "grant",
    "please remember",
    "see to it",
)
ADJECTIVES = lists.ADJECTIVES
PLACES = (
    "in",
    "in",
    "in",
    "in",
    "inside",
    "within",
    "near",
    "by",
    "behind",
    "under",
    "beside",
    "at",
    "on",
    "into",
    "below",
    "above",
    "against",
    "next to",
    "beyond",
    "outside",
    "beneath",
    "close to",
    "deep in",
    "somewhere in",
    "down in",
    "up in",
    "over in",
    "out in",
    "on top of",
    "at the back of",
    "in front of",
    "in the corner of",
    "underneath",
)
DESCRIBED = ("heavy", "old", "broken", "new", "lost", "cheap", "useful", "well known", "of no use", "not hers", "wet")


class Pieces:
    """Draws pieces; ``words`` are the pool (train split)."""

    def __init__(self, phrases: Phrases, words: list[str]):
        self.phrases, self.words = phrases, words

    @staticmethod
    def _fill(fact: Fact, form: str) -> str:
        return fact.fill(form)

    def _clause(self, rng: random.Random) -> str:
        p = self.phrases
        draw = rng.random()
        if draw < 0.12:
            return " ".join(rng.choices(self.words, k=rng.randint(1, 4)))
        return rng.choice(rng.choices((p.clauses, p.subordinate, p.adverbials, p.relative), (4, 4, 2, 1))[0])

    def _aside(self, rng: random.Random, share: float) -> str:
        """ ", she thought," or nothing; what a comma opens it closes."""
        if rng.random() >= share:
            return ""
        text = rng.choice(lists.MIDDLES) if rng.random() < 0.25 else self._clause(rng)
        left, right = rng.choice(((", ", ","), (", ", ","), (", ", ","), (" (", ")"), (" - ", " -"), (" ", "")))
        return left + text + right

    def _who(self, rng: random.Random) -> str:
        return rng.choice(WHO) if rng.random() < 0.7 else "the " + rng.choice(self.words)

    def _past(self, rng: random.Random) -> str:
        draw = rng.random()
        if draw < 0.4:
            return rng.choice(lists.PARTICIPLES)
        return rng.choice(self.phrases.past) if draw < 0.8 else rng.choice(self.words) + "ed"

    def _third(self, rng: random.Random) -> str:
        return rng.choice(self.phrases.third) if rng.random() < 0.6 else rng.choice(self.words) + "s"

    def _adverb(self, rng: random.Random) -> str:
        return rng.choice(lists.ADVERBS) if rng.random() < 0.6 else rng.choice(self.phrases.adverbs)

    def _det(self, rng: random.Random) -> str:
        return rng.choice(("the", "the", "the", "the", "the", "a", "this", "that", "our", "their", "any", "some"))

    def _adjective(self, rng: random.Random, share: float) -> str:
        if rng.random() >= share:
            return ""
        return (rng.choice(ADJECTIVES) if rng.random() < 0.6 else rng.choice(self.words)) + " "

    def _be(self, rng: random.Random) -> str:
        draw = rng.random()
        if draw < 0.3:
            text = rng.choice(lists.COPULAS)
        elif draw < 0.62:
            text = rng.choice(BE)
        elif draw < 0.72:
            text = rng.choice((self._third(rng), self._past(rng)))
        elif draw < 0.8:
            text = (
                rng.choice((self._third(rng), self._past(rng))) + " " + rng.choice(("as", "to", "to be", "at", "into"))
            )
        else:
            be = rng.choice(("is", "was", "has been", "will be", "can be", "gets", "got", "had been", "must be"))
            text = f"{be} {self._past(rng)} {rng.choice(('as', 'as', 'to be', 'with', 'by', 'to', ''))}".rstrip()
        if rng.random() < 0.3:
            text = f"{text} {self._adverb(rng)}" if rng.random() < 0.6 else f"{self._adverb(rng)} {text}"
        return text

    def _value(self, rng: random.Random) -> str:
        draw = rng.random()
        if draw < 0.8:
            return "{v}"
        if draw < 0.9:
            return rng.choice(('"{v}"', "'{v}'", "“{v}”", "({v})", "*{v}*", "{v} itself"))
        return rng.choice(
            ("the word {v}", "this: {v}", "a certain {v}", "one {v}", "plain {v}", "simply {v}", "the {v}")
        )

    def _subject(self, rng: random.Random, key: str) -> str:
        """Attribute and key; {a} and {k} stand in it once each."""
        a = f"{self._det(rng)} {self._adjective(rng, 0.1)}{{a}}"
        if not key:
            return a + rng.choice(("", "", "", f" {self._past(rng)}", " " + rng.choice(self.phrases.relative)))
        draw = rng.random()
        if draw < 0.1:
            return rng.choice(("{k}'s {a}", "{K}'s {a}", "the {k} {a}", "{a} of {k}", "{k}'s own {a}"))
        middle = self._aside(rng, 0.06)
        if draw < 0.45:
            return f"{a}{middle} {rng.choice(('of', 'for'))} {{k}}"
        if draw < 0.55:
            return f"{a}{middle} {rng.choice(lists.RELATIONS).replace('{r}', self._past(rng))}"
        if draw < 0.68:
            return f"{a}{middle} {rng.choice(NEAR)} {{k}}"
        if draw < 0.84:
            return f"{a} {self._past(rng)}{middle} {rng.choice(NEAR)} {{k}}"
        that = rng.choice(("that", "which", ", which", "", "that"))
        does = rng.choice(
            (
                f"{{k}} {self._past(rng)}",
                f"{{k}} {self._third(rng)}",
                f"{self._past(rng)} {{k}}",
                "{k} has",
                f"{self._who(rng)} {self._past(rng)} {rng.choice(NEAR)} {{k}}",
                f"{self._third(rng)} {rng.choice(NEAR)} {{k}}",
                f"was {self._past(rng)} {rng.choice(NEAR)} {{k}}",
                f"{self._who(rng)} had {self._past(rng)} {rng.choice(NEAR)} {{k}}",
            )
        )
        comma = "," if that.startswith(",") else ""
        return f"{a}{that if comma else ' ' + that if that else ''} {does}{comma}"

    def _around(self, rng: random.Random, text: str, fact: Fact) -> str:
        """Something before, something behind, or marks of speech around a sentence."""
        draw = rng.random()
        if draw < 0.45:
            text = f"{self._lead(rng)} {self._lower(rng, text, fact)}"
        if text.endswith(".") and rng.random() < 0.25:
            comma = "," if rng.random() < 0.8 else rng.choice((";", " -", ":", ""))
            tail = rng.choice(lists.TAILS) if rng.random() < 0.2 else self._tail(rng, fact)
            text = f"{text[:-1]}{comma} {tail}."
        elif text.endswith(".") and rng.random() < 0.1:
            text = text[:-1] + rng.choice(("!", ";", "...", "", "?"))
        if rng.random() < 0.07 and '"' not in text:
            end = f" {rng.choice(SAID)} {self._who(rng)}."
            text = (
                f'"{text.rstrip(".")},"{end}'
                if rng.random() < 0.6
                else f'{self._who(rng)} {rng.choice(SAID)}: "{text}"'
            )
        return text

    def _tail(self, rng: random.Random, fact: Fact) -> str:
        """A clause; of a place no phrase that could name another."""
        if fact.kind == "place":
            return rng.choice(self.phrases.subordinate if rng.random() < 0.6 else self.phrases.clauses)
        return self._clause(rng)

    def _lead(self, rng: random.Random) -> str:
        draw = rng.random()
        if draw < 0.3:
            return rng.choice(self.phrases.that)
        if draw < 0.45:
            return rng.choice(lists.LEADS)
        if draw < 0.6:
            return self._clause(rng) + ","
        if draw < 0.7:
            return self._adverb(rng) + rng.choice((",", ""))
        if draw < 0.78:
            return rng.choice(self.phrases.adverbials) + rng.choice((",", ""))
        if draw < 0.86:
            return (
                f"{rng.choice(URGED)} {rng.choice(('that', 'that', 'this:', ',', ':', ''))}".replace(" ,", ",")
                .replace(" :", ":")
                .rstrip()
            )
        if draw < 0.93:
            verb = rng.choice(
                (
                    f"be {self._past(rng)}",
                    f"{rng.choice(self.words)} {self._adverb(rng)}",
                    f"do not {rng.choice(self.words)}",
                )
            )
            return f"{verb} that"
        return f"{self._who(rng)} {self._past(rng)} {rng.choice(('that', 'that', 'how', ':', 'as'))}".replace(" :", ":")

    def _lower(self, rng: random.Random, text: str, fact: Fact) -> str:
        if fact.kind == "place" and text.startswith(fact.key[:1].upper() + fact.key[1:]):
            return text
        return text[:1].lower() + text[1:]
