"""Several ranks as forked processes of the test: no imports, no loading, a second or less per run."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from npukv.errors import NpukvError
from npukv.parallel.ranks import Ranks, join


@dataclass
class Team:
    """Forked ranks at work; `results[rank]` is what the work returned, or the exception it raised, None if killed."""

    processes: list[Any]
    folder: Path

    def wait(self, seconds: float = 60) -> list[Any]:
        for process in self.processes:
            process.join(seconds)
            assert process.exitcode is not None, "a rank did not end"
        found = []
        for rank in range(len(self.processes)):
            path = self.folder / str(rank)
            found.append(pickle.loads(path.read_bytes()) if path.exists() else None)
        return found


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Team]]:
    """start(ranks, work, patience=20) forks processes that join and call work(ranks)."""
    context = multiprocessing.get_context("fork")
    teams: list[Team] = []

    def begin(size: int, work: Callable[[Ranks], Any], patience: float = 20.0) -> Team:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folder = tmp_path_factory.mktemp("team")

        def main(rank: int) -> None:
            os.environ.update(
                RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size),
                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            )  # fmt: skip
            try:
                with join("cpu", patience) as ranks:
                    result = work(ranks)
            except BaseException as error:
                if not isinstance(error, NpukvError | SystemExit):
                    traceback.print_exc()
                result = error
            partial = folder / f"{rank}.partial"
            partial.write_bytes(pickle.dumps(result))
            os.replace(partial, folder / str(rank))

        team = Team([context.Process(target=main, args=(rank,)) for rank in range(size)], folder)
        teams.append(team)
        for process in team.processes:
            process.start()
        return team

    yield begin
    for team in teams:
        for process in team.processes:
            process.kill()
            process.join()
