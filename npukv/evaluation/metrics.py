"""How an output is judged against a sample's expected answers, and how sure a rate is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from npukv.errors import InputError
from npukv.evaluation.sample import Sample


def contains_all(output: str, answers: Sequence[str]) -> float:
    """Fraction of ``answers`` found in ``output``, case ignored (RULER's ``string_match_all``, here in 0..1)."""
    found = output.lower()
    return sum(answer.lower() in found for answer in answers) / len(answers)


def contains_any(output: str, answers: Sequence[str]) -> float:
    """1.0 when at least one of ``answers`` is in ``output``, case ignored (RULER's ``string_match_part``)."""
    found = output.lower()
    return float(any(answer.lower() in found for answer in answers))


def equals_first(output: str, answers: Sequence[str]) -> float:
    """1.0 when ``output``, up to its first period or newline, is ``answers[0]``; outer spaces ignored."""
    said = re.split(r"[.\n]", output.strip(), maxsplit=1)[0].strip()
    return float(said == answers[0].strip())


METRICS = {"all": contains_all, "part": contains_any, "exact": equals_first}


def score_output(sample: Sample, output: str) -> float:
    """Score of ``output`` in 0..1 by the sample's own metric.

    Raises:
        InputError: the sample names no known metric, or expects no answer.
    """
    if sample.metric not in METRICS:
        raise InputError(f"got metric {sample.metric!r} of task {sample.task!r}, expected one of: {', '.join(METRICS)}")
    if not sample.answers:
        raise InputError(f"got a sample of task {sample.task!r} without an answer, expected at least one")
    return METRICS[sample.metric](output, sample.answers)


def lenient_score(sample: Sample, output: str) -> float | None:
    """For metric "exact": 1.0 when the first sentence of ``output`` holds the answer as whole words, case ignored.

    Chat models answer in sentences ("The magic number for oak is 4711."), which "exact" counts as wrong. None for the
    other metrics, which look for the answers anywhere in the output already.
    """
    if sample.metric != "exact":
        return None
    sentence = re.split(r"(?<=[.!?])\s|\n", output.strip(), maxsplit=1)[0]
    answer = re.escape(sample.answers[0].strip())
    return float(re.search(rf"(?<!\w){answer}(?!\w)", sentence, re.IGNORECASE) is not None)


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a rate, 95% by default.

    ``successes`` may be a sum of scores in 0..1: a score between 0 and 1 varies no more than a 0/1 score of the same
    mean, so the interval is then wider than need be, never too narrow.

    Returns:
        (low, high), within 0..1; (0.0, 1.0) for n = 0.
    """
    if not 0 <= successes <= n:
        raise InputError(f"got {successes} successes in {n} trials, expected between 0 and {n}")
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mean_and_interval(scores: Iterable[float]) -> dict[str, float | int]:
    """``{"mean", "low", "high", "n"}`` of scores in 0..1; low and high are the Wilson 95% interval."""
    values = list(scores)
    low, high = wilson(sum(values), len(values))
    return {"mean": sum(values) / len(values) if values else math.nan, "low": low, "high": high, "n": len(values)}
