"""The pictures of a report, each as one SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from npukv.evaluation.metrics import mean_and_interval
from npukv.evaluation.runner import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEPTHS = 10  # rows of the heat map, half as many where few samples would leave them empty
# Okabe and Ito's colours: told apart by colour-blind readers as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
STYLES = ("-", "--", ":", "-.")


def colour(methods: Sequence[str], method: str) -> tuple[str, str]:
    """The colour and line style of a method, the same in every picture."""
    number = list(methods).index(method)
    return COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]


def heat_map(records: Sequence[dict[str, Any]], lengths: Sequence[int], title: str) -> str:
    """Mean score by length and by depth of the evidence; white where no sample lies. "" without any depth."""
    records = [record for record in records if record["depth"] is not None]
    if not records:
        return ""
    depths = DEPTHS if len({record["index"] for record in records}) >= 2 * DEPTHS else DEPTHS // 2
    sums, counts = np.zeros((depths, len(lengths))), np.zeros((depths, len(lengths)))
    for record in records:
        at = min(depths - 1, int(record["depth"] * depths)), list(lengths).index(record["length"])
        sums[at] += record["score"]
        counts[at] += 1
    with np.errstate(invalid="ignore"):
        means = sums / counts
    figure, axes = _figure(1.3 + 0.47 * max(3, len(lengths)), 2.8)
    axes.imshow(means, vmin=0, vmax=1, cmap=_scale(), aspect="auto")
    axes.set_xticks(range(len(lengths)), [short(length) for length in lengths])
    rows = range(0, depths, depths // 5)
    axes.set_yticks([row - 0.5 for row in rows], [f"{100 * row // depths}%" for row in rows])
    for row, column in zip(*np.nonzero(counts), strict=True):
        value = means[row, column]
        axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color="#222222")
    axes.set(xlabel="length (tokens)", ylabel="depth of the fact", title=title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row in range(1, depths):
        axes.axhline(row - 0.5, color="white", linewidth=1.5)
    for column in range(1, len(lengths)):
        axes.axvline(column - 0.5, color="white", linewidth=1.5)
    return _svg(figure)


def score_by_length(records: Sequence[dict[str, Any]], methods: Sequence[str], title: str) -> str:
    """Mean score of each method against length, with 95% intervals."""
    figure, axes = _figure(5.9, 3.1)
    lengths = sorted({record["length"] for record in records})
    shown = [method for method in methods if any(record["method"] == method for record in records)]
    for number, method in enumerate(shown):
        points = []
        for length in lengths:
            scores = [r["score"] for r in records if r["method"] == method and r["length"] == length]
            if scores:
                points.append((length, mean_and_interval(scores)))
        # Points of equal length stand side by side, so that their intervals can be told apart.
        x = [length * 1.035 ** (number - (len(shown) - 1) / 2) for length, _ in points]
        y = [100 * point["mean"] for _, point in points]
        errors = [
            [max(0.0, 100 * (p["mean"] - p["low"])) for _, p in points],
            [max(0.0, 100 * (p["high"] - p["mean"])) for _, p in points],
        ]
        ink, style = colour(methods, method)
        axes.errorbar(
            x, y, errors, color=ink, ls=style, marker="o", ms=4, lw=1.6, elinewidth=0.8, capsize=2, label=method
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [short(length) for length in lengths])
    axes.set_xticks([], minor=True)
    axes.set(ylim=(-3, 103), xlabel="length (tokens)", ylabel="score (%)", title=title)
    _finish(axes)
    return _svg(figure)


def rank_distribution(records: Sequence[dict[str, Any]], methods: Sequence[str], title: str) -> str:
    """Share of samples whose evidence lies within the first k segments of a ranking, against k. "" without ranks."""
    ranked = {
        method: sorted(r["rank"] for r in records if r["method"] == method and r["rank"] is not None)
        for method in methods
    }
    ranked = {method: ranks for method, ranks in _without_doubles(ranked).items() if ranks}
    if not ranked:
        return ""
    figure, axes = _figure(5.9, 3.1)
    widest = max(r["segments"] for r in records if r["segments"])
    for method, ranks in ranked.items():
        kept = np.unique(np.concatenate([[1], np.array(ranks) + 1, [widest]]))
        share = [100 * sum(rank < k for rank in ranks) / len(ranks) for k in kept]
        ink, style = colour(methods, method)
        axes.step(kept, share, where="post", color=ink, ls=style, lw=1.6, label=method)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set(xlim=(0.95, widest * 1.05), ylim=(-3, 103), title=title)
    axes.set(xlabel="segments kept", ylabel="evidence among them (% of samples)")
    _finish(axes)
    return _svg(figure)


def score_by_share(records: Sequence[dict[str, Any]], methods: Sequence[str], title: str) -> str:
    """Mean score against the share of the context's keys that new tokens attend to; "" without any compressed cache.

    A line joins methods that differ in that share alone ("clustered:0.5", "clustered:0.25"), on the samples that all
    of them and the full context answered.
    """
    if not any(record.get("cache") for record in records):
        return ""
    shown = [m for m in methods if m == "full" or any(r.get("cache") for r in records if r["method"] == m)]
    names = {m: {(r["task"], r["length"], r["index"]) for r in records if r["method"] == m} for m in shown}
    common = set.intersection(*names.values())
    figure, axes = _figure(5.9, 3.1)
    lines: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for method in shown:
        rows = [r for r in records if r["method"] == method and (r["task"], r["length"], r["index"]) in common]
        if not rows:
            continue
        sizes = [row["cache"] for row in rows if row.get("cache")]
        share = sum(s["attended_tokens"] / s["logical_tokens"] for s in sizes) / len(sizes) if sizes else 1.0
        lines.setdefault(method.partition(":")[0], []).append((share, mean_and_interval(r["score"] for r in rows)))
    for number, (name, points) in enumerate(lines.items()):
        points.sort(key=lambda point: point[0])
        y = [100 * p["mean"] for _, p in points]
        errors = [
            [max(0.0, 100 * (p["mean"] - p["low"])) for _, p in points],
            [max(0.0, 100 * (p["high"] - p["mean"])) for _, p in points],
        ]
        axes.errorbar(
            [100 * share for share, _ in points],
            y,
            errors,
            color=COLOURS[number % len(COLOURS)],
            marker="o",
            ms=4,
            lw=1.6,
            elinewidth=0.8,
            capsize=2,
            label=name,
        )
    axes.set(ylim=(-3, 103), xlabel="keys attended to (% of the context)", ylabel="score (%)", title=title)
    _finish(axes)
    return _svg(figure)


def _without_doubles(ranked: dict[str, list[int]]) -> dict[str, list[int]]:
    """One line per ranking: methods that differ in the number kept alone rank alike ("xl3m:first:1", "...:4")."""
    found: dict[tuple[str, ...], str] = {}
    for method in ranked:
        base = tuple(part for part in method.split(":") if not (part.isdigit() or part in ("fill", "passages")))
        found.setdefault(base, method)
    return {method: ranked[method] for method in found.values()}


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _scale() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("score", ["#d7664f", "#f2cf7d", "#7fb98b"])


def _finish(axes: Axes) -> None:
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _svg(figure: Figure) -> str:
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt and no date: the same figures give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "npukv", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
