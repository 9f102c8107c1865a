"""The command line as a process of its own: killed, interrupted, piped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
NPUKV = [sys.executable, "-m", "npukv.cli"]


@pytest.fixture(scope="module")
def ask(save_model: Callable[..., Path], text: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A question that takes some seconds: hundreds of segments, one at a time."""
    book = tmp_path_factory.mktemp("book") / "book.txt"
    book.write_bytes(text.encode())
    model = save_model("llama", seed=1, chat=True)
    return [
        "ask", str(book), "-q", "Who went up?", "--model", str(model), "--device", "cpu",
        "--dtype", "float32", "--segment", "40", "--overlap", "36", "--batch", "1", "--horizon", "4", "--json",
    ]  # fmt: skip


@contextlib.contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    def attentive() -> None:  # a shell's background jobs, and what they start, ignore the interrupt
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        [*NPUKV, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=attentive,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def rows(folder: Path) -> list[tuple]:
    path = folder / "scores-0.sqlite"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        try:
            return database.execute("SELECT * FROM score ORDER BY question, segment").fetchall()
        except sqlite3.OperationalError:  # not laid out yet
            return []


def wait_for_rows(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    while len(rows(folder)) < count:
        assert process.poll() is None, f"it ended first: {process.communicate()[1]}"
        time.sleep(0.005)


def finished(arguments: list[str]) -> dict:
    done = subprocess.run([*NPUKV, *arguments], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_and_run_again(ask: list[str], tmp_path: Path) -> None:
    """kill -9 in the middle: what was committed is not scored again, and the answer is the same."""
    folder = tmp_path / "run"
    with started([*ask, "--run", str(folder)]) as process:
        wait_for_rows(process, folder, 20)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = rows(folder)
    resumed = finished([*ask, "--run", str(folder)])
    uninterrupted = finished([*ask, "--run", str(tmp_path / "other")])
    after = rows(folder)
    assert 20 <= len(before) < len(after) == resumed["tokens"]["segments"]
    assert after[: len(before)] == before  # nothing written anew
    assert after == rows(tmp_path / "other")  # bit for bit
    for field in ("answer", "segments", "tokens"):
        assert resumed[field] == uninterrupted[field]


def test_interrupted_says_how_to_go_on(ask: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started([*ask, "--run", str(folder)]) as process:
        wait_for_rows(process, folder, 5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, ""), err
    assert "npukv: interrupted; with --run, the same command goes on" in err
    assert "Traceback" not in err
    assert len(rows(folder)) >= 5


def test_a_reader_that_has_enough_ends_it_quietly(ask: list[str]) -> None:
    """As in `npukv score ... | head -1`."""
    with started(["score", *ask[1:-1]]) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = json.loads(process.stdout.readline())
        process.stdout.close()
        err = process.stderr.read()
        process.wait()
    assert first["segment"] == 0
    assert "Traceback" not in err
    assert process.returncode != 0


def test_the_installed_command_is_the_same(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "npukv"
    if not script.exists():
        pytest.skip("npukv is not installed beside this Python")
    done = subprocess.run(
        [script, "ask", tmp_path / "nothing.txt", "-q", "Who?"], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("nothing.txt: no such file; check the path (- reads standard input)\n")


@pytest.mark.parametrize("arguments", [[], ["bench"]])
def test_without_a_command_it_gives_help_and_nothing_else(arguments: list[str]) -> None:
    done = subprocess.run([*NPUKV, *arguments], capture_output=True, text=True, env=ENVIRONMENT)
    assert "Usage:" in done.stdout
    assert done.stderr == ""
