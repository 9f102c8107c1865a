"""From what was measured to one number, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from npukv.errors import InputError
from npukv.relevance.measures import DEFAULT, HORIZON, MEASURES, Measured, check, default_horizon

NAN = float("nan")
MEASURED = Measured(
    np.array([[1.0, 3.0, NAN, NAN], [0.5, NAN, NAN, NAN], [4.0, 2.0, 1.0, 1.0]], dtype=np.float32),
    np.array([0.25, 2.0, 1.0], dtype=np.float32),
    np.array([0.0, 0.4, 0.9]),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("first", [1.0, 0.5, 4.0]),
        ("certainty", [2.0, 0.5, 2.0]),
        ("question", [0.25, 2.0, 1.0]),
        ("certainty+question", [2.25, 2.5, 3.0]),
        ("certainty+question+words", [4.25, 3.5, 3.0]),
    ],
)
def test_measures(name: str, expected: list[float]) -> None:
    values = MEASURES[name](MEASURED)
    assert values.dtype == np.float64
    assert values.tolist() == expected


def test_names() -> None:
    sums = {"certainty+question", "certainty+question+words"}
    assert set(MEASURES) == {"first", "certainty", "question"} | sums
    assert DEFAULT == "certainty+question+words"


def test_words_that_nobody_looked_up() -> None:
    with pytest.raises(InputError, match=r"got no shares of words.*npukv\.score_segments"):
        MEASURES["certainty+question+words"](Measured(MEASURED.entropies, MEASURED.question))


def test_horizon_is_no_longer_than_the_measure_needs() -> None:
    assert {name: default_horizon(name) for name in MEASURES} == {
        "first": 1,
        "question": 1,
        "certainty": HORIZON,
        "certainty+question": HORIZON,
        "certainty+question+words": HORIZON,
    }


@pytest.mark.parametrize("lookup", [check, default_horizon])
def test_unknown_measure_lists_the_known_ones(lookup) -> None:
    with pytest.raises(InputError, match="got measure 'entropy', expected one of: certainty") as error:
        lookup("entropy")
    assert all(name in str(error.value) for name in MEASURES)
