"""The hashing benchmark's flow at toy sizes, and that it gives no speed to what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from npukv.bench import hashing as bench
from npukv.ops.hashing import hamming_select, hashed_attention

TOY = ["--toy", "--device", "cpu", "--dtype", "float32"]


def shifted(*args: Any) -> torch.Tensor:
    return hamming_select(*args).roll(1, -1)


def one_more(query: torch.Tensor, asked: torch.Tensor, codes: torch.Tensor, *rest: Any) -> Any:
    """Attends to one more token than it should."""
    key, value, length, budget, *others = rest
    return hashed_attention(query, asked, codes, key, value, length, budget + 1, *others)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SAMPLES", 2)
    monkeypatch.setattr(bench, "LONG_ENOUGH", {"captured": 1e-4, "plain": 1e-4})


def test_it_keeps_samples_of_all_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.main([*TOY, "--out", str(tmp_path / "hashing.json")])
    found = json.loads((tmp_path / "hashing.json").read_text())
    assert found["failed"] == {}
    assert found["parity"]["ok"]
    assert found["parity"]["wrong codes"] == 0
    assert len(found["entries"]) == len(bench.TOY)
    for entry in found["entries"]:
        assert entry["checked"]["selection"] and entry["checked"]["attended"]
        for part in (
            "whole",
            "encode and append",
            "select and attend",
            "score and select",
            "gather and attend",
            "dense",
        ):
            assert len(entry[part]["samples"]) == 2
            assert entry[part]["seconds"] > 0
    assert "x" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "wrong"), [("hamming_select", shifted), ("hashed_attention", one_more)])
def test_without_parity_there_is_no_speed(
    name: str, wrong: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.hashing, name, wrong)
    with pytest.raises(SystemExit, match="differ from the reference, so no speed is given"):
        bench.main([*TOY, "--out", str(tmp_path / "hashing.json")])
    assert json.loads((tmp_path / "hashing.json").read_text())["entries"] == []
    assert " us" not in capsys.readouterr().out
