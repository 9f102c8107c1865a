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


def draw(found: dict[str, Any], folder: Path) -> None:
    """Growth, recall and time lines, as SVG."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4), layout="constrained")
    FigureCanvasSVG(figure)
    growth, recall, lines = figure.subplots(1, 3)
    if rows := found.get("one", {}).get("growth"):
        tokens = np.array([row["tokens"] for row in rows]) / 1e6
        growth.loglog(tokens, [row["seconds"] for row in rows], "o-", label="seconds")
        growth.loglog(tokens, [row["peak_memory"] / 1e9 for row in rows], "s--", label="peak memory, GB")
        growth.set(title="Every segment scored, one card", xlabel="million tokens")
        growth.legend(frameon=False)
    if ranks := found.get("one", {}).get("recall"):
        for name in ("sketch", "bm25"):
            places = np.sort(ranks[name]) + 1
            share = 100 * places / ranks["segments"]
            recall.step([*share, 100], [*np.arange(1, len(places) + 1), len(places)], where="post", label=name)
        recall.set(xscale="log", title="Right segment in the shortlist", xlabel="shortlist, % of segments")
        recall.set_ylabel(f"questions of {len(ranks['sketch'])}")
        recall.legend(frameon=False)
    shape = found.get("shape", {})
    shown = shape.get("whole exact") or shape.get("fused") or found.get("many", {}).get("same")
    if shown:
        for rank, line in enumerate(shown["timeline"]):
            if line:
                lines.step(*zip(*line, strict=True), where="post", label=f"rank {rank}")
        lines.set(title="One question, all cards", xlabel="seconds", ylabel="segments scored by the rank")
        lines.legend(frameon=False)
    figure.savefig(folder / "bench-20m.svg")
