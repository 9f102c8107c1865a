"""Tables and plots of scripts/bench_20m.py, from its JSON."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np

SHARES = (0.1, 0.5, 1.0, 2.0, 5.0)


def print_tables(found: dict[str, Any]) -> None:
    one, many = found.get("one", {}), found.get("many", {})
    for name in ("one", "many", "shape"):
        for section, reason in found.get(name, {}).get("failed", {}).items():
            print(f"NOT MEASURED: {name}, {section}: {reason}")
    if store := one.get("store"):
        print(f"token store: {store['tokens']:,} tokens in {store['seconds']:.1f} s, {store['bytes'] / 1e6:.0f} MB")
    if rows := one.get("growth"):
        print("\none question, every segment scored, one card\n      tokens   seconds    tokens/s   peak memory")
        for row in rows:
            rate = row["tokens"] / row["seconds"]
            print(f"{row['tokens']:12,}{row['seconds']:10.2f}{rate:12,.0f}{row['peak_memory'] / 1e9:11.1f} GB")
        print(f"slope of log time over log tokens from 1/20 on: {slope(rows):.3f} (1 = linear)")
    if same := many.get("same"):
        alone = rows[-1]["seconds"] if rows else float("nan")
        print(
            f"\n{found['cards']} cards: {same['seconds']:.2f} s, {alone / same['seconds']:.2f} times as fast as one, "
            f"scores identical to one card's: {same.get('identical')}"
        )
    if sketch := one.get("sketch"):
        exact = rows[-1]["seconds"] if rows else float("nan")
        later, half = (statistics.median(sketch[f"later_questions_{name}seconds"]) for name in ("", "half_percent_"))
        build = one.get("build", {})
        print(
            f"\nsketch: {sketch['index_bytes'] / 1e6:.0f} MB, built in {build.get('build_in_memory_seconds', 0):.2f} s "
            f"(in memory), searched in {statistics.median(build.get('search_seconds', [0])):.3f} s\n"
            f"scoring, first question: {sketch['first_question_seconds']:.2f} s "
            f"({exact / sketch['first_question_seconds']:.1f} times as fast as exact), later ones {later:.3f} s "
            f"({exact / later:.0f} times); with a shortlist of 0.5%: {half:.3f} s ({exact / half:.0f} times)"
        )
    for name, entry in one.get("forwards", {}).items():
        later = statistics.median(entry["later_questions_seconds"])
        print(
            f"{name}: everything {entry['seconds']:.2f} s, later questions {later:.3f} s, "
            f"first call {entry['warm_seconds']:.1f} s"
        )
    if recall := one.get("recall"):
        print(f"\nright segment of {recall['segments']:,} within the best   " + "".join(f"{s:>7}%" for s in SHARES))
        for name in ("sketch", "bm25"):
            counts = [within(recall[name], share, recall["segments"]) for share in SHARES]
            worst = max(recall[name])
            print(f"{name:>36}   " + "".join(f"{n:>8}" for n in counts) + f"   of {len(recall[name])}, worst {worst:,}")
    for name in ("rivals", "alone"):
        if exact := many.get(name):
            print(f"\n{name}: {exact['questions']} questions, every segment scored in {exact['seconds']:.1f} s")
            for measure, ranks in exact["ranks"].items():
                first, four = sum(rank == 0 for rank in ranks), sum(rank < 4 for rank in ranks)
                print(f"  {measure:20} first {first}, in the best four {four} of {len(ranks)}")
            print(f"  answers from 1 segment {exact['answers_1']['right']}, from 4 {exact['answers_4']['right']}")
    if sketch and (exact := many.get("rivals")):
        same = sum(a == b for a, b in zip(sketch["best"], exact["best"], strict=True))
        said = sum(a == b for a, b in zip(sketch["answers"]["said"], exact["answers_1"]["said"], strict=True))
        print(
            f"  sketch mode: answers {sketch['answers']['right']}; the same best segment {same}, the same answer {said}"
        )
    print_shape(found.get("shape", {}), found["cards"])


def print_shape(shape: dict[str, Any], cards: int) -> None:
    for name in ("fused", "8bit"):
        if entry := shape.get(name):
            one, every = (entry["tokens"] / entry[f"{team}_seconds"] for team in ("one", "all"))
            print(
                f"\n{name}, random weights, {entry['tokens']:,} tokens: one card {one:,.0f} tokens/s of text, {cards} "
                f"cards {every:,.0f}: {every / one:.3f} times; identical: {entry.get('identical')}"
            )
    for name in ("exact", "8bit"):
        if entry := shape.get(f"whole {name}"):
            parts = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in entry["parts"].items())
            memory = max(entry["peak_memory"]) / 1e9
            print(
                f"\nfrom the text to the answer, {name}, {entry['tokens']['text']:,} tokens, {cards} cards: "
                f"{entry['seconds']:.1f} s ({parts}), peak memory {memory:.1f} GB a card"
            )
    if entry := shape.get("sketch"):
        later = statistics.median(entry["question_seconds"])
        exact = shape["fused"]["one_seconds"] if "fused" in shape else float("nan")
        first = entry["build_seconds"] + later
        print(
            f"\nsketch, one card, {entry['tokens']:,} tokens: built in {entry['build_seconds']:.2f} s; scoring by it: "
            f"first question {first:.2f} s ({exact / first:.1f} times as fast as exact), later ones {later:.3f} s "
            f"({exact / later:.0f} times)"
        )


def within(ranks: list[int], share: float, segments: int) -> int:
    return sum(rank < max(1, round(share / 100 * segments)) for rank in ranks)


def slope(rows: list[dict[str, float]]) -> float:
    """From a twentieth of the text on; before that, what is done once per question shows."""
    late = [row for row in rows if row["tokens"] >= rows[-1]["tokens"] / 20.5]
    return float(np.polyfit(np.log([row["tokens"] for row in late]), np.log([row["seconds"] for row in late]), 1)[0])


def longest_run(line: list[list[float]]) -> list[list[float]]:
    """Of a rank's marks (seconds, done) those of the work that took longest: done falls where another begins."""
    runs: list[list[list[float]]] = []
    for mark in line:
        if not runs or mark[1] < runs[-1][-1][1]:
            runs.append([])
        runs[-1].append(mark)
    return max(runs, key=lambda run: run[-1][0] - run[0][0], default=[])


def draw(found: dict[str, Any], folder: Path) -> None:
    """Growth, recall and time lines, as SVG: as much of it as was measured."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    one, many, shape = (found.get(stage, {}) for stage in ("one", "many", "shape"))
    wholes = {name: shape.get(f"whole {name}") for name in ("exact", "8bit")}
    timed = {f", {name}": whole for name, whole in wholes.items() if whole}
    if not timed and (part := shape.get("fused") or many.get("same")):
        timed = {"": part}
    plots = [plot for plot, data in ((draw_growth, one.get("growth")), (draw_recall, one.get("recall"))) if data]
    figure = Figure(figsize=(4.7 * max(1, len(plots) + len(timed)), 4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = iter(figure.subplots(1, max(1, len(plots) + len(timed)), squeeze=False)[0])
    for plot in plots:
        plot(next(axes), one)
    for name, part in timed.items():
        draw_lines(next(axes), name, part["timeline"])
    figure.savefig(folder / "bench-20m.svg")


def draw_growth(axis: Any, one: dict[str, Any]) -> None:
    tokens = np.array([row["tokens"] for row in one["growth"]]) / 1e6
    axis.loglog(tokens, [row["seconds"] for row in one["growth"]], "o-", label="seconds")
    axis.loglog(tokens, [row["peak_memory"] / 1e9 for row in one["growth"]], "s--", label="peak memory, GB")
    axis.set(title="Every segment scored, one card", xlabel="million tokens")
    axis.legend(frameon=False)


def draw_recall(axis: Any, one: dict[str, Any]) -> None:
    ranks = one["recall"]
    for name in ("sketch", "bm25"):
        places = np.sort(ranks[name]) + 1
        share = 100 * places / ranks["segments"]
        axis.step([*share, 100], [*np.arange(1, len(places) + 1), len(places)], where="post", label=name)
    axis.set(xscale="log", title="Right segment in the shortlist", xlabel="shortlist, % of segments")
    axis.set_ylabel(f"questions of {len(ranks['sketch'])}")
    axis.legend(frameon=False)


def draw_lines(axis: Any, name: str, timeline: list[list[list[float]]]) -> None:
    for rank, line in enumerate(timeline):
        if run := longest_run(line):
            axis.step(*zip(*run, strict=True), where="post", label=f"rank {rank}")
    axis.set(title=f"One question, all cards{name}", xlabel="seconds", ylabel="segments scored by the rank")
    axis.legend(frameon=False)
