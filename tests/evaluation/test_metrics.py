"""How outputs are judged, and intervals against published and exact values."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npukv.errors import InputError
from npukv.evaluation.metrics import mean_and_interval, score_output, wilson
from npukv.evaluation.sample import Sample


def sample(metric: str, *answers: str) -> Sample:
    return Sample("test", "context", "question?", answers, (), metric=metric)


@pytest.mark.parametrize(
    ("metric", "answers", "output", "score"),
    [
        ("all", ("123", "Oak"), " oak, and 0123.", 1.0),
        ("all", ("123", "456", "789", "12"), " 123.", 0.5),
        ("all", ("123",), "", 0.0),
        ("part", ("New York", "NYC"), " It is nyc, they say", 1.0),
        ("part", ("New York", "NYC"), " new jersey", 0.0),
        ("exact", ("oak",), " oak. And then", 1.0),
        ("exact", ("oak",), " oak\nQuestion: what", 1.0),
        ("exact", ("oak",), " oaks.", 0.0),
        ("exact", ("oak",), " Oak.", 0.0),
        ("exact", ("123",), " 1234.", 0.0),
    ],
)
def test_metrics(metric: str, answers: tuple[str, ...], output: str, score: float) -> None:
    assert score_output(sample(metric, *answers), output) == score


def test_unknown_metric_and_missing_answers_are_refused() -> None:
    with pytest.raises(InputError, match=r"'most'.*one of: all, part, exact"):
        score_output(sample("most", "x"), "x")
    with pytest.raises(InputError, match="without an answer"):
        score_output(sample("all"), "x")


@pytest.mark.parametrize(
    # The first two: Newcombe (1998), Statistics in Medicine 17, table I, method 3; the others by hand from the formula.
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_against_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


def test_wilson_of_nothing_knows_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(InputError, match="between 0 and 3"):
        wilson(4, 3)


def test_wilson_covers_the_true_rate_about_as_often_as_it_says() -> None:
    rng = random.Random(1)
    for rate in (0.05, 0.5, 0.9):
        covered = 0
        for _ in range(1000):
            low, high = wilson(sum(rng.random() < rate for _ in range(50)), 50)
            covered += low <= rate <= high
        assert 0.92 <= covered / 1000 <= 0.985


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_wilson_holds_the_rate_and_stays_in_bounds(n: int, share: float) -> None:
    low, high = wilson(share * n, n)
    assert 0 <= low <= share + 1e-9 and share - 1e-9 <= high <= 1


def test_mean_and_interval() -> None:
    found = mean_and_interval(iter([1.0, 0.0, 0.5]))
    assert (found["mean"], found["n"]) == (0.5, 3) and found["low"] < 0.5 < found["high"]
    assert math.isnan(mean_and_interval([])["mean"])
