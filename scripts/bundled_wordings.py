"""Forms of facts, questions, and beginnings of answers written by hand, from the files of scripts/wordings.

A file holds sections in brackets, named as in npukv.evaluation.templates, and a form per line. `former.txt` holds the
held-out forms of earlier versions: they were looked at, and are training material since.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from npukv.evaluation import templates

FOLDER = Path(__file__).parent / "wordings"


@cache
def read_forms(folder: Path = FOLDER) -> dict[str, tuple[str, ...]]:
    """Section -> its lines in all files, each once and none of them held out.

    Sections "ATTRIBUTES kind" hold attributes, "VERBS" the four forms of a verb.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.txt")):
        section = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1]
            elif line.strip():
                found.setdefault(section, []).append(line.strip())
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
