"""Pieces of real sentences, taken from the training texts: what may stand around a fact in a statement of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

PREPOSITIONS = (
    "after", "against", "along", "among", "around", "at", "before", "behind", "beneath", "beside", "between",
    "beyond", "by", "during", "for", "from", "in", "into", "near", "of", "on", "over", "since", "through", "till",
    "to", "towards", "under", "until", "upon", "with", "within", "without",
)  # fmt: skip
CONJUNCTIONS = (
    "as", "when", "if", "because", "though", "although", "while", "since", "before", "after", "where", "whenever",
    "unless", "until", "for", "and", "but", "so", "or",
)  # fmt: skip
RELATIVES = ("who", "which", "that", "whom", "whose")
TOKENS = 400_000  # read for phrases: about 300,000 words


@dataclass
class Phrases:
    """Distinct phrases, each without the punctuation around it; words of the pool by their endings."""

    that: list[str] = field(default_factory=list)  # "It was plain that"
    clauses: list[str] = field(default_factory=list)  # "she looked up"
    adverbials: list[str] = field(default_factory=list)  # "in those days"
    subordinate: list[str] = field(default_factory=list)  # "as you may suppose"
    relative: list[str] = field(default_factory=list)  # "who had been waiting"
    past: list[str] = field(default_factory=list)
    third: list[str] = field(default_factory=list)
    adverbs: list[str] = field(default_factory=list)


def find_phrases(text: str, words: list[str]) -> Phrases:
    """The phrases of ``text``; a group that it has none of gets one made of ``words``."""
    found = Phrases()
    flat = re.sub(r"\s+", " ", text)
    found.that = sorted(set(re.findall(r"(?<=[.!?] )[A-Z][a-z]*(?: [a-zI]+){0,5} that(?= [a-z])", flat)))
    for piece in sorted(set(re.findall(r"(?<=, )[a-zI]+(?: [a-zI]+){1,6}(?=[,.;])", flat))):
        first = piece.partition(" ")[0]
        if first in RELATIVES:
            found.relative.append(piece)
        elif first in CONJUNCTIONS:
            found.subordinate.append(piece)
        elif first in PREPOSITIONS:
            found.adverbials.append(piece)
        else:
            found.clauses.append(piece)
    found.past = [word for word in words if word.endswith("ed")]
    found.third = [word for word in words if word.endswith("s") and not word.endswith("ss")]
    found.adverbs = [word for word in words if word.endswith("ly")]
    defaults = {
        "that": f"{words[0].capitalize()} that", "clauses": " ".join(words[1:4]), "adverbials": f"in {words[4]}",
        "subordinate": f"as {words[5]} {words[6]}", "relative": f"who {words[7]}", "past": words[8] + "ed",
        "third": words[9] + "s", "adverbs": words[10] + "ly",
    }  # fmt: skip
    for name, value in defaults.items():
        if not getattr(found, name):
            setattr(found, name, [value])
    return found
