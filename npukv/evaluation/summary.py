"""From single results to figures with intervals, as one JSON-ready dictionary."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from npukv.errors import RunError
from npukv.evaluation.metrics import mean_and_interval

if TYPE_CHECKING:
    from npukv.evaluation.perplexity import Perplexity
    from npukv.evaluation.runner import Skipped, Suite
    from npukv.language_model import LanguageModel

FORMAT = 1


def cells(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per task, length and method: mean score with its 95% interval, N, and how the evidence was ranked.

    "best1" and "best4" are the shares of samples whose evidence lies in the first one (four) segments of the ranking,
    "lenient" is `npukv.evaluation.metrics.lenient_score`, "cache" what a cache held.
    """
    grouped: dict[tuple[str, int, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        grouped[record["task"], record["length"], record["method"]].append(record)
    found = []
    for (task, length, method), group in grouped.items():
        entry = {
            "task": task,
            "length": length,
            "method": method,
            "score": mean_and_interval(r["score"] for r in group),
        }
        entry["read"] = float(np.mean([r["read"] for r in group]))
        entry["seconds"] = float(np.mean([r["seconds"] for r in group]))
        ranks = [r["rank"] for r in group if r["rank"] is not None]
        if ranks:
            entry["segments"] = float(np.mean([r["segments"] for r in group if r["rank"] is not None]))
            entry["median_rank"] = float(np.median(ranks))
            entry["best1"] = mean_and_interval(float(rank < 1) for rank in ranks)
            entry["best4"] = mean_and_interval(float(rank < 4) for rank in ranks)
        lenient = [r["lenient"] for r in group if r.get("lenient") is not None]
        if lenient:
            entry["lenient"] = mean_and_interval(lenient)
        sizes = [r["cache"] for r in group if r.get("cache")]
        if sizes:
            entry["cache"] = cache_shares(sizes)
        found.append(entry)
    return found


def cache_shares(sizes: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Mean shares of a full cache: "held" keys, keys "attended" to, "bytes"; and mean tokens and bytes themselves."""
    listed = list(sizes)
    means = {name: float(np.mean([size[name] for size in listed])) for name in listed[0]}
    return {
        "held": means["physical_tokens"] / means["logical_tokens"],
        "attended": means["attended_tokens"] / means["logical_tokens"],
        "bytes": means["physical_bytes"] / means["logical_bytes"],
        **means,
    }


def selected(records: Iterable[dict[str, Any]], suite: Suite, tasks: Iterable[str]) -> list[dict[str, Any]]:
    """The records that belong to a suite, in its order; a run directory may hold more."""
    from npukv.evaluation.results import key

    known = {key(record): record for record in records}
    wanted = (
        (task, length, i, method)
        for length in dict.fromkeys(suite.lengths)
        for task in tasks
        for method in dict.fromkeys(suite.methods)
        for i in range(suite.n)
    )
    return [known[name] for name in wanted if name in known]


def summarise(
    lm: LanguageModel,
    suite: Suite,
    records: list[dict[str, Any]],
    skipped: list[Skipped],
    *,
    text: str,
    split: str,
    perplexity: Perplexity | None = None,
    compressed: dict[str, dict[str, Any]] | None = None,
    seconds: float = 0.0,
) -> dict[str, Any]:
    """Everything a report shows and a later comparison needs.

    Args:
        text: name of the text the samples were made from.
        perplexity: of the model with a full cache.
        compressed: and through the caches of some methods: figures as above, and "full_cache", those over the same
            tokens with a full cache.
        seconds: wall time of the evaluation, this run alone.
    """
    from npukv.bundled import model_folder
    from npukv.environment import environment

    return {
        "format": FORMAT,
        "model": {
            "name": "the bundled model" if lm.name == str(model_folder()) else Path(lm.name).name,
            "fingerprint": lm.fingerprint,
            "parameters": sum(weight.numel() for weight in lm.model.parameters()),
            "context": lm.context,
            "dtype": str(lm.model.dtype).removeprefix("torch."),
            "device": lm.device.name,
        },
        "suite": asdict(suite) | {"ahead": suite.reads_ahead},
        "text": text,
        "split": split,
        "seconds": round(seconds, 1),
        "perplexity": None if perplexity is None else perplexity.as_dict(),
        "compressed_perplexity": compressed or {},
        "cells": cells(records),
        "skipped": [asdict(entry) for entry in skipped],
        "samples": records,
        "environment": environment(),
    }


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        RunError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); make room or choose another --out") from error
