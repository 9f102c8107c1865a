"""Everything about a scoring run that is settled, and refused if it cannot work, before the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from npukv.errors import InputError
from npukv.language_model import LanguageModel
from npukv.prompt import Prompt, build_prompt
from npukv.relevance import measures
from npukv.relevance.cut import Segment, Windows
from npukv.relevance.journal import fingerprint
from npukv.text import Tokens


@dataclass(frozen=True)
class Plan:
    """One text, one or more questions over it, and how it is cut and read.

    Attributes:
        tokens: the text.
        asked: the questions as given.
        prompts: what surrounds a segment, per question.
        segments: the windows, in the text's order, all of one length.
        horizon: greedy tokens looked ahead.
        shares: by question, how much of its rare words each segment holds, once that was looked up
            (`npukv.relevance.words.word_shares`); plans of single questions share it.
    """

    tokens: Tokens
    asked: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    segments: Sequence[Segment]
    horizon: int
    shares: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def shared(self) -> bool:
        """Whether a segment is read once and its keys and values serve several questions."""
        return len(self.prompts) > 1 and len({prompt.head for prompt in self.prompts}) == 1

    def of(self, question: int) -> Plan:
        """The plan of one of the questions."""
        return replace(self, asked=(self.asked[question],), prompts=(self.prompts[question],))

    def identity(self, lm: LanguageModel, forward: str = "") -> dict[str, str]:
        """What the scores depend on besides the question, as hashes; `forward` names a way of reading other than the
        model's own."""
        if isinstance(self.segments, Windows):
            lengths = [self.segments.length]
        else:
            lengths = sorted({segment.end - segment.start for segment in self.segments})
        first_two = [segment.start for segment in self.segments[:2]]
        settings = fingerprint(lengths, first_two, self.horizon, self.shared and lm.rewindable, lm.device.name)
        if forward:
            settings = fingerprint(settings, forward)
        text = self.tokens.fingerprint or fingerprint(self.tokens.ids.tobytes())
        return {"text": text, "model": lm.fingerprint, "settings": settings}

    def keys(self) -> list[str]:
        """What identifies each question in a journal."""
        return [fingerprint(prompt.head, prompt.question, prompt.tail) for prompt in self.prompts]


def default_segment(context: int) -> int:
    """A fifth of the context, so that four segments, the question and the answer fit into it; at most 1024 tokens."""
    fifth = context // 5
    return min(1024, fifth // 64 * 64 if fifth >= 64 else max(1, fifth))


def make_plan(
    lm: LanguageModel,
    tokens: Tokens,
    questions: tuple[str, ...],
    *,
    segment: int | None = None,
    overlap: int | None = None,
    measure: str = measures.DEFAULT,
    horizon: int | None = None,
    answer_prefix: str = "",
) -> Plan:
    """Settle a run.

    Args:
        segment: tokens per segment; None = a fifth of the model's context.
        overlap: tokens two neighbours share; None = a sixth of a segment. A fact longer than this can be cut in two.
        horizon: tokens to look ahead; None = what the measure needs.

    Raises:
        InputError: an empty question, an unknown measure, or lengths that do not fit the model's context.
    """
    horizon = measures.default_horizon(measure) if horizon is None else horizon
    if horizon < 1:
        raise InputError(f"got a horizon of {horizon} tokens, expected at least 1; raise --horizon")
    if not questions:
        raise InputError("got no question, expected at least one; pass it with --question")
    prompts = tuple(build_prompt(lm.tokenizer, question, answer_prefix) for question in questions)
    longest = max(len(prompt) for prompt in prompts)
    room = lm.context - longest - horizon
    if room < 1:
        raise InputError(
            f"got a question of {longest} tokens (its prompt included), expected fewer than {lm.context - horizon}: "
            f"the model's context is {lm.context} tokens; shorten the question or take a model with a longer context"
        )
    length = min(default_segment(lm.context), room) if segment is None else segment
    if length > room:
        raise InputError(
            f"got segments of {length} tokens, expected at most {room}: the model's context of {lm.context} also holds "
            f"the question ({longest}) and {horizon} tokens looked ahead; lower --segment"
        )
    windows = Windows(len(tokens), length, length // 6 if overlap is None else overlap, tokens.span)
    return Plan(tokens, questions, prompts, windows, horizon)
