"""Results on disk, one JSON line each, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from npukv.errors import RunError

FIELDS = ("task", "length", "index", "method")  # what names a result


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[field] for field in FIELDS)


class Results:
    """Results of one evaluation: in memory, and in ``results.jsonl`` of a run directory if one is given.

    The file's first line says what the results depend on (model, text, seed, ...); tasks, methods, lengths and numbers
    of samples may grow from run to run.

    Args:
        folder: the run directory, made if absent; None = memory alone.
        identity: what the results depend on besides the fields that name them.

    Raises:
        RunError: the directory cannot be used, or holds results of another evaluation.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any]):
        self.records: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.skipped: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.path = None if folder is None else Path(folder) / "results.jsonl"
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            data = self.path.read_bytes() if self.path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):  # a line that a kill cut short: its sample runs again
                os.truncate(self.path, len(whole))
        except OSError as error:
            raise RunError(f"{self.path}: {error.strerror}; choose another --run directory") from error
        lines = whole.splitlines()
        if not lines:
            self._append([{"identity": identity}])
            return
        try:
            found = json.loads(lines[0])["identity"]
            self._take([json.loads(line) for line in lines[1:]])
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.path}: is not a file of results; choose another --run directory") from error
        differing = [name for name in identity if found.get(name) != identity[name]]
        if differing:
            raise RunError(
                f"{self.path}: holds results of another evaluation (its {', '.join(differing)} "
                f"{'differs' if len(differing) == 1 else 'differ'}); choose another --run directory, or remove this one"
            )

    def __contains__(self, name: tuple[Any, ...]) -> bool:
        return name in self.records or name in self.skipped

    def add(self, records: list[dict[str, Any]]) -> None:
        """Keep some results; they are on the disk when this returns.

        One with the field "skipped", a reason, stands for a method that does not apply to a sample.

        Raises:
            RunError: they could not be written; what was there before is safe.
        """
        self._append(records)
        self._take(records)

    def _take(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            (self.skipped if "skipped" in record else self.records)[key(record)] = record

    def _append(self, records: list[dict[str, Any]]) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                f"{self.path}: {error.strerror}; make room and run again with the same --run: earlier results are kept"
            ) from error
