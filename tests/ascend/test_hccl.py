"""Rung 3: ranks on simulated cards, joined by torchrun through a stand-in for HCCL."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.ascend.binding import ROOT, package_files
from tests.ascend.simulated import build

#: torch.distributed's functions that only ask, or come before any collective.
NO_COLLECTIVE = {
    *("init_process_group", "destroy_process_group", "get_backend", "get_rank", "get_world_size", "is_available"),
    *("is_initialized", "rendezvous", "PrefixStore", "TCPStore", "FileStore", "Store"),
}


def collectives_used() -> set[str]:
    """What npukv calls of torch.distributed, by its source."""
    used = set()
    for path in package_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
            if alias.name == "torch.distributed"
        }
        used |= {
            node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) in names
        }
    return used - NO_COLLECTIVE


def test_the_stand_in_carries_every_collective_that_is_used() -> None:
    source = ast.parse((ROOT / "tests/ascend/simulated/hccl.py").read_text())
    carried = next(
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COLLECTIVES"
    )
    assert "all_gather" in collectives_used()
    assert collectives_used() <= carried


def torchrun(size: int, folder: Path, *options: str) -> list[dict]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"),
            *("-m", "tests.ascend.simulated", "tests.ascend.simulated.ranks", str(folder), *options),
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


@pytest.fixture(scope="module")
def alone() -> np.ndarray:
    """The scores of one process on the CPU."""
    import npukv
    from tests.ascend.simulated.ranks import QUESTION, text

    lm = npukv.load(device="cpu", dtype="float32")
    return npukv.score_segments(lm, text(), QUESTION, batch=2).values


@pytest.fixture(autouse=True)
def needs_the_device() -> None:
    reason = build.missing()
    if reason:
        pytest.skip(reason)


def check_collectives(found: list[dict]) -> None:
    size = len(found)
    for rank, said in enumerate(found):
        assert said["card"] == rank
        assert said["all_reduce"] == [size * (size + 1) // 2] * 3
        assert said["broadcast"] == [2] * 3
        assert said["all_gather"] == list(range(1, size + 1))
        assert "tensors on a card" in said["cpu tensor"]
        assert "one shape" in said["unlike shapes"]
        assert said["not carried"] != "accepted"
        assert said["gathered"] == ["x" * other + "end" for other in range(size)]
        assert said["allocated"] == [other == rank for other in range(size)], "each rank keeps to its own card"


def test_four_ranks_meet(tmp_path: Path) -> None:
    check_collectives(torchrun(4, tmp_path))


def test_two_ranks_share_a_text(tmp_path: Path, alone: np.ndarray) -> None:
    found = torchrun(2, tmp_path, "--answer")
    check_collectives(found)
    assert "48213" in found[0]["answer"]
    np.testing.assert_allclose(found[0]["scores"], alone, rtol=1e-4, atol=1e-4)
