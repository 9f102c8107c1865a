"""What scripts/evaluate_bundled.py writes: figures by method, tables, single results."""

from __future__ import annotations

import json
import lzma
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from npukv.evaluation.facts import KINDS
from npukv.evaluation.metrics import mean_and_interval
from npukv.evaluation.summary import write_json, write_text


def ranks_and_answers(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each method: scores, and how often the evidence is first or among the first four, in all and by kind."""

    def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        ranks = [row["rank"] for row in rows if row["rank"] is not None]
        return {
            "score": mean_and_interval(row["score"] for row in rows),
            "best1": mean_and_interval(float(rank < 1) for rank in ranks) if ranks else None,
            "best4": mean_and_interval(float(rank < 4) for rank in ranks) if ranks else None,
            "ranks": ranks,
        }

    grouped = defaultdict(list)
    for record in records:
        grouped[record["method"]].append(record)
    found = {}
    for method, group in grouped.items():
        kinds = {kind: [row for row in group if row["task"].endswith(kind.replace(" ", ""))] for kind in KINDS}
        found[method] = {**figures(group), "kinds": {kind: figures(rows) for kind, rows in kinds.items() if rows}}
    return found


def percent(score: dict[str, Any] | None) -> str:
    if score is None:
        return "–"
    return f"{100 * score['mean']:.1f} ({100 * score['low']:.0f}–{100 * score['high']:.0f})"


class Log:
    """Tables as they come, on standard output and in a file; all figures in another, single results in a packed one.

    What has been measured is in the files at once: a long evaluation may be stopped.
    """

    def __init__(self, out: Path, results: dict[str, Any]):
        self.out, self.results = out, results
        self.text = ""
        self.records = out / "records.jsonl.xz"
        self.records.unlink(missing_ok=True)

    def table(self, title: str, rows: Sequence[Sequence[Any]], head: Sequence[str]) -> None:
        cells = [[str(cell) for cell in row] for row in (head, *rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        added = "\n".join(["", title, *lines, ""])
        print(added, flush=True)
        self.text += added
        write_text(self.out / "tables.txt", self.text)

    def ranks(self, title: str, found: dict[str, Any]) -> None:
        rows = []
        for method, entry in found.items():
            row = [method, percent(entry["best1"]), percent(entry["best4"]), percent(entry["score"])]
            for kind in KINDS:
                cell = entry["kinds"].get(kind)
                first = f" / {100 * cell['best1']['mean']:.0f}" if cell and cell["best1"] else ""
                row.append(f"{100 * cell['score']['mean']:.0f}{first}" if cell else "–")
            rows.append(row)
        head = ["method", "rank 1 (%, 95%)", "top 4", "answers", *(f"{kind}: answers / rank 1" for kind in KINDS)]
        self.table(title, rows, head)

    def keep(self, part: str, records: Sequence[dict[str, Any]]) -> None:
        """Single results, and the figures they came with."""
        with lzma.open(self.records, "at", encoding="utf-8", preset=1) as file:
            file.writelines(json.dumps({"part": part, **record}) + "\n" for record in records)
        self.save()

    def save(self) -> None:
        write_json(self.out / "results.json", self.results)
