"""`npukv ask` by several ranks, as a user starts it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
NPUKV = [sys.executable, "-m", "npukv.cli"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "npukv.cli"]


@pytest.fixture(scope="module")
def ask(save_model: Callable[..., Path], text: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    book = tmp_path_factory.mktemp("book") / "book.txt"
    book.write_bytes(text.encode())
    model = save_model("llama", seed=1, chat=True)
    return [
        "ask", str(book), "-q", "Who went up?", "--model", str(model), "--device", "cpu",
        "--dtype", "float32", "--segment", "40", "--overlap", "36", "--batch", "2", "--horizon", "4", "--json",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def expected(ask: list[str]) -> dict:
    done = subprocess.run([*NPUKV, *ask], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_same(output: str, expected: dict) -> None:
    found = json.loads(output)
    assert {name: found[name] for name in ("answer", "segments", "tokens")} == {
        name: expected[name] for name in ("answer", "segments", "tokens")
    }


def test_under_torchrun_it_just_works(ask: list[str], expected: dict) -> None:
    done = subprocess.run([*TORCHRUN, *ask], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert_same(done.stdout, expected)


def children(process: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the ranks' processes through /proc")
def test_a_killed_rank_costs_no_more_than_a_restart(ask: list[str], expected: dict, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(
        [*NPUKV, *ask, "--devices", "2", "--run", str(run)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        while not (run / "scores-1.sqlite").exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        ranks = [
            child for child in children(process.pid) if b"npukv.cli" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
        assert len(ranks) == 2
        os.kill(ranks[-1], signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "was killed (signal 9): going on from the journals" in err
    assert_same(out, expected)


def test_an_error_is_told_once_and_not_tried_again(ask: list[str]) -> None:
    wrong = [*ask, "--devices", "2", "--overlap", "40"]
    done = subprocess.run([*NPUKV, *wrong], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("got an overlap of 40 tokens") == 1
    assert "Traceback" not in done.stderr


def test_standard_input_is_for_one_process(ask: list[str]) -> None:
    given = ["ask", "-", *ask[2:], "--devices", "2"]
    done = subprocess.run([*NPUKV, *given], input="text", capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 2
    assert "name a file instead" in done.stderr
