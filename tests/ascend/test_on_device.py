"""The scripts for cards, as far as they go without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from npukv.backends.ascend import Ascend
from tests.ascend.binding import ROOT
from tests.ascend.simulated import build


def start(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = os.environ | {"OMP_NUM_THREADS": "1", "NPUKV_PYTHON": sys.executable} | environment
    return subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=280)


def test_the_report_on_simulated_cards(tmp_path: Path) -> None:
    """Parts that need no model; all of them: scripts/on_device --device simulated."""
    if build.missing():
        pytest.skip(build.missing())
    parts = "machine,custom,probes"
    done = start(
        *(sys.executable, "scripts/on_device", "--device", "simulated", "--out", str(tmp_path), "--only", parts),
        TORCH_DEVICE_BACKEND_AUTOLOAD="0",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    found = {part["name"]: part for part in report["parts"]}
    assert [found[name]["status"] for name in parts.split(",")] == ["passed", "not run", "passed"]
    assert "CANN" in found["custom"]["said"]
    assert len(found["probes"]["found"]) == 6
    assert "nothing here is a measurement" in (tmp_path / "report.md").read_text()


def test_without_a_card_the_report_says_so(tmp_path: Path) -> None:
    if Ascend.available()[0]:
        pytest.skip("there is a card here")
    done = start(sys.executable, "scripts/on_device", "--out", str(tmp_path), "--only", "machine")
    assert done.returncode == 1
    part = json.loads((tmp_path / "report.json").read_text())["parts"][0]
    assert part["status"] == "failed"
    assert "CANN" in part["look"]


@pytest.mark.parametrize("script", ["xl3m_npu.sh", "xl3m_cuda.sh"])
def test_launchers_refuse_what_cannot_be_resumed(script: str) -> None:
    done = start("bash", f"scripts/{script}", "ask", "book.txt", "--question", "Who?", CARDS="2")
    assert done.returncode == 2
    assert "--run" in done.stderr
    done = start("bash", f"scripts/{script}", CARDS="2")
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_every_variable_of_the_ascend_launcher_has_a_reason() -> None:
    lines = (ROOT / "scripts/xl3m_npu.sh").read_text().splitlines()
    exported = [index for index, line in enumerate(lines) if line.startswith("export ")]
    assert len(exported) >= 5
    assert all(lines[index - 1].startswith("# ") for index in exported)
