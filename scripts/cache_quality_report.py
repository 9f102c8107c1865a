"""Figures with intervals, tables and the picture of scripts/bench_cache_quality.py.

python scripts/cache_quality_report.py cache-quality.json    # README's tables, from what was written
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES = 2000


def interval(figure: Any, n: int) -> list[float]:
    """95% interval of figure(numbers of contexts [R, n]) -> [R], by drawing contexts again, always the same way."""
    draws = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    return [float(x) for x in np.nanpercentile(figure(draws), [2.5, 97.5])]


def summarise(cell: Any, full: Any) -> dict[str, Any]:
    """A cell's figures, beside the full cache's on the same contexts, and every single outcome they come from."""
    texts = sorted(set(cell.nll) & set(full.nll))
    asked = {name: sorted(set(cell.answers[name]) & set(full.answers[name])) for name in ("one", "eight")}
    entry: dict[str, Any] = {
        "part": cell.part,
        "method": cell.method,
        "share": cell.share,
        "tokens": cell.tokens,
        "bytes": cell.bytes,
        "contexts": {"text": len(texts)} | {name: len(numbers) for name, numbers in asked.items()},
    }
    if texts:
        more = np.array([cell.nll[i] - full.nll[i] for i in texts])
        agree = np.array([cell.agree[i] for i in texts])
        ratio = lambda i: np.exp(more[i].mean(1))  # noqa: E731
        entry["perplexity_ratio"] = [float(np.exp(more.mean())), *interval(ratio, len(more))]
        entry["agreement"] = [float(agree.mean()), *interval(lambda i: agree[i].mean(1), len(agree))]
    for name, numbers in asked.items():
        if not numbers:
            continue
        right, whole = (
            np.array([answers[name][i] for i in numbers], dtype=float).mean(1)
            for answers in (cell.answers, full.answers)
        )
        entry[name] = [float(right.mean()), *interval(lambda i, right=right: right[i].mean(1), len(right))]
        # Kinds take turns: number, pass key, word, place.
        kinds = np.array(numbers) % 4
        entry[f"{name}_by_kind"] = [
            float(right[kinds == kind].mean()) if (kinds == kind).any() else None for kind in range(4)
        ]
        if whole.sum():

            def of_full(i: Any, right: Any = right, whole: Any = whole) -> Any:
                return right[i].sum(1) / np.maximum(1 / 8, whole[i].sum(1))

            entry[f"{name}_of_full"] = [float(right.sum() / whole.sum()), *interval(of_full, len(right))]
    for name, masses in cell.mass.items():
        if not masses:  # all layers dense
            continue
        chosen, possible = np.array(masses).mean(0)
        entry[f"mass_{name}"] = [float(chosen), float(possible)]
    entry["raw"] = {
        "texts": texts,
        "nll": [round(cell.nll[i], 5) for i in texts],
        "agree": [round(cell.agree[i], 5) for i in texts],
        **{name: ["".join("01"[good] for good in cell.answers[name][i]) for i in asked[name]] for name in asked},
    }
    return entry


def print_tables(found: dict[str, Any]) -> None:
    print(
        f"\n{found['model']['name']}, {found['model']['dtype']}, {found['device']}; contexts of "
        f"{found['options']['tokens']} tokens from {found['text']}; N = {found['contexts']}, or as the row "
        "says (text, 1 fact, 8 facts); 95% intervals by context"
    )
    for part, title in (("compress", "Compressed before the question is seen"), ("select", "Selected by every token")):
        cells = [cell for cell in found["cells"] if cell["part"] in (part, "full")]
        if len(cells) < 2:
            continue
        head = ["method", "keys", "bytes", "perplexity ratio", "agreement", "1 fact", "8 facts", "8 facts of full", "N"]
        if part == "select":
            head += ["mass, text", "of best", "mass, facts", "of best"]
        rows = []
        for cell in sorted(cells, key=lambda c: (-c["share"], c["method"])):
            row = [cell["method"], f"{cell['tokens']:.0f}", f"{cell['bytes']:.1%}"]
            row += [_shown(cell.get("perplexity_ratio"), 3), _shown(cell.get("agreement"), 3)]
            row += [_shown(cell.get(name), 2) for name in ("one", "eight", "eight_of_full")]
            row += ["/".join(map(str, dict.fromkeys(cell["contexts"].values())))]
            if part == "select":
                for name in ("mass_text", "mass_eight"):
                    mass = cell.get(name)
                    row += ["–", "–"] if mass is None else [f"{mass[0]:.3f}", f"{mass[0] / mass[1]:.3f}"]
            rows.append(row)
        _table(title, head, rows)
    for method, same in found["kvpress"]["own_scores_beside_it"].items():
        print(
            f"{method}, beside kvpress's scores on the same prompts: largest difference "
            f"{same['largest_difference']:.1e} of the largest score, at least {same['least_equal_choices']:.4f} of the "
            "keys kept at 25% are the same"
        )
    for part, reason in found["failed"].items():
        print(f"FAILED {part}: {reason}")


def _shown(figure: Sequence[float] | None, digits: int) -> str:
    if figure is None:
        return "–"
    mean, low, high = (f"{value:.{digits}f}" for value in figure)
    return f"{mean} ({low}–{high})"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    print(f"\n{title}")
    for row in (head, *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def draw(found: dict[str, Any], path: Path) -> None:
    """Answers and perplexity against the keys kept or attended to, one line per method."""
    if find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed (pip install 'npukv[plots]')")
        return
    from matplotlib.figure import Figure

    parts = [part for part in ("compress", "select") if any(cell["part"] == part for cell in found["cells"])]
    figure = Figure(figsize=(12, 4.2 * len(parts)), layout="constrained")
    grid = figure.subplots(len(parts), 3, squeeze=False)
    full = next(cell for cell in found["cells"] if cell["part"] == "full")
    names = {"eight": "8 facts: answers right", "one": "1 fact: answers right", "perplexity_ratio": "perplexity ratio"}
    for row, part in zip(grid, parts, strict=True):
        methods = list(dict.fromkeys(cell["method"] for cell in found["cells"] if cell["part"] == part))
        plain = list(dict.fromkeys(method.removeprefix("kvpress ") for method in methods))
        for axes, (name, label) in zip(row, names.items(), strict=True):
            for method in methods:
                cells = [c for c in found["cells"] if (c["part"], c["method"]) == (part, method) and name in c]
                cells.sort(key=lambda cell: cell["tokens"])
                if not cells:
                    continue
                x = [100 * cell["tokens"] / full["tokens"] for cell in cells]
                y = np.array([cell[name] for cell in cells])
                ours = method.startswith(("clustered", "hashed"))
                style = "-" if ours else ":" if method.startswith("kvpress") else "--"
                ink = f"C{plain.index(method.removeprefix('kvpress ')) % 10}"
                axes.plot(x, y[:, 0], style, color=ink, marker="o", ms=3, lw=2.2 if ours else 1.2, label=method)
                axes.fill_between(x, y[:, 1], y[:, 2], color=ink, alpha=0.08, lw=0)
            if name in full:
                axes.axhline(full[name][0], color="black", lw=0.8, label="full")
            if name == "perplexity_ratio":
                axes.set_ylim(0.99, 1.25)
            axes.set(xlabel=f"keys {'kept' if part == 'compress' else 'attended to'} (%)", ylabel=label, title=part)
            axes.set_xscale("log")
            ticks = sorted({round(100 * c["tokens"] / full["tokens"], 1) for c in found["cells"] if c["part"] == part})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=60, fontsize=7)
            axes.set_xticks([], minor=True)
            axes.grid(color="#e4e4e4", lw=0.6)
        row[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=130)
    print(f"drawn: {path}")


def markdown(found: dict[str, Any], part: str) -> str:
    """README's table of a part, sizes by methods: share of the full cache's 8-fact answers, perplexity ratio."""
    cells = [cell for cell in found["cells"] if cell["part"] == part and "eight_of_full" in cell]
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    at = {(cell["method"], cell["share"]): cell for cell in cells}
    lines = ["| keys | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for share in sorted({cell["share"] for cell in cells}, reverse=True):
        row = [f"{share:.1%}"]
        for method in methods:
            cell = at.get((method, share), {})
            shown = [(cell.get("eight_of_full"), 2), (cell.get("perplexity_ratio"), 3)]
            row.append(", ".join(f"{figure[0]:.{digits}f}" for figure, digits in shown if figure) or "–")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    written = json.loads(Path(sys.argv[1]).read_text())
    print("\n\n".join(markdown(written, part) for part in ("compress", "select")))
