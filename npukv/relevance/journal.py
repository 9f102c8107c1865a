"""What has been scored, kept on disk as it comes, so that an interrupted run resumes where it stopped."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from npukv.errors import RunError
from npukv.relevance.measures import Measured

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (field TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS score (
    question TEXT NOT NULL, segment INTEGER NOT NULL, entropies BLOB NOT NULL, likelihood REAL NOT NULL,
    PRIMARY KEY (question, segment)
) WITHOUT ROWID;
"""
#: Marks the file as ours, and its layout's version ("nkv" and a number).
_APPLICATION = 0x6E6B7601


def fingerprint(*parts: Any) -> str:
    """A short hash of texts, byte strings or JSON values."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def scored_by_all(
    folder: str | Path, identity: dict[str, str], questions: Sequence[str]
) -> list[dict[int, tuple[np.ndarray, float]]]:
    """What all journals of a run directory hold, however many ranks wrote them: as `Journal.scored`, by question.

    For a moment when no rank writes.

    Raises:
        RunError: as `Journal`.
    """
    found: list[dict[int, tuple[np.ndarray, float]]] = [{} for _ in questions]
    for path in sorted(Path(folder).glob("scores-*.sqlite")):
        journal = Journal(folder, identity, int(path.stem.removeprefix("scores-")))
        try:
            for known, question in zip(found, questions, strict=True):
                known |= journal.scored(question)
        finally:
            journal.close()
    return [dict(sorted(known.items())) for known in found]


class Journal:
    """Scores of one run directory and rank, in an SQLite file.

    A run directory belongs to one text, model and settings; several questions may share it. A row is written once and
    never changed. Rows are committed batch by batch: after a kill, everything before the last batch is there.

    Args:
        folder: the run directory, made if absent.
        identity: what the scores depend on besides the question, by name (text, model, settings), as hashes.
        rank: this process's rank, one file each.

    Raises:
        RunError: the directory cannot be written, its journal is damaged or no journal, or belongs to another run.
    """

    def __init__(self, folder: str | Path, identity: dict[str, str], rank: int = 0) -> None:
        self.path = Path(folder) / f"scores-{rank}.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot be made ({error.strerror}); choose another --run directory") from None
        with self._explained():
            self._db = sqlite3.connect(self.path, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise
        self._claim(identity)

    def _prepare(self) -> None:
        known = self._db.execute("PRAGMA application_id").fetchone()[0]
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and known != _APPLICATION:
            raise RunError(f"{self.path}: is not a journal of this version of npukv; choose another --run directory")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
        self._db.executescript(_SCHEMA)

    def _claim(self, identity: dict[str, str]) -> None:
        found = {name: self.recall(name) for name in identity}
        differing = [name for name, value in identity.items() if found[name] not in (None, value)]
        if differing:
            self.close()
            raise RunError(
                f"{self.path}: holds scores of another run (its {' and '.join(differing)} "
                f"{'differs' if len(differing) == 1 else 'differ'}); expected the same text, model and settings: "
                "choose another --run directory, or remove this one"
            )
        for name, value in identity.items():
            self.remember(name, value)

    def recall(self, name: str) -> str | None:
        """A fact about the run noted earlier, None if there is none."""
        with self._explained():
            row = self._db.execute("SELECT value FROM run WHERE field = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def remember(self, name: str, value: str) -> None:
        """Note a fact about the run."""
        with self._explained():
            self._db.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (name, value))

    def record(self, segments: Sequence[int], measured: Mapping[str, Measured]) -> None:
        """Commit one batch as a whole: what was measured for these segments, by question.

        Raises:
            RunError: the disk is full or gone; all batches before this one are safe.
        """
        rows = []
        for question, values in measured.items():
            data, width = values.entropies.astype("<f4").tobytes(), 4 * values.entropies.shape[1]
            pieces = (data[at : at + width] for at in range(0, len(data), width))
            rows += [(question, *row) for row in zip(segments, pieces, values.question.tolist(), strict=True)]
        with self._explained():
            self._db.execute("BEGIN")
            try:
                # plain INSERT: a segment scored twice is an error, not an update
                self._db.executemany("INSERT INTO score VALUES (?, ?, ?, ?)", rows)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def scored(self, question: str) -> dict[int, tuple[np.ndarray, float]]:
        """segment -> (entropies float32 [horizon], likelihood), for everything committed for a question."""
        with self._explained():
            rows = self._db.execute(
                "SELECT segment, entropies, likelihood FROM score WHERE question = ? ORDER BY segment", (question,)
            ).fetchall()
        return {segment: (np.frombuffer(blob, "<f4"), likelihood) for segment, blob, likelihood in rows}

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise RunError(
                f"{self.path}: a segment was scored twice ({error}); do two runs share this directory?"
            ) from error
        except sqlite3.Error as error:
            message = str(error)
            if "full" in message or "disk I/O" in message:
                remedy = "free some space and run again with the same --run: everything committed so far is kept"
            elif "readonly" in message or "unable to open" in message:
                remedy = "choose a --run directory that can be written"
            elif "locked" in message:
                remedy = "another run is using it: wait for that one, or choose another --run directory"
            else:
                remedy = "the file is damaged or no journal: choose another --run directory, or remove this one"
            raise RunError(f"{self.path}: {message}; {remedy}") from error
