"""The plots of scripts/bench_20m.py: what they show of a rank's time, and that a part that was not run leaves none."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
pytest.importorskip("matplotlib")

from bench_20m_report import draw, longest_run


def test_the_longest_work_of_a_rank_is_shown() -> None:
    tokenised = [[0.1, 0], [0.2, 40_000_000]]  # characters
    scored = [[1.0, 64], [50.0, 128], [99.0, 192]]
    again = [[99.5, 16]]
    assert longest_run(tokenised + scored + again) == scored
    assert longest_run([]) == []


@pytest.mark.parametrize(
    "found, plots",
    [
        ({}, 1),  # an empty one
        ({"one": {"growth": [{"tokens": 1e6 * n, "seconds": n, "peak_memory": 3e9} for n in (1, 2)]}}, 1),
        (
            {
                "one": {"recall": {"segments": 10, "sketch": [0, 3], "bm25": [1, 2]}},
                "many": {"same": {"timeline": [[[0.0, 0], [1.0, 9]]]}},
            },
            2,
        ),
        ({"shape": {f"whole {m}": {"timeline": [[[0.0, 0], [1.0, 9]]]} for m in ("exact", "8bit")}}, 2),
    ],
)
def test_only_what_was_measured_is_drawn(found: dict, plots: int, tmp_path: Path) -> None:
    draw(found, tmp_path)
    assert (tmp_path / "bench-20m.svg").read_text().count('id="axes_') == plots
