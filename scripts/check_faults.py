"""Kill ranks at random moments, again and again: is the answer always the same, and nothing scored twice?

    python scripts/check_faults.py [--runs 20] [--ranks 4] [--segments 100] [--out scripts/results/faults-cpu.json]

One process answers first, undisturbed. Then, in each run, ranks (gloo, CPU) answer the same question from the same
text; at a random moment one of them, or all, are killed with SIGKILL, the others ended as torchrun ends them, and
another number of ranks goes on from the journals, until a team gets through undisturbed. Every run must give the same
answer and the same scores to the bit, and its journals must hold each segment exactly once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import pickle
import random
import socket
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import npukv
from npukv import bundled
from npukv.environment import environment
from npukv.errors import NpukvError
from npukv.parallel.ranks import join

FACT = " One of the special magic numbers for heron is: 48213."
QUESTION = "What is the special magic number for heron?"


def rank_main(lm: Any, text: str, options: dict[str, Any], place: dict[str, str], out: Path) -> None:
    """One rank: answer, and leave what was found."""
    os.environ.update(place)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # the others report what the killed one causes
    with join("cpu", 20.0) as ranks:
        given = npukv.answer(lm, text, QUESTION, ranks=ranks, **options)
        if ranks.first:
            partial = out.with_suffix(".partial")
            partial.write_bytes(pickle.dumps(outcome(given)))
            os.replace(partial, out)


def outcome(given: Any) -> tuple[Any, ...]:
    return given.text, given.segments, given.tokens, given.scores.entropies.tobytes(), given.scores.question.tobytes()


class Team:
    """Forked ranks, which share the parent's model."""

    def __init__(self, lm: Any, text: str, options: dict[str, Any], ranks: int, out: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        fork = multiprocessing.get_context("fork")
        self.processes = []
        for rank in range(ranks):
            place = {
                "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            }  # fmt: skip
            self.processes.append(fork.Process(target=rank_main, args=(lm, text, options, place, out)))
        for process in self.processes:
            process.start()

    def wait(self, seconds: float) -> bool:
        """Whether all ended by themselves in time, and well."""
        until = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        return all(process.exitcode == 0 for process in self.processes)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()


def scored(run: Path) -> Counter:
    """How often the journals hold each (question, segment)."""
    found: Counter = Counter()
    for path in run.glob("scores-*.sqlite"):
        killed_early = contextlib.suppress(sqlite3.OperationalError)  # before the file was laid out
        with contextlib.closing(sqlite3.connect(path)) as database, killed_early:
            found.update(database.execute("SELECT question, segment FROM score").fetchall())
    return found


def disturbed_run(
    lm: Any, text: str, options: dict[str, Any], most: int, usual: float, rng: random.Random, folder: Path
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """One run, with two to five kills; (what it found, what happened)."""
    run, out = folder / "run", folder / "outcome"
    happened: dict[str, Any] = {"kills": [], "ranks": []}
    for _ in range(rng.randint(2, 5)):
        size = rng.randint(2, most)
        team = Team(lm, text, options | {"run": run}, size, out)
        happened["ranks"].append(size)
        moment = rng.uniform(0.0, 0.6 * usual)
        time.sleep(moment)
        dying = rng.randrange(size + 1)  # size: all at once
        for process in team.processes if dying == size else team.processes[dying : dying + 1]:
            process.kill()
        time.sleep(rng.choice([0.0, 0.1]))  # until an agent notices
        team.end()
        happened["kills"].append({"rank": dying if dying < size else "all", "seconds": round(moment, 3)})
        happened["kills"][-1]["scored"] = len(scored(run))
        if out.exists():
            break
    if not out.exists():
        size = rng.randint(2, most)
        happened["ranks"].append(size)
        team = Team(lm, text, options | {"run": run}, size, out)
        ended = team.wait(120)
        team.end()
        if not ended:
            raise NpukvError(f"a team of {size} ranks did not get through, undisturbed: {happened}")
    counted = scored(run)
    happened |= {"segments": len(counted), "most_often": max(counted.values())}
    return pickle.loads(out.read_bytes()), happened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    import torch

    torch.set_num_threads(1)  # before the fork: the ranks share the processors
    lm = npukv.load(chosen.model, "cpu", "float32")
    body = bundled.sample_text()[: chosen.segments * 420]
    middle = body.index("\n", len(body) // 3)
    text = body[:middle] + FACT + body[middle:]
    options: dict[str, Any] = {"segment": 128, "overlap": 16, "batch": 4, "horizon": 4, "max_new_tokens": 16}
    started = time.perf_counter()
    expected = outcome(npukv.answer(lm, text, QUESTION, **options))
    usual = time.perf_counter() - started
    print(f"undisturbed, one process: {expected[0]!r}, {expected[2]['segments']} segments, {usual:.1f} s", flush=True)
    rng = random.Random(chosen.seed)
    record: dict[str, Any] = {"environment": environment(), "expected": expected[0], "tokens": expected[2], "runs": []}
    for number in range(chosen.runs):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            found, happened = disturbed_run(lm, text, options, chosen.ranks, usual, rng, Path(folder))
        happened["same"] = found == expected
        happened["once"] = happened["segments"] == expected[2]["segments"] and happened["most_often"] == 1
        record["runs"].append(happened)
        kills = ", ".join(f"{kill['rank']} at {kill['seconds']:.1f} s" for kill in happened["kills"])
        verdict = "the same answer and scores" if happened["same"] else f"DIFFERENT: {found[0]!r}"
        once = "each segment once" if happened["once"] else f"NOT ONCE: {happened}"
        seconds = time.perf_counter() - began
        print(
            f"run {number}: {happened['ranks']} ranks, killed {kills}: {verdict}, {once} ({seconds:.0f} s)", flush=True
        )
    same, once = (sum(run[name] for run in record["runs"]) for name in ("same", "once"))
    kills = sum(len(run["kills"]) for run in record["runs"])
    print(f"{same} of {chosen.runs} runs identical, {once} scored every segment exactly once, {kills} kills")
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(record, indent=1) + "\n")
    if min(same, once) < chosen.runs:
        sys.exit(1)


if __name__ == "__main__":
    main()
