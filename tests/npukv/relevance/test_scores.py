"""Scores one can sort, save and plot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from npukv.errors import InputError
from npukv.relevance.cut import Segment
from npukv.relevance.measures import Measured
from npukv.relevance.plot import check_plot
from npukv.relevance.scores import Scores

SEGMENTS = tuple(Segment(i, 4 * i, 4 * i + 5, 20 * i, 20 * i + 25) for i in range(4))
MEASURED = Measured(
    np.array([[2.0, np.nan], [1.0, 3.0], [1.0, 1.0], [0.5, 0.5]], dtype=np.float32),
    np.array([1.0, 1.0, 2.0, 3.0], dtype=np.float32),
    np.array([0.0, 0.4, 0.8, 1.0]),
)
SCORES = Scores("Who?", SEGMENTS, MEASURED)


def test_views_of_what_was_measured() -> None:
    assert len(SCORES) == 4
    assert SCORES.values.tolist() == [5.0, 4.0, 3.0, 3.5]
    assert SCORES.by("certainty+question").tolist() == [3.0, 3.0, 3.0, 3.5]
    assert SCORES.first.tolist() == [2.0, 1.0, 1.0, 0.5]
    assert SCORES.entropy.tolist() == [2.0, 2.0, 1.0, 0.5]
    assert SCORES.question.tolist() == [1.0, 1.0, 2.0, 3.0]
    assert SCORES.by("certainty").tolist() == SCORES.entropy.tolist()
    assert SCORES.entropies is MEASURED.entropies
    with pytest.raises(InputError, match="got measure 'best'"):
        SCORES.by("best")


def test_ranking_puts_the_best_first_and_of_equals_the_earlier() -> None:
    assert SCORES.ranking().tolist() == [2, 3, 1, 0]
    assert Scores("Who?", SEGMENTS, MEASURED, "certainty+question").ranking().tolist() == [0, 1, 2, 3]
    assert Scores("Who?", SEGMENTS, MEASURED, "certainty").ranking().tolist() == [3, 2, 0, 1]
    assert Scores("Who?", SEGMENTS, MEASURED, "first").ranking().tolist() == [3, 1, 2, 0]


def test_saved_as_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text("old")
    Scores("Who?", SEGMENTS, MEASURED, "question").save(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[1] == {
        "segment": 1,
        "start": 20,
        "end": 45,
        "score": 1.0,
        "words": 0.4,
        "certainty+question+words": 4.0,
        "certainty+question": 3.0,
        "certainty": 2.0,
        "question": 1.0,
        "first": 1.0,
    }
    assert [line["segment"] for line in lines] == [0, 1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.jsonl"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text("old")
    broken = [*SCORES.records()[:2], {"segment": object()}]
    monkeypatch.setattr(Scores, "records", lambda self: broken)
    with pytest.raises(TypeError):
        SCORES.save(path)
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("name", "begins"), [("a.png", b"\x89PNG\r\n\x1a\n"), ("a.PDF", b"%PDF-"), ("a.svg", b"<?xml")]
)
def test_plot_is_a_picture(tmp_path: Path, name: str, begins: bytes) -> None:
    pytest.importorskip("matplotlib")
    SCORES.plot(tmp_path / name, chosen=[1, 3])
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_plot_marks_the_chosen_by_rank(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.svg"
    long = "Who " + "went up " * 50
    Scores(long, SEGMENTS, MEASURED, "first").plot(path, chosen=[3, 0])
    marked = path.read_text()
    drawn = {line.split("<!--")[1].split("-->")[0].strip() for line in marked.splitlines() if "<!--" in line}
    assert {"1", "4"} <= drawn  # ranks of segments 3 and 0
    assert any("4 segments" in text and "…" in text for text in drawn)
    SCORES.plot(path)
    assert "kept" not in path.read_text()


@pytest.mark.parametrize("name", ["a.txt", "a", "a.png.gz", "a.jpg"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match=r"ends with one of: \.png, \.svg, \.pdf"):
        SCORES.plot(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_plot_needs_a_folder_to_go_to(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match="its folder does not exist; make it first"):
        check_plot(tmp_path / "nowhere" / "a.png")


def test_plot_without_matplotlib_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'npukv\[plots\]'"):
        check_plot(tmp_path / "a.png")
