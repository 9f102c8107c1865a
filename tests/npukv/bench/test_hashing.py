"""The hashing benchmark's flow at toy sizes, and that it gives no speed to what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from npukv.bench import hashing as bench

TOY = ["--toy", "--device", "cpu", "--dtype", "float32"]


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
        assert entry["checked"]["selection"]
        for part in ("whole", "encode and append", "score and select", "gather and attend", "dense"):
            assert len(entry[part]["samples"]) == 2
            assert entry[part]["seconds"] > 0
    assert "x" in capsys.readouterr().out


def test_without_parity_there_is_no_speed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = bench.hashing.hamming_select

    def wrong(*args: Any) -> torch.Tensor:
        return right(*args).roll(1, -1)

    monkeypatch.setattr(bench.hashing, "hamming_select", wrong)
    with pytest.raises(SystemExit, match="differ from the reference, so no speed is given"):
        bench.main([*TOY, "--out", str(tmp_path / "hashing.json")])
    assert json.loads((tmp_path / "hashing.json").read_text())["entries"] == []
    assert " us" not in capsys.readouterr().out
