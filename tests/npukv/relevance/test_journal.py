"""What is committed stays, what is not ours is left alone."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npukv.errors import RunError
from npukv.relevance.journal import Journal, fingerprint
from npukv.relevance.measures import Measured

IDENTITY = {"text": "t", "model": "m", "settings": "s"}


def measured(rows: int, seed: int = 0) -> Measured:
    draw = np.random.default_rng(seed)
    entropies = draw.random((rows, 4), dtype=np.float32)
    entropies[::2, 2:] = np.nan
    return Measured(entropies, draw.random(rows, dtype=np.float32))


def same(found: dict[int, tuple[np.ndarray, float]], segments: list[int], expected: Measured) -> bool:
    return list(found) == segments and all(
        found[segment][0].tobytes() == expected.entropies[i].tobytes() and found[segment][1] == expected.question[i]
        for i, segment in enumerate(segments)
    )


def test_what_is_recorded_comes_back_bit_for_bit(tmp_path: Path) -> None:
    first, second = measured(3, 1), measured(3, 2)
    journal = Journal(tmp_path / "a" / "run", IDENTITY)
    journal.record([4, 0, 9], {"q1": first, "q2": second})
    journal.close()
    again = Journal(tmp_path / "a" / "run", IDENTITY)
    order = [1, 0, 2]
    assert same(again.scored("q1"), [0, 4, 9], Measured(first.entropies[order], first.question[order]))
    assert same(again.scored("q2"), [0, 4, 9], Measured(second.entropies[order], second.question[order]))
    assert again.scored("q3") == {}
    again.close()


def test_facts_are_remembered_and_replaced(tmp_path: Path) -> None:
    journal = Journal(tmp_path, IDENTITY)
    assert journal.recall("batch") is None
    journal.remember("batch", "8")
    journal.remember("batch", "4")
    assert journal.recall("batch") == "4"
    journal.close()


def test_each_rank_has_a_file(tmp_path: Path) -> None:
    journals = [Journal(tmp_path, IDENTITY, rank) for rank in range(2)]
    journals[0].record([0], {"q": measured(1)})
    assert journals[1].scored("q") == {}
    assert sorted(path.name for path in tmp_path.glob("*.sqlite")) == ["scores-0.sqlite", "scores-1.sqlite"]
    for journal in journals:
        journal.close()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"text": "x"}, "its text differs"),
        ({"model": "x"}, "its model differs"),
        ({"settings": "x"}, "its settings differs"),
        ({"model": "x", "text": "y"}, "its text and model differ"),
    ],
)
def test_another_runs_scores_are_refused_and_kept(tmp_path: Path, changed: dict[str, str], named: str) -> None:
    journal = Journal(tmp_path, IDENTITY)
    expected = measured(2)
    journal.record([0, 1], {"q": expected})
    journal.close()
    with pytest.raises(RunError, match=f"{named}.*choose another --run directory"):
        Journal(tmp_path, IDENTITY | changed)
    journal = Journal(tmp_path, IDENTITY)
    assert same(journal.scored("q"), [0, 1], expected)
    journal.close()


def test_a_segment_scored_twice_is_an_error_and_undoes_its_batch(tmp_path: Path) -> None:
    journal = Journal(tmp_path, IDENTITY)
    first = measured(2)
    journal.record([0, 1], {"q": first})
    with pytest.raises(RunError, match=r"scored twice.*do two runs share this directory"):
        journal.record([2, 1], {"q": measured(2, 5)})
    assert same(journal.scored("q"), [0, 1], first)
    journal.close()


def test_what_is_no_journal_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "scores-0.sqlite"
    data = b"Dear diary, " * 500
    path.write_bytes(data)
    with pytest.raises(RunError, match="no journal: choose another --run directory"):
        Journal(tmp_path, IDENTITY)
    assert path.read_bytes() == data


@pytest.mark.parametrize("application", [0, 0x6E6B7602, 12345])
def test_anothers_database_is_refused_and_left_as_it_is(tmp_path: Path, application: int) -> None:
    path = tmp_path / "scores-0.sqlite"
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA application_id = {application}")
        other.execute("CREATE TABLE score (name TEXT)")
    other.close()
    data = path.read_bytes()
    with pytest.raises(RunError, match="is not a journal of this version"):
        Journal(tmp_path, IDENTITY)
    assert path.read_bytes() == data


def test_damaged_journal_is_a_run_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path, IDENTITY)
    journal.record(range(500), {"q": measured(500)})
    journal.close()
    path = tmp_path / "scores-0.sqlite"
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))  # all but the first page
    with pytest.raises(RunError, match=r"scores-0\.sqlite: .*damaged"):
        Journal(tmp_path, IDENTITY).scored("q")


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be made .*choose another --run directory"):
        Journal(tmp_path / "file" / "run", IDENTITY)
    with pytest.raises(RunError, match="cannot be made"):
        Journal(tmp_path / "file", IDENTITY)


def test_a_folder_in_the_files_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scores-0.sqlite").mkdir()
    with pytest.raises(RunError, match="choose a --run directory that can be written"):
        Journal(tmp_path, IDENTITY)


@pytest.fixture
def without_privileges():
    """Nobody's eyes: the superuser may write anywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_read_only_directory_is_refused(without_privileges: None) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        Journal(folder / "run", IDENTITY).close()
        for path in (folder / "run" / "scores-0.sqlite", folder / "run", folder):
            path.chmod(path.stat().st_mode & ~0o222)
        try:
            with pytest.raises(RunError, match="choose a --run directory that can be written"):
                journal = Journal(folder / "run", IDENTITY)
                journal.record([0], {"q": measured(1)})
            with pytest.raises(RunError, match="cannot be made"):
                Journal(folder / "other", IDENTITY)
        finally:
            for path in (folder, folder / "run"):
                path.chmod(0o700)


def test_full_disk_keeps_what_is_committed(tmp_path: Path) -> None:
    """SQLite's own SQLITE_FULL: the file may not grow beyond so many pages."""
    journal = Journal(tmp_path, IDENTITY)
    journal.record(range(100), {"q": measured(100)})
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(RunError, match="full; free some space and run again with the same --run"):
        journal.record(range(100, 2000), {"q": measured(1900)})
    assert same(journal.scored("q"), list(range(100)), measured(100))
    journal._db.execute("PRAGMA max_page_count = 100000")
    journal.record(range(100, 2000), {"q": measured(1900, 3)})
    assert len(journal.scored("q")) == 2000
    journal.close()


def test_another_writer_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path, IDENTITY)
    journal._db.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RunError, match="locked; another run is using it"):
        journal.record([0], {"q": measured(1)})
    other.execute("ROLLBACK")
    other.close()
    journal.record([0], {"q": measured(1)})
    journal.close()


parts = st.one_of(st.text(max_size=4), st.integers(), st.lists(st.integers(), max_size=3))


@given(st.lists(parts, max_size=4), st.lists(parts, max_size=4))
def test_fingerprints_differ_with_their_parts(one: list, other: list) -> None:
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


def test_fingerprint_tells_where_parts_end() -> None:
    assert len({fingerprint("ab", "c"), fingerprint("a", "bc"), fingerprint("abc"), fingerprint("abc", "")}) == 4
