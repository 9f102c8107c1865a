"""npukv bench attention at toy sizes: parity gates the times, an error in one case leaves the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from npukv.backends import select
from npukv.bench import attention
from npukv.ops.attention import indexed_attention, partial_attention, reference
from npukv.ops.registry import Kernel

SIZES = [(1, 2, 256), (2, 1, 128)]


@pytest.fixture
def found() -> dict[str, Any]:
    return attention.run(select("cpu"), SIZES, samples=3, heads=4)


def test_every_kernel_is_checked_and_timed(found: dict[str, Any]) -> None:
    rows = found["rows"]
    assert {row["kernel"] for row in rows} == {"blocked", "rows copied", "pages copied", "reference", "torch's sdpa"}
    timed = [row for row in rows if "seconds" in row]
    assert len(timed) == len(rows) - len(attention.ODD)
    assert all(len(row["seconds"]) == 3 and min(row["seconds"]) > 0 for row in timed)
    assert all(row["parity"] and 0 <= row["difference"] < 0.1 for row in rows if "parity" in row)
    assert sum("parity" in row for row in rows) >= 6 + len(attention.ODD)
    assert found["copy_rate"] > 1e8
    assert found["environment"]["packages"]["torch"] == torch.__version__


def test_a_kernel_that_is_wrong_gets_no_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*args: Any, **kwargs: Any) -> Any:
        out, lse = reference.partial_attention(*args, **kwargs)
        return out * 1.2, lse

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no such page")

    def everything(*args: Any, **kwargs: Any) -> tuple[bool, str]:
        return True, ""

    monkeypatch.setitem(partial_attention.kernels, "cpu", [Kernel("wrong", wrong, everything)])
    monkeypatch.setitem(indexed_attention.kernels, "cpu", [Kernel("broken", broken, everything)])
    with pytest.raises(SystemExit) as stop:
        attention.main(
            ["--device", "cpu", "--sizes", "1x2x256", "--samples", "2", "--out", str(tmp_path / "found.json")]
        )
    assert stop.value.code == 1
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert all("seconds" not in row for row in rows if row.get("kernel") == "wrong")
    assert [row["error"] for row in rows if "error" in row] == ["RuntimeError: no such page"]
    assert any(row.get("kernel") == "pages copied" and row["parity"] for row in rows)
    assert "PARITY FAILED" in capsys.readouterr().out


def test_a_size_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        attention.main(["--sizes", "1x8"])
    assert "expected batch x KV heads x keys" in capsys.readouterr().err
