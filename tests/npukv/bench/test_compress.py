"""``npukv bench compress`` at toy size: what it writes, and that it gives no speed without parity or compression."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from npukv.bench import compress

TINY = ["--model", "tiny", "--device", "cpu", "--dtype", "float32", "--rounds", "2", "--chunk", "256"]


def test_times_and_sizes_of_every_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compress.main([*TINY, "--lengths", "600,900", "--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert [entry["tokens"] for entry in found["lengths"]] == [600, 900]
    assert found["parity"]["largest_difference"] < 1e-3 and found["environment"]["packages"]["torch"]
    for entry in found["lengths"]:
        assert {len(values) for values in entry["seconds"].values()} == {2}
        sizes = entry["size"]
        assert set(sizes) == {"full", "clustered", "full, 256 at a time", "clustered, 256 at a time"}
        for name, size in sizes.items():
            share = size["physical_tokens"] / entry["tokens"]
            assert share == 1.0 if name.startswith("full") else 0.2 < share < 0.5, name
        assert set(entry["parts"]) == {
            "angles", "matching", "merging", "all",
        }  # fmt: skip
        held = entry["tokens"] * 2 * 64 * 4  # 2 heads of 64, float32
        kept = round(0.25 * entry["tokens"])
        assert entry["parts"]["all"]["least_bytes"] == 2 * (held + kept * 2 * 64 * 4) + kept * 2 * 4
        assert all(part["seconds"] > 0 for part in entry["parts"].values())
    out = capsys.readouterr().out
    assert "clustered, 256 at a time" in out and "tokens held" in out and "compressing alone" in out


def test_time_that_is_up_ends_the_rounds(tmp_path: Path) -> None:
    compress.main(
        [*TINY, "--lengths", "600", "--rounds", "50", "--seconds", "0", "--out", str(tmp_path / "found.json")]
    )
    assert json.loads((tmp_path / "found.json").read_text())["lengths"] == []


def test_nothing_is_given_where_nothing_was_compressed() -> None:
    with pytest.raises(SystemExit, match="nothing was compressed"):
        compress.main([*TINY, "--lengths", "300", "--keep", "1.0"])


def test_nothing_is_given_without_parity(monkeypatch: Any) -> None:
    from npukv import decode

    real = decode.prefill

    def wrong(network: Any, ids: torch.Tensor, cache: Any, *given: Any, **named: Any) -> torch.Tensor:
        logits = real(network, ids, cache, *given, **named)
        return logits + 1 if type(cache).__name__ == "ClusteredCache" else logits

    monkeypatch.setattr(decode, "prefill", wrong)
    with pytest.raises(SystemExit, match="no speed is given"):
        compress.main([*TINY, "--lengths", "300"])
