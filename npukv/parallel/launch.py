"""Several ranks on this machine, without the user starting torchrun."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from npukv.errors import DeviceError, InputError

#: How often a run in which a rank is killed goes on from its journals.
RESTARTS = 3


def count_devices(wanted: str, device: str) -> int:
    """How many ranks `--devices` asks for: a number, or "all" cards of the machine.

    Raises:
        InputError: neither; DeviceError: more cards than there are.
    """
    if wanted != "all" and not (wanted.isdecimal() and int(wanted) > 0):
        raise InputError(f"got --devices {wanted}, expected a number of cards, or all")
    if wanted == "1":
        return 1
    import torch

    from npukv.backends import DeviceUnavailable, select

    try:
        kind = select(device).torch_device.type
    except DeviceUnavailable as error:
        raise DeviceError(str(error)) from None
    cards = None if kind == "cpu" else torch.accelerator.device_count()
    if wanted == "all":
        return cards or 1
    if cards is not None and int(wanted) > cards:
        raise DeviceError(f"got --devices {wanted}, expected at most {cards}: so many {kind} cards are in reach")
    return int(wanted)


def launch(arguments: Sequence[str], ranks: int, restarts: int = RESTARTS) -> int:
    """Run `npukv ARGUMENTS` as so many ranks, through torch's elastic agent; returns the exit status.

    If a rank is killed, all start again and go on from the journals, up to `restarts` times; without a run directory
    of the user's, a temporary one serves. An error that a rank reports itself is final.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # told below, in fewer words
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, processors // ranks)))
    temporary = None
    if not any(argument == "--run" or argument.startswith("--run=") for argument in arguments):
        temporary = tempfile.mkdtemp(prefix="npukv-run-")
        arguments = [*arguments, "--run", temporary]
    try:
        for attempt in range(restarts + 1):
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=ranks,
                run_id=f"npukv-{os.getpid()}-{attempt}",
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                max_restarts=0,
                monitor_interval=0.1,
            )
            try:
                elastic_launch(config, sys.executable)("-m", "npukv.cli", *arguments)
                return 0
            except SignalException as error:
                return 128 + int(error.sigval)
            except ChildFailedError as error:
                lost = _lost(error.failures)
                if lost is None:
                    return error.get_first_failure()[1].exitcode
                again = ": going on from the journals" if attempt < restarts else ", too often: giving up"
                print(f"npukv: rank {lost[0]} was killed (signal {lost[1]}){again}", file=sys.stderr, flush=True)
        return 1
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _lost(failures: dict[int, Any]) -> tuple[int, int] | None:
    """(rank, signal) of a rank that was killed by anyone but the agent, which ends the others with SIGTERM."""
    for rank, failure in sorted(failures.items()):
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            return rank, -failure.exitcode
    return None
