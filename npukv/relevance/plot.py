"""Certainty along the text, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from npukv.errors import InputError

if TYPE_CHECKING:
    from npukv.relevance.scores import Scores

FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Refuse a plot that cannot be drawn, before work starts.

    Raises:
        InputError: matplotlib is missing, or the file's ending is not a picture's.
    """
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise InputError("plots need matplotlib, which is not installed: pip install 'npukv[plots]'")
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"got the plot file {path}, expected a name that ends with one of: {', '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: its folder does not exist; make it first")


def plot_scores(scores: Scores, path: Path, chosen: Sequence[int] = ()) -> None:
    """Draw every segment's score at its place in the text; the chosen ones are marked and named by rank."""
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = scores.values
    places = np.array([(segment.char_start + segment.char_end) / 2 for segment in scores.segments]) / 1e6
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(places, values, s=4, color="0.6", linewidths=0, rasterized=True, label="segments")
    if len(chosen):
        kept = [index for index in chosen if np.isfinite(values[index])]
        axes.scatter(places[kept], values[kept], s=60, facecolors="none", edgecolors="tab:red", label="kept")
        rank = {int(index): place for place, index in enumerate(scores.ranking(), 1)}
        for index in kept:
            axes.annotate(
                f"{rank[index]}",
                (places[index], values[index]),
                xytext=(7, -3),
                textcoords="offset points",
                color="tab:red",
            )
    axes.invert_yaxis()  # the most relevant on top
    axes.set(
        title=f"“{_shortened(scores.asked)}”: {len(values):,} segments",
        xlabel="place in the text (million characters)",
        ylabel=f"{scores.measure} (nats; higher up = more relevant)",
    )
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _shortened(question: str, length: int = 80) -> str:
    return question if len(question) <= length else question[: length - 1] + "…"
