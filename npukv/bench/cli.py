"""The commands ``npukv bench ...``: each runs a module of this package with the options that follow."""

from __future__ import annotations

from importlib import import_module

import typer

#: Command, which is also the module's name, and what it measures. Each module has main(arguments).
BENCHMARKS = {
    "decode": "Time and memory of a decoding step, by cache, beside transformers' own.",
    "attention": "The attention kernels, parity first, beside the stock ones.",
    "hashing": "Encoding, scoring, selecting and attending by hash codes, beside dense attention.",
    "score": "Segments scored per second, beside a stock loop and the matrix products alone.",
    "compress": "Time and memory of compressing a cache, beside the prefill it belongs to.",
}

bench_app = typer.Typer(help="Measure kernels and caches on this machine.", no_args_is_help=True)


def _add(name: str, summary: str) -> None:
    # The module parses its own options, so that nothing of it is imported before it runs.
    @bench_app.command(
        name,
        help=summary,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def command(context: typer.Context) -> None:
        import_module(f"npukv.bench.{name}").main(context.args)


for _name, _summary in BENCHMARKS.items():
    _add(_name, _summary)
