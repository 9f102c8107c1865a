"""A summary as one HTML file that needs nothing else: tables, pictures, and how the figures came about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from npukv.evaluation.metrics import mean_and_interval
from npukv.evaluation.plots import heat_map, rank_distribution, score_by_length, score_by_share
from npukv.evaluation.runner import short
from npukv.evaluation.summary import cache_shares

STYLE = """
:root { color-scheme: light; --ink: #1c1c1e; --quiet: #6b6b70; --line: #e2e2e5; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink); max-width: 1180px;
  margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; } p, .quiet { color: var(--quiet); margin: .2rem 0 .8rem; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem 2rem; margin: 1.2rem 0; }
.facts div { min-width: 7rem; } .facts b { display: block; font-size: 1.15rem; } .facts span { color: var(--quiet); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem; }
.wide { overflow-x: auto; } th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
.scores th { max-width: 6rem; }
td small { display: block; color: #55555a; font-size: .72rem; } td.none { color: #b9b9be; text-align: center; }
.left td { text-align: left; } .plots { display: flex; flex-wrap: wrap; gap: 1rem 1.4rem; } .plots svg { height: auto; }
svg { max-width: 100%; } code, pre { font: .82rem/1.5 ui-monospace, monospace; }
pre { background: #f6f6f7; padding: .8rem 1rem; overflow-x: auto; border-radius: 6px; } details { margin: .6rem 0; }
"""

METHOD_NOTES = {
    "full": "the whole context, where the model holds it",
    "last": "the last tokens that fit",
    "random": "random segments, as many as fit unless a number follows",
    "bm25": "segments that share the question's rare words (BM25); the number kept follows",
    "xl3m": "XL3M: segments by the model's own certainty; measure (first = the paper's) and number kept follow",
    "xl3m-twice": "the same with a second look at the best segments",
    "oracle": "only the segments with the evidence: the most that choosing segments can reach",
    "clustered": "the whole context, its cache clustered before the question is seen; the share kept follows",
    "hashed": "the whole context in the cache, each new token attending to the best by hash; tokens or share follow",
}


def render_report(summary: dict[str, Any]) -> str:
    """The HTML of what ``npukv.evaluation.summary.summarise`` returns."""
    suite, model = summary["suite"], summary["model"]
    methods = list(dict.fromkeys(suite["methods"]))
    lengths = list(dict.fromkeys(suite["lengths"]))
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>npukv evaluation: {escape(model['name'])}</title><style>{STYLE}</style></head><body>",
        f"<h1>Evaluation of {escape(model['name'])}</h1>",
        f"<p>Samples made from {escape(summary['text'])}, {escape(summary['split'])} words and templates, "
        f"seeds {suite['seed']} to {suite['seed'] + suite['n'] - 1}.</p>",
        _facts(summary),
        _pictures(summary["samples"], methods, lengths),
        "<h2>Scores</h2>",
        "<p>Mean score in percent, and its 95% interval (Wilson). A dash: not applicable, see below.</p>",
        *(_score_table(summary["cells"], length, methods) for length in lengths),
        _caches(summary, methods),
        _rank_table(summary["cells"], methods),
        _lenient_table(summary["cells"], methods),
        "<h2>Methods</h2>",
        _definitions(methods),
        _skipped(summary["skipped"]),
        _examples(summary["samples"]),
        "<h2>How it was run</h2>",
        f"<pre>{escape(_lines(summary))}</pre></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _facts(summary: dict[str, Any]) -> str:
    model, suite = summary["model"], summary["suite"]
    facts = [
        (f"{model['parameters'] / 1e6:,.1f}M", "parameters"),
        (f"{model['context']:,}", "tokens of context"),
        (str(suite["n"]), "samples per task and length"),
        (f"{len(summary['samples']):,}", "results"),
        (f"{model['device']}, {model['dtype']}", "device"),
        (f"{summary['seconds']:,.0f} s", "for the last run"),
    ]
    if summary["perplexity"]:
        facts.append((f"{summary['perplexity']['bits_per_byte']:.3f}", "bits per byte of the text"))
        facts.append((f"{summary['perplexity']['perplexity']:,.1f}", "perplexity"))
    return "<div class=facts>" + "".join(f"<div><b>{escape(b)}</b><span>{s}</span></div>" for b, s in facts) + "</div>"


def _score_table(cells: Sequence[dict[str, Any]], length: int, methods: Sequence[str]) -> str:
    known = {(cell["task"], cell["method"]): cell for cell in cells if cell["length"] == length}
    tasks = list(dict.fromkeys(task for task, _ in known))
    if not tasks:
        return ""
    shown = [method for method in methods if any((task, method) in known for task in tasks)]
    rows = []
    for task in tasks:
        row = [f"<td>{escape(task)}</td>"]
        for method in shown:
            cell = known.get((task, method))
            row.append(_score(cell["score"]) if cell else "<td class=none>–</td>")
        rows.append("<tr>" + "".join(row) + "</tr>")
    means = ["<td><b>mean of the tasks</b></td>"]
    for method in shown:
        scores = [known[task, method]["score"]["mean"] for task in tasks if (task, method) in known]
        # Means over different tasks would look comparable and not be.
        means.append(
            f"<td><b>{100 * sum(scores) / len(scores):.1f}</b></td>"
            if len(scores) == len(tasks)
            else "<td class=none>–</td>"
        )
    rows.append("<tr>" + "".join(means) + "</tr>")
    head = "".join(
        f"<th>{escape(name).replace(':', ':<wbr>').replace('+', '<wbr>+')}</th>" for name in ["task", *shown]
    )
    n = min(cell["score"]["n"] for cell in known.values())
    return (
        f"<h3>{short(length)} tokens <span class=quiet>(N = {n})</span></h3>"
        f"<div class=wide><table class=scores><tr>{head}</tr>{''.join(rows)}</table></div>"
    )


def _score(score: dict[str, Any]) -> str:
    mean, low, high = (100 * score[name] for name in ("mean", "low", "high"))
    hue = 8 + 1.25 * mean  # red to green
    return f'<td style="background:hsl({hue:.0f} 55% 88%)">{mean:.1f}<small>{low:.0f}–{high:.0f}</small></td>'


def _pictures(records: Sequence[dict[str, Any]], methods: Sequence[str], lengths: Sequence[int]) -> str:
    if not records:
        return ""
    parts = []
    if len(lengths) > 1:
        parts += [
            "<h2>Score against length</h2>",
            "<div class=plots>",
            *(
                score_by_length([r for r in records if r["task"] in tasks], methods, name)
                for name, tasks in _families(records).items()
            ),
            "</div>",
        ]
    ranks = [
        rank_distribution([r for r in records if r["task"] in tasks], methods, name)
        for name, tasks in _families(records).items()
    ]
    if any(ranks):
        parts += [
            "<h2>Where the evidence is ranked</h2>",
            "<p>The share of samples whose evidence is among the first k segments. Methods that differ only in how "
            "many they keep rank alike and are drawn once.</p>",
            "<div class=plots>",
            *ranks,
            "</div>",
        ]
    placed = [record for record in records if record["depth"] is not None]
    maps = [heat_map([r for r in placed if r["method"] == method], lengths, method) for method in methods]
    if any(maps):
        parts += [
            "<h2>Where the fact lies</h2>",
            "<p>Mean score (%) by the text's length and the fact's depth in it, over all tasks whose evidence is one "
            "place.</p>",
            "<div class=plots>",
            *maps,
            "</div>",
        ]
    return "\n".join(part for part in parts if part)


def _families(records: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """Tasks that share a picture: those whose names begin alike, and RULER's by themselves."""
    families: dict[str, list[str]] = {}
    for task in dict.fromkeys(record["task"] for record in records):
        families.setdefault(task.partition("-")[0], []).append(task)
    merged: dict[str, list[str]] = {}
    for name, tasks in families.items():
        merged.setdefault(name if len(tasks) > 1 else "other tasks", []).extend(tasks)
    return {tasks[0] if len(tasks) == 1 else name: tasks for name, tasks in merged.items()}


def _rank_table(cells: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    ranked = [cell for cell in cells if "best1" in cell]
    if not ranked:
        return ""
    rows = "".join(
        f"<tr><td>{escape(cell['task'])}</td><td>{short(cell['length'])}</td><td>{escape(cell['method'])}</td>"
        f"<td>{cell['segments']:.0f}</td>{_score(cell['best1'])}{_score(cell['best4'])}"
        f"<td>{cell['median_rank'] + 1:.0f}</td><td>{cell['read']:.0f}</td></tr>"
        for cell in sorted(ranked, key=lambda c: (c["length"], c["task"], list(methods).index(c["method"])))
    )
    names = ("task", "length", "method", "segments", "first (%)", "first 4 (%)", "median place", "tokens read")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        "<details><summary>Ranks, task by task</summary>"
        f"<div class=wide><table><tr>{head}</tr>{rows}</table></div></details>"
    )


def _caches(summary: dict[str, Any], methods: Sequence[str]) -> str:
    """What the caches held, what it cost in score and in bits per byte."""
    records = summary["samples"]
    rows = []
    for method in methods:
        sizes = [record["cache"] for record in records if record["method"] == method and record.get("cache")]
        if not sizes:
            continue
        shares = cache_shares(sizes)
        scores = mean_and_interval(record["score"] for record in records if record["method"] == method)
        through = summary["compressed_perplexity"].get(method)
        cells = [
            f"{shares['logical_tokens']:,.0f}",
            f"{shares['physical_tokens']:,.0f} ({shares['held']:.1%})",
            f"{shares['attended_tokens']:,.0f} ({shares['attended']:.1%})",
            f"{shares['logical_bytes'] / 2**20:,.2f}",
            f"{shares['physical_bytes'] / 2**20:,.2f} ({shares['bytes']:.1%})",
            f"{through['full_cache']['bits_per_byte']:.3f} → {through['bits_per_byte']:.3f}" if through else "–",
            f"{through['perplexity'] / through['full_cache']['perplexity']:.3f}" if through else "–",
        ]
        rows.append(
            f"<tr><td>{escape(method)}</td>{_score(scores)}" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        )
    if not rows:
        return ""
    head = ("method", "score", "tokens", "held", "attended to", "MiB of a full cache", "MiB held", "bits per byte")
    names = "".join(f"<th>{name}</th>" for name in (*head, "perplexity, of the full cache's"))
    return (
        "<h2>Caches</h2><p>The context is read into the cache before the question is seen; the score is the mean over "
        "all of the method's samples. Means per sample; bits per byte are with a full cache and through this one, over "
        "the same tokens.</p>"
        f"<div class=wide><table class=scores><tr>{names}</tr>{''.join(rows)}</table></div>"
        f"<div class=plots>{score_by_share(records, methods, 'all tasks')}</div>"
    )


def _lenient_table(cells: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    """Where the answer stands in the first sentence though the output is more than it: chat models' usual form."""
    other = [cell for cell in cells if "lenient" in cell and cell["lenient"]["mean"] != cell["score"]["mean"]]
    if not other:
        return ""
    rows = "".join(
        f"<tr><td>{escape(cell['task'])}</td><td>{short(cell['length'])}</td><td>{escape(cell['method'])}</td>"
        f"{_score(cell['score'])}{_score(cell['lenient'])}</tr>"
        for cell in sorted(other, key=lambda c: (c["length"], c["task"], list(methods).index(c["method"])))
    )
    head = "".join(f"<th>{n}</th>" for n in ("task", "length", "method", "exact", "contained in the first sentence"))
    return (
        "<details><summary>Exact answers, and answers contained in the first sentence, where they differ</summary>"
        f"<div class=wide><table><tr>{head}</tr>{rows}</table></div></details>"
    )


def _definitions(methods: Sequence[str]) -> str:
    bases = dict.fromkeys(method.partition(":")[0] for method in methods)
    rows = "".join(
        f"<tr><td><code>{escape(b)}</code></td><td>{escape(METHOD_NOTES.get(b, ''))}</td></tr>" for b in bases
    )
    return f"<table class=left>{rows}</table>"


def _skipped(skipped: Sequence[dict[str, Any]]) -> str:
    if not skipped:
        return ""
    rows = "".join(
        f"<tr><td>{escape(entry['task'])}</td><td>{short(entry['length'])}</td>"
        f"<td>{escape(entry['method'] or 'all')}</td><td>{escape(entry['reason'])}</td></tr>"
        for entry in skipped
    )
    head = "<tr><th>task</th><th>length</th><th>method</th><th>reason</th></tr>"
    return (
        f"<details><summary>Not applicable ({len(skipped)})</summary>"
        f"<div class=wide><table class=left>{head}{rows}</table></div></details>"
    )


def _examples(records: Sequence[dict[str, Any]]) -> str:
    """The first sample of each task at the shortest length, with every method's output."""
    shown: dict[tuple[str, str], dict[str, Any]] = {}
    for record in sorted(records, key=lambda record: (record["index"], record["length"])):
        shown.setdefault((record["task"], record["method"]), record)
    rows = "".join(
        f"<tr><td>{escape(r['task'])}</td><td>{escape(r['method'])}</td><td>{escape(r['question'])}</td>"
        f"<td>{escape(_cut(', '.join(r['answers'])))}</td><td>{escape(_cut(r['output'].strip()))}</td>"
        f"<td>{100 * r['score']:.0f}</td></tr>"
        for r in shown.values()
    )
    head = "<tr><th>task</th><th>method</th><th>question</th><th>expected</th><th>output</th><th>score</th></tr>"
    return (
        "<details><summary>Questions and outputs (the first of each task)</summary>"
        f"<div class=wide><table class=left>{head}{rows}</table></div></details>"
    )


def _cut(text: str, length: int = 120) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _lines(summary: dict[str, Any]) -> str:
    environment = summary["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    return "\n".join(
        [
            f"model        {summary['model']['name']} ({summary['model']['fingerprint']})",
            f"versions     Python {environment['python']}, {versions}",
            f"machine      {environment['system']}, {environment['cores']} cores, {environment['threads']} threads",
            f"device       {environment['device']['description']}",
            f"suite        {summary['suite']}",
        ]
    )
