"""Forms of facts, questions, and beginnings of answers written by hand, from the files of scripts/wordings.

A file holds sections in brackets, named as in npukv.evaluation.templates, and a form per line. `former.txt` holds the
held-out forms of earlier versions: they were looked at, and are training material since. Of the other files about every
tenth line is kept back from training: what the model makes of forms by the same hands, which it has not seen.
"""

from __future__ import annotations

import string
import zlib
from functools import cache
from pathlib import Path

from npukv.evaluation import templates
from npukv.evaluation.facts import Fact

FOLDER = Path(__file__).parent / "wordings"
FORMER = "former.txt"
KEPT_BACK = 10  # one line in so many


@cache
def read_forms(folder: Path = FOLDER, kept_back: bool = False) -> dict[str, tuple[str, ...]]:
    """Section -> its lines in all files, each once and none of them held out: those to train on, or those kept back.

    Sections "ATTRIBUTES kind" hold attributes, "VERBS" the four forms of a verb; of these nothing is kept back.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.txt")):
        section = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            line = line.strip()
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1]
            elif line and kept_back == (path.name != FORMER and zlib.crc32(line.lower().encode()) % KEPT_BACK == 0):
                found.setdefault(section, []).append(line)
    held = {name: _held_out(name) for name in found}
    return {
        name: tuple(line for line in dict.fromkeys(lines) if line.lower() not in held[name])
        for name, lines in found.items()
    }


def _held_out(section: str) -> set[str]:
    """Lines of a section that training must not show, in small letters."""
    name, _, kind = section.partition(" ")
    forms = getattr(templates, name)
    forms = forms[kind] if kind else forms
    if not isinstance(forms, dict):  # sentences that tell nothing are not split
        return set()
    return {(" ".join(form) if name == "VERBS" else form).lower() for form in forms["held-out"]}


def shows_held_out(fact: Fact, part: str, text: str) -> bool:
    """Whether the text holds one of the held-out forms of STATEMENTS, QUESTIONS or PREFIXES with the fact's words."""
    kind, text = "PLACE_" if fact.kind == "place" else "" if fact.key else "LONE_", text.lower()
    return any(
        _longest_piece(form) in text and fact.fill(form).lower() in text
        for form in getattr(templates, kind + part)["held-out"]
    )


@cache
def _longest_piece(form: str) -> str:
    """Of what stands between a form's fields: where this is not, neither is the form, and nothing need be filled."""
    return max((piece for piece, *_ in string.Formatter().parse(form)), key=len).lower()


def ask_in_kept_back_forms() -> None:
    """From here on this process, and those it forks, draws held-out facts in the forms kept back.

    Attributes and verbs stay the held-out ones.
    """
    for section, forms in read_forms(kept_back=True).items():
        table = getattr(templates, section)
        if isinstance(table, dict):
            table["held-out"] = forms
