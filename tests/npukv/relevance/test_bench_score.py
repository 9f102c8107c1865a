"""`npukv bench score` from end to end at a toy size: all contenders agree, and what fails is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from npukv.bench import score as module

TOY = [
    "--shape", "tiny", "--device", "cpu", "--dtype", "float32", "--rows", "3", "--length", "48", "--horizon", "2",
    "--rounds", "1", "--questions", "0", "--eager",
]  # fmt: skip


def run(tmp_path: Path) -> dict[str, Any]:
    module.main([*TOY, "--out", str(tmp_path / "score.json")])
    return json.loads((tmp_path / "score.json").read_text())


def test_all_contenders_get_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path)
    assert found["failed"] == {}
    assert found["parity"]["ok"]
    contenders = found["contenders"]
    assert list(contenders) == [
        "stock loop, eager", "npukv fused, horizon 1", "npukv fused, horizon 2", "npukv 8bit, horizon 1",
        "npukv 8bit, horizon 2", "matrix products alone", "8-bit products alone",
    ]  # fmt: skip
    assert all(one["tokens_per_second"] > one["text_tokens_per_second"] > 0 for one in contenders.values())
    assert contenders["npukv fused, horizon 1"]["difference"] < 1e-4
    assert 0 < contenders["npukv 8bit, horizon 1"]["difference"] < 0.05
    assert "8-bit products alone" in capsys.readouterr().out


def test_a_contender_that_computes_something_else_gets_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from npukv.relevance import fast_forward

    real = fast_forward._cross

    def wrong(attended: Any, hidden: Any, before: Any, after: Any, *rest: Any) -> Any:
        hidden, *others = real(attended, hidden, before, after, *rest)
        return (hidden if after else hidden.flip(1), *others)

    monkeypatch.setattr(module, "parity", lambda _: {"ok": True})
    monkeypatch.setattr(fast_forward, "_cross", wrong)
    found = run(tmp_path)
    assert "tokens_per_second" in found["contenders"]["stock loop, eager"]
    assert "tokens_per_second" not in found["contenders"]["npukv fused, horizon 1"]
    assert "differs from the stock loop" in found["failed"]["npukv fused, horizon 1"]


def test_without_parity_there_is_no_figure_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "parity", lambda _: {"ok": False, "difference": 1.0})
    with pytest.raises(SystemExit, match="no speed is given"):
        run(tmp_path)
    assert json.loads((tmp_path / "score.json").read_text())["contenders"] == {}
