"""Samples over one context, made ready for methods: tokens, segments and scores, each computed once and when needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from npukv.errors import InputError
from npukv.evaluation.sample import Sample

if TYPE_CHECKING:
    from npukv.language_model import LanguageModel
    from npukv.prompt import Prompt
    from npukv.relevance.cut import Segment
    from npukv.relevance.pick import Keep
    from npukv.relevance.score import Progress
    from npukv.relevance.scores import Scores
    from npukv.text import Tokens


def import_bm25s() -> Any:
    """The bm25s library. It starts jax where that is installed, which takes three quarters of a card at once."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import bm25s

    return bm25s


class Case:
    """One or more samples that share their context, on a model.

    Args:
        lm: the model.
        samples: with equal contexts; several share one reading of the segments.
        segment: tokens per segment; None = the default of ``npukv.score_segments``.
        overlap: tokens two neighbours share; None = its default.
        batch: segments per forward pass; None = by the device's free memory.
        run: directory that keeps the segments' scores, for contexts too long to score twice; None = nowhere.
        tokens: the context's tokens where they are known already.
        ahead: as in ``npukv.answer``.

    Raises:
        InputError: no samples, or contexts that differ.
    """

    def __init__(
        self,
        lm: LanguageModel,
        samples: Sequence[Sample],
        *,
        segment: int | None = None,
        overlap: int | None = None,
        batch: int | None = None,
        run: Path | None = None,
        progress: Progress | None = None,
        tokens: Tokens | None = None,
        ahead: bool = True,
    ):
        if not samples or any(sample.context != samples[0].context for sample in samples[1:]):
            raise InputError(f"got {len(samples)} samples, expected at least one, all over the same context")
        self.lm = lm
        self.samples = list(samples)
        self.segment = segment
        self.overlap = overlap
        self.batch = batch
        self.run = run
        self.progress = progress
        self.ahead = ahead
        self.seconds = 0.0  # wall time of scoring
        self._looks: dict[tuple[Any, ...], Scores] = {}
        if tokens is not None:
            self.tokens = tokens

    @cached_property
    def tokens(self) -> Tokens:
        from npukv.text import tokenize

        return tokenize(self.lm.tokenizer, self.samples[0].context)

    def prompt(self, i: int, text: int | None = None, *, ahead: bool | None = None) -> Prompt:
        """What surrounds the ``text`` tokens that sample ``i`` is answered from; None = a segment's."""
        from npukv.relevance.answer import prompt_for_answer

        if text is None:
            text = min(len(self.tokens), self.segments[0].end - self.segments[0].start)
        sample = self.samples[i]
        wanted = self.ahead if ahead is None else ahead
        return prompt_for_answer(self.lm, sample.question, text, sample.max_new_tokens, sample.answer_prefix, wanted)

    @cached_property
    def segments(self) -> Sequence[Segment]:
        """The windows of the context, as ``npukv.score_segments`` cuts them."""
        from npukv.relevance.plan import make_plan

        questions = tuple(sample.question for sample in self.samples)
        longest = max((sample.answer_prefix for sample in self.samples), key=len)
        plan = make_plan(
            self.lm, self.tokens, questions, segment=self.segment, overlap=self.overlap, answer_prefix=longest
        )
        return plan.segments

    @cached_property
    def scores(self) -> list[Scores]:
        """Scores of all segments for each sample; samples with the same answer prefix share the segments' reading."""
        from npukv.relevance.score import score_segments

        # The segments must be the same for all measures and prefixes, so their length is settled here.
        length = self.segments[0].end - self.segments[0].start
        found: dict[int, Scores] = {}
        for prefix in dict.fromkeys(sample.answer_prefix for sample in self.samples):
            numbers = [i for i, sample in enumerate(self.samples) if sample.answer_prefix == prefix]
            scored = score_segments(
                self.lm,
                self.tokens,
                [self.samples[i].question for i in numbers],
                segment=length,
                overlap=self.overlap,
                answer_prefix=prefix,
                run=self.run,
                batch=self.batch,
                progress=self.progress,
            )
            self.seconds += scored[0].seconds
            found |= dict(zip(numbers, scored, strict=True))
        return [found[i] for i in range(len(self.samples))]

    def rank_again(self, i: int, scores: Scores, keep: Keep, room: int, second_look: bool) -> Scores:
        """As `npukv.relevance.answer.rank_again`; what several methods look at is looked at once."""
        from npukv.relevance.answer import rank_again
        from npukv.relevance.second_look import best_of

        length = scores.segments[0].end - scores.segments[0].start
        looked = best_of(scores, keep.count or room // length)
        key = i, scores.measure, keep.passages, second_look, looked.tobytes()
        if key not in self._looks:
            options = {"answer_prefix": self.samples[i].answer_prefix, "batch": self.batch}
            self._looks[key] = rank_again(self.lm, self.tokens, scores, keep, room, second_look, **options)
        return self._looks[key]

    @cached_property
    def texts(self) -> list[str]:
        """The segments' characters."""
        context = self.samples[0].context
        return [context[segment.char_start : segment.char_end] for segment in self.segments]

    @cached_property
    def word_index(self) -> Any:
        """A bm25s index of the segments' words."""
        bm25s = import_bm25s()
        index = bm25s.BM25()
        index.index(bm25s.tokenize(self.texts, stopwords="en", show_progress=False), show_progress=False)
        return index

    def room(self, i: int, text: int | None = None) -> int:
        """Tokens of the context that fit the model beside sample ``i``'s answer and its prompt, which is that for
        ``text`` tokens (see ``prompt``).

        Raises:
            InputError: none do.
        """
        prompt, new = len(self.prompt(i, text)), self.samples[i].max_new_tokens
        if self.lm.context - prompt - new < 1:
            raise InputError(
                f"task {self.samples[i].task!r} asks with {prompt} tokens and generates {new}: more than the model's "
                f"context of {self.lm.context}; take a model with a longer one"
            )
        return self.lm.context - prompt - new

    def relevant(self, i: int) -> list[set[int]]:
        """For each piece of evidence of sample ``i``, the segments that hold all of it.

        Where no segment does, because a border cuts it: those that hold most of it.
        """
        starts, ends = self._places
        found = []
        for start, end in self.samples[i].evidence:
            held = np.minimum(ends, end) - np.maximum(starts, start)
            found.append({int(index) for index in np.flatnonzero(held == held.max())})
        return found

    def covering(self, i: int) -> list[int]:
        """Segments that together hold all of sample ``i``'s evidence: one for each piece that no border cuts."""
        starts, ends = self._places
        found: set[int] = set()
        for (start, end), holding in zip(self.samples[i].evidence, self.relevant(i), strict=True):
            best = min(holding)
            whole = starts[best] <= start and end <= ends[best]
            found |= {best} if whole else {int(index) for index in np.flatnonzero((starts < end) & (start < ends))}
        return sorted(found)

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last characters of the segments, each int64 [n]."""
        starts = np.array([segment.char_start for segment in self.segments])
        return starts, np.array([segment.char_end for segment in self.segments])

    def rank(self, i: int, ranking: np.ndarray) -> int | None:
        """How many segments a method must keep to have all of the evidence, less one: 0 = the best one is enough.

        For several pieces of evidence, the worst of their ranks less those before it. None without evidence.
        """
        place = np.empty(len(ranking), dtype=np.int64)
        place[ranking] = np.arange(len(ranking))
        ranks = [min(int(place[index]) for index in segments) for segments in self.relevant(i)]
        return max(ranks) - (len(set(ranks)) - 1) if ranks else None
