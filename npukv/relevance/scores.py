"""Scores of all segments of a text for one question."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npukv.relevance import measures
from npukv.relevance.cut import Segment
from npukv.relevance.measures import MEASURES, Measured


@dataclass(frozen=True)
class Scores:
    """What `npukv.score_segments` returns: n segments, in the text's order, and what was measured for each.

    Attributes:
        asked: the question.
        segments: the segments.
        measured: entropies and question likelihoods, in nats, and shares of words.
        measure: name of the measure `values` uses.
        seconds: wall time of the scoring.
        scored: segments scored now; the others came from the journal.
        shortlist: the segments that were scored at all, ascending; None = all.
    """

    asked: str
    segments: Sequence[Segment]
    measured: Measured
    measure: str = measures.DEFAULT
    seconds: float = 0.0
    scored: int = 0
    shortlist: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.segments)

    def by(self, measure: str) -> np.ndarray:
        """float64 [n] by the measure of that name, lower = more relevant; infinite where nothing was scored."""
        function = MEASURES[measures.check(measure)]
        if self.shortlist is None:
            return function(self.measured)
        values = np.full(len(self), np.inf)
        rows = self.shortlist
        values[rows] = function(self.measured.rows(rows))
        return values

    @property
    def values(self) -> np.ndarray:
        """float64 [n], lower = more relevant."""
        return self.by(self.measure)

    @property
    def first(self) -> np.ndarray:
        """Entropy of the first token, [n]."""
        return self.by("first")

    @property
    def entropy(self) -> np.ndarray:
        """E, mean entropy until the answer ends, [n]."""
        return self.by("certainty")

    @property
    def question(self) -> np.ndarray:
        """Q, mean negative log-likelihood of the question, [n]."""
        return self.by("question")

    @property
    def entropies(self) -> np.ndarray:
        """float32 [n, horizon], NaN after the answer's end."""
        return self.measured.entropies

    def ranking(self) -> np.ndarray:
        """Segment indices, best first; of equals the earlier first."""
        return np.argsort(self.values, kind="stable")

    def records(self) -> list[dict[str, Any]]:
        """One plain dictionary per segment that was scored, in the text's order."""
        columns = {name: self.by(name) for name in MEASURES}
        if self.measured.words is not None:
            columns["words"] = self.measured.words
        return [
            {
                "segment": segment.index,
                "start": segment.char_start,
                "end": segment.char_end,
                "score": float(columns[self.measure][i]),
                **{name: float(column[i]) for name, column in columns.items()},
            }
            for i in (range(len(self)) if self.shortlist is None else self.shortlist)
            for segment in [self.segments[i]]
        ]

    def save(self, path: str | Path) -> None:
        """Write one JSON object per line: segment, start and end (characters), score, words, every measure's value."""
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            for record in self.records():
                file.write(json.dumps(record) + "\n")
        os.replace(partial, path)

    def plot(self, path: str | Path, chosen: Sequence[int] = ()) -> None:
        """Draw the scores along the text, the chosen segments marked, to a .png, .svg or .pdf (needs matplotlib)."""
        from npukv.relevance.plot import plot_scores

        plot_scores(self, Path(path), chosen)
