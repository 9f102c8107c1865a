"""One question over a context: what a task generates and what a method is judged on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sample:
    """A context, a question about it, and what is expected.

    Attributes:
        task: name of the task, e.g. "needle-number", "ruler-niah_single_1".
        context: the text, evidence included.
        question: as a user would type it.
        answers: expected strings, see ``metric``.
        evidence: character spans ``(start, end)`` in ``context`` of the facts the answer needs, in textual order.
        answer_prefix: words the answer begins with and that are given to the model; "" for none.
        metric: "all": fraction of ``answers`` contained in the output; "part": 1 if any of them is; "exact": 1 if the
            output up to its first period or newline equals ``answers[0]``.
        max_new_tokens: tokens to generate at most.
        meta: how the sample was made (depth, rivals, seed, ...).
    """

    task: str
    context: str
    question: str
    answers: tuple[str, ...]
    evidence: tuple[tuple[int, int], ...]
    answer_prefix: str = ""
    metric: str = "all"
    max_new_tokens: int = 32
    meta: dict[str, Any] = field(default_factory=dict)
