"""Clauses exchanged between sentences written by hand: those that tell nothing of the fact, and those that tell a part.

"Though the porter swore to lantern, the {a} of {k} is {v}." always begins and ends alike: a model learns the sentence.
With another one's beginning it has to find what belongs together.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable

MARK = re.compile(r"(?<=[,;:]) ")
JOINTS = (
    "and but because when while though although since so before after until unless if where who whose which that as for"
)
JOINT = re.compile(rf"(?<=[,;:]) | (?=(?:{'|'.join(JOINTS.split())}) )")
FIELD = re.compile(r"\{(\w+)\}")
QUOTED = re.compile(r"[\"“”()!?—]|'(?!s\b)")  # a clause cut out of direct speech or brackets leaves half of them behind


def clauses(form: str) -> list[str]:
    """``form`` cut after commas, semicolons and colons; a space joins it again."""
    return MARK.split(form)


def empty(clause: str) -> bool:
    """Whether a clause can stand in another sentence: no field, no quotation, two to fourteen words."""
    return "{" not in clause and not QUOTED.search(clause) and 2 <= len(clause.split()) <= 14


class Clauses:
    """The clauses without fields of ``forms``: first ones, last ones, and those between."""

    def __init__(self, forms: Iterable[str]):
        first, middle, last = set[str](), set[str](), set[str]()
        for form in forms:
            parts = clauses(form)
            if len(parts) < 2:
                continue
            first.update(part for part in parts[:1] if empty(part) and part.endswith(","))
            middle.update(part for part in parts[1:-1] if empty(part) and part.endswith(","))
            last.update(part for part in parts[-1:] if empty(part) and part.endswith("."))
        self.first, self.middle, self.last = sorted(first), sorted(middle), sorted(last)

    def __call__(self, rng: random.Random, form: str) -> str:
        """``form`` with clauses exchanged, left out or added."""
        parts = clauses(form)
        ends = len(parts) - 1
        out: list[str] = []
        for i, part in enumerate(parts):
            group = self.first if i == 0 else self.last if i == ends else self.middle
            mark = "." if i == ends else ","
            if not empty(part) or not part.endswith(mark) or not group or not ends:
                out.append(part)
                continue
            draw = rng.random()
            if draw < 0.5:
                out.append(rng.choice(group))
            elif draw < 0.85 or i == ends:
                out.append(part)
        if self.first and "{" in out[0] and rng.random() < 0.3:
            out[0] = out[0][:1].lower() + out[0][1:] if re.match(r"[A-Z][a-z]* ", out[0]) else out[0]
            out.insert(0, rng.choice(self.first))
        if self.last and out[-1].endswith("}.") and rng.random() < 0.3:
            out[-1] = out[-1][:-1] + ","
            out.append(rng.choice(self.last))
        text = " ".join(out)
        return text[:1].upper() + text[1:]


class Parts:
    """The clauses of ``forms`` that hold some of their fields, to be exchanged for one another: the same fields, the
    same place in the sentence, the same mark behind and the same word that joins them."""

    def __init__(self, forms: Iterable[str], share: float = 0.4):
        self.share = share  # of such clauses, those exchanged
        groups: dict[tuple[object, ...], set[str]] = defaultdict(set)
        for form in forms:
            parts = JOINT.split(form)
            for i, part in enumerate(parts):
                if key := self._key(parts, i):
                    groups[key].add(part)
        self.groups = {key: sorted(group) for key, group in groups.items()}

    def __call__(self, rng: random.Random, form: str) -> str:
        """``form`` with some of its clauses from other forms; every field stands as often as before."""
        parts = JOINT.split(form)
        out = []
        for i, part in enumerate(parts):
            key = self._key(parts, i)
            out.append(rng.choice(self.groups.get(key, [part])) if key and rng.random() < self.share else part)
        return " ".join(out)

    @staticmethod
    def _key(parts: list[str], i: int) -> tuple[object, ...] | None:
        """What clauses must share to stand for one another; None for a whole sentence, and for direct speech."""
        part = parts[i]
        fields = tuple(sorted(FIELD.findall(part)))
        if len(parts) == 1 or not fields or QUOTED.search(part) or len(part.split()) > 14:
            return None
        first, mark = part.split()[0], part[-1]
        return (
            "first" if i == 0 else "last" if i == len(parts) - 1 else "middle",
            fields,
            mark if mark in ",;:." else "",
            first if first in JOINTS.split() else "",
        )
