"""``npukv bench ...`` hands the options on to the module that measures."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from npukv.bench.cli import BENCHMARKS, bench_app


@pytest.mark.parametrize("name", BENCHMARKS)
def test_options_are_handed_on(name: str, monkeypatch: Any) -> None:
    seen = []
    module = ModuleType(name)
    module.main = seen.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, f"npukv.bench.{name}", module)
    app = typer.Typer()
    app.add_typer(bench_app, name="bench")
    app.command("other")(lambda: None)
    done = CliRunner().invoke(app, ["bench", name, "--rounds", "3", "--out", "x.json", "more"], catch_exceptions=False)
    assert done.exit_code == 0
    assert seen == [["--rounds", "3", "--out", "x.json", "more"]]


def test_help_names_every_benchmark() -> None:
    done = CliRunner().invoke(bench_app, ["--help"])
    assert all(name in done.output for name in BENCHMARKS)
