"""The command ``npukv eval``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_TASKS = "needle-number,needle-word,needle-place,rivals-number,two-facts,key-values,ruler-niah_single_2"
DEFAULT_METHODS = "full,last,bm25,xl3m:first,xl3m,oracle"
DEFAULT_LENGTHS = "2k,8k"
DEFAULT_N = 4
PERPLEXITY_CHARACTERS = 65_536

Names = Annotated[str, typer.Option(help="Comma-separated; * at a name's end stands for any; --list shows all.")]


def eval_command(
    model: Annotated[str | None, typer.Option(help="Model folder or hub id.", show_default="the bundled model")] = None,
    device: Annotated[str, typer.Option(help="auto, npu, cuda or cpu.")] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="the device's fastest")
    ] = None,
    tasks: Names = DEFAULT_TASKS,
    methods: Annotated[
        str,
        typer.Option(help="Comma-separated; arguments follow with colons: xl3m:MEASURE:KEEP, clustered:SHARE."),
    ] = DEFAULT_METHODS,
    lengths: Annotated[
        str, typer.Option(help="Tokens of a sample, comma-separated: 2k = 2,048, 20m = 20,000,000.")
    ] = DEFAULT_LENGTHS,
    n: Annotated[int, typer.Option("--n", min=1, help="Samples of each task and length.")] = DEFAULT_N,
    text: Annotated[
        list[str] | None,
        typer.Option(help="File the samples are made from; may be repeated.", show_default="the Bible"),
    ] = None,
    documents: Annotated[
        Path | None, typer.Option(help="Folder with squad*.json and hotpotqa*.json, for RULER's qa tasks.")
    ] = None,
    split: Annotated[str, typer.Option(help="held-out or train: words and templates.")] = "held-out",
    seed: Annotated[int, typer.Option(help="Of the first sample.")] = 0,
    segment: Annotated[int | None, typer.Option(help="Tokens per segment.", show_default="context / 5")] = None,
    overlap: Annotated[int | None, typer.Option(help="Tokens two segments share.", show_default="segment / 6")] = None,
    ahead: Annotated[bool, typer.Option(help="Answer with the question before the text, too.")] = True,
    perplexity: Annotated[bool, typer.Option(help="Also measure bits per byte of the text's start.")] = True,
    run: Annotated[
        Path | None, typer.Option(help="Directory that keeps the results; an interrupted run resumes.")
    ] = None,
    out: Annotated[Path, typer.Option(help="HTML report; its figures go beside it as .json.")] = Path("report.html"),
    list_all: Annotated[bool, typer.Option("--list", help="Show all tasks and methods, and stop.")] = False,
) -> None:
    """Judge a model and the ways to feed it on tasks made from any text; write an HTML report and a JSON file."""
    import time

    from npukv.evaluation.methods import ARGUMENTS, METHODS, find_method
    from npukv.evaluation.runner import Suite, evaluate, parse_length
    from npukv.evaluation.tasks import TASKS, find_tasks

    if list_all:
        print("tasks:", *TASKS, "methods:", *(":".join([m, *ARGUMENTS.get(m, ())]) for m in METHODS), sep="\n  ")
        return
    suite = Suite(
        tuple(_listed(tasks)),
        tuple(_listed(methods)),
        tuple(parse_length(length) for length in _listed(lengths)),
        n,
        seed,
        segment,
        overlap,
        ahead,
    )
    # What can be refused is refused before a model is loaded.
    found = find_tasks(list(suite.tasks))
    for method in suite.methods:
        find_method(method)
    _check_out(out)
    _check_packages()
    name, source = _read_text(text)

    from npukv.evaluation.material import Material
    from npukv.evaluation.perplexity import measure_perplexity
    from npukv.evaluation.report import render_report
    from npukv.evaluation.summary import selected, summarise, write_json, write_text
    from npukv.language_model import load
    from npukv.progress import ProgressReport

    lm = load(model, device, dtype)
    material = Material(source, lm.tokenizer, split=split, documents=documents)
    started = time.perf_counter()
    with ProgressReport() as progress:
        results, skipped = evaluate(lm, material, suite, run=run, progress=progress)
        piece = source[:PERPLEXITY_CHARACTERS]
        measured = measure_perplexity(lm, piece) if perplexity else None
        compressed = _through_caches(lm, piece, suite.methods, measured) if perplexity else {}
    summary = summarise(
        lm,
        suite,
        selected(results.records.values(), suite, found),
        skipped,
        text=name,
        split=split,
        perplexity=measured,
        compressed=compressed,
        seconds=time.perf_counter() - started,
    )
    write_json(out.with_suffix(".json"), summary)
    write_text(out, render_report(summary))
    _print_tables(summary)
    print(f"written: {out}, {out.with_suffix('.json')}")


def _through_caches(lm: Any, text: str, methods: Sequence[str], full: Any) -> dict[str, Any]:
    """For each method with a cache: perplexity through it, and with a full cache over the same tokens.

    A hashed cache selects for single tokens alone, and these take their time: it is measured on the text's start.
    """
    from npukv.errors import InputError, ModelError
    from npukv.evaluation.methods import cache_of
    from npukv.evaluation.perplexity import measure_perplexity

    found = {}
    for method in dict.fromkeys(methods):
        cache = cache_of(method)
        if cache is None:
            continue
        single = cache.name == "hashed"
        piece = text[: PERPLEXITY_CHARACTERS // 8] if single else text
        try:
            through = measure_perplexity(
                lm, piece, cache=partial(cache.make, lm, lm.context), chunk=1 if single else None
            )
        except (InputError, ModelError) as error:
            print(f"no perplexity for {method}: {error}", file=sys.stderr)
            continue
        whole = measure_perplexity(lm, piece) if single else full
        found[method] = through.as_dict() | {"full_cache": whole.as_dict()}
    return found


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _check_out(out: Path) -> None:
    from npukv.errors import InputError

    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"got the report {out}, expected a name that ends in .html")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: its folder does not exist; make it first")


def _check_packages() -> None:
    from importlib.util import find_spec

    from npukv.errors import InputError

    missing = [package for package in ("bm25s", "matplotlib") if find_spec(package) is None]
    if missing:
        raise InputError(f"evaluation needs {' and '.join(missing)}: pip install 'npukv[eval]'")


def _read_text(paths: list[str] | None) -> tuple[str, str]:
    """Name and characters of the text: the user's files, else the bundled one."""
    if not paths:
        from npukv.bundled import sample_text

        return "the King James Bible (bundled)", sample_text()
    from npukv.text import read_source

    source = read_source(paths)
    return ", ".join(Path(file).name for file, _ in source.files), source.text


def _print_tables(summary: dict[str, Any]) -> None:
    """Tasks x methods for each length, on standard output."""
    from rich.console import Console
    from rich.table import Table

    from npukv.evaluation.runner import short
    from npukv.evaluation.summary import cache_shares

    console = Console(width=None if sys.stdout.isatty() else 240)
    methods = list(dict.fromkeys(summary["suite"]["methods"]))
    for length in dict.fromkeys(summary["suite"]["lengths"]):
        known = {(cell["task"], cell["method"]): cell["score"] for cell in summary["cells"] if cell["length"] == length}
        table = Table(title=f"{short(length)} tokens, N = {summary['suite']['n']}: score (%) and 95% interval")
        table.add_column("task", no_wrap=True)
        for method in methods:
            table.add_column(method, justify="right")
        for task in dict.fromkeys(task for task, _ in known):
            row = [known.get((task, method)) for method in methods]
            table.add_row(
                task,
                *(
                    "–"
                    if score is None
                    else f"{100 * score['mean']:.0f} ({100 * score['low']:.0f}–{100 * score['high']:.0f})"
                    for score in row
                ),
            )
        if table.row_count:
            console.print(table)
    measured = summary["perplexity"]
    if measured:
        print(f"bits per byte {measured['bits_per_byte']:.3f}, perplexity {measured['perplexity']:.1f}")
    for method in methods:
        sizes = [record["cache"] for record in summary["samples"] if record["method"] == method and record.get("cache")]
        if not sizes:
            continue
        shares = cache_shares(sizes)
        line = (
            f"{method}: {shares['logical_tokens']:,.0f} tokens -> {shares['physical_tokens']:,.0f} held, "
            f"{shares['attended_tokens']:,.0f} attended to; {shares['logical_bytes'] / 2**20:,.2f} MiB -> "
            f"{shares['physical_bytes'] / 2**20:,.2f} MiB ({shares['bytes']:.1%})"
        )
        through = summary["compressed_perplexity"].get(method)
        if through:
            whole = through["full_cache"]
            line += f"; bits per byte {whole['bits_per_byte']:.3f} -> {through['bits_per_byte']:.3f}"
        print(line)
