"""What ranks do together, and what they say when one of them does not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from npukv.errors import DeviceError, InputError, RunError
from npukv.parallel.launch import count_devices
from npukv.parallel.ranks import Ranks, join
from npukv.parallel.share import shares


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 9))
def test_shares_are_whole_and_even(costs: list[int], ranks: int) -> None:
    found = shares(costs, ranks)
    assert len(found) == ranks
    assert [i for share in found for i in share] == list(range(len(costs)))
    mean = sum(costs) / ranks
    assert all(abs(sum(costs[i] for i in share) - mean) <= max(costs, default=0) for share in found)


def test_alone_nothing_is_awaited() -> None:
    with join("cpu") as ranks:
        assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
        assert ranks.agree({"a": 1}, "agree") == {"a": 1}
        assert ranks.gather(b"x", "gather") == [b"x"]
        ranks.meet("meet")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(DeviceError, match="got device 'tpu'"), join("tpu"):
        pass


def test_agree_and_gather(start: Callable[..., Any]) -> None:
    def work(ranks: Ranks) -> Any:
        said = [ranks.agree(f"{i} by {ranks.rank}", "agree") for i in range(3)]
        ranks.note(ranks.rank + 10, last=True)
        gathered = ranks.gather(bytes([ranks.rank]) * ranks.rank * 1000, "gather")
        nothing = ranks.gather(b"", "gather")
        return said, gathered, nothing, ranks.notes(), ranks.rank

    for rank, (said, gathered, nothing, notes, own) in enumerate(start(3, work).wait()):
        assert own == rank
        assert said == ["0 by 0", "1 by 0", "2 by 0"]
        assert gathered == [b"", b"\1" * 1000, b"\2" * 2000]
        assert nothing == [b""] * 3
        assert notes == [10, 11, 12]


def test_a_rank_that_hangs_is_named(start: Callable[..., Any]) -> None:
    def work(ranks: Ranks) -> None:
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        ranks.gather(b"x", "gather the scores")

    team = start(3, work, patience=1.0)
    for process in (team.processes[0], team.processes[2]):
        process.join(20)
    os.kill(team.processes[1].pid, signal.SIGKILL)
    first, hung, third = team.wait()
    assert hung is None
    # told once, or twice where the first is gone, and the store with it, before the third can ask
    assert RunError in {type(first), type(third)} <= {RunError, SystemExit}
    assert "rank 1 of 3 did not come to gather the scores" in f"{first}{third}"


def test_the_error_says_what_this_run_can_do() -> None:
    """In training it spoke of a --run directory that only scoring has."""
    alone = Ranks(0, 2, patience=0.05, store=torch.distributed.HashStore(), remedy="begin the call again")
    with pytest.raises(RunError, match=r"rank 1 of 2 did not come to read the tokens .*; begin the call again$"):
        alone.meet("read the tokens")


def test_a_slow_rank_that_shows_signs_of_work_is_awaited(start: Callable[..., Any]) -> None:
    def work(ranks: Ranks) -> str:
        for step in range(10 if ranks.rank else 0):
            time.sleep(0.3)
            ranks.note(step, last=True)
        ranks.meet("gather the scores")
        return "done"

    assert start(2, work, patience=1.0).wait() == ["done", "done"]


def test_a_lost_first_rank_is_reported(start: Callable[..., Any]) -> None:
    def work(ranks: Ranks) -> None:
        ranks.meet("begin")
        if ranks.first:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.5)
        ranks.meet("gather the scores")

    lost, other = start(2, work, patience=2.0).wait()
    assert lost is None
    assert isinstance(other, RunError)
    assert "run again with the same --run" in str(other)


def test_an_error_all_meet_is_told_once(start: Callable[..., Any]) -> None:
    def work(ranks: Ranks) -> None:
        ranks.meet("begin")
        time.sleep(0 if ranks.rank else 0.5)  # here, unlike under torchrun, rank 0 takes the store along
        raise InputError("got nonsense")

    found = start(3, work).wait()
    told = [error for error in found if isinstance(error, InputError)]
    assert len(told) == 1
    assert "got nonsense" in str(told[0])
    assert [error.code for error in found if isinstance(error, SystemExit)] == [2, 2]


@pytest.mark.parametrize("wanted", ["0", "-1", "some", "1.5"])
def test_devices_is_a_number_or_all(wanted: str) -> None:
    with pytest.raises(InputError, match="expected a number of cards, or all"):
        count_devices(wanted, "cpu")


def test_how_many_devices() -> None:
    assert count_devices("1", "auto") == 1
    assert count_devices("all", "cpu") == 1
    assert count_devices("3", "cpu") == 3
