"""The ranks of a run: one process per card, joined through torch.distributed under torchrun."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from npukv.backends import Device, DeviceUnavailable, select
from npukv.errors import DeviceError, NpukvError, RunError

#: Seconds without any sign of work after which a rank counts as hung.
PATIENCE = 600.0
#: Seconds between two looks at what the others do, longer and longer up to this, and between two signs of one's own.
LOOK = 0.02
SIGN = 0.25
#: What to do when ranks are lost, unless a run says otherwise.
AGAIN = "run again with the same --run directory: what all ranks have scored is kept"


@dataclass
class Ranks:
    """This process's place among the ranks of a run.

    Every rank calls `meet`, `agree` and `gather` in the same order. Before any collective the ranks `meet`: one that
    neither comes nor shows a sign of work for `patience` seconds is named in the error of all others, instead of a
    collective that hangs. Small things go through the store torchrun's rendezvous has anyway, gathered data through
    the device's collectives.

    Attributes:
        rank, size: which of how many; alone = 0 of 1.
        local, beside: which of how many on this machine.
        device: this rank's card.
        patience: seconds.
        remedy: what to do when a rank is lost, in the words of an error.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    beside: int = 1
    device: Device | None = None
    patience: float = PATIENCE
    store: Any = None
    remedy: str = AGAIN
    _steps: int = field(default=0, repr=False)
    _signed: float = field(default=0.0, repr=False)

    @property
    def first(self) -> bool:
        """Whether this rank speaks for all."""
        return self.rank == 0

    def note(self, done: int, last: bool = False) -> None:
        """Show the others a sign of work: how much is done of what this rank has to do."""
        now = time.monotonic()
        if self.size > 1 and (last or now - self._signed >= SIGN):
            self._signed = now
            self._set(f"note/{self.rank}", str(done).encode())

    def notes(self) -> list[int]:
        """What each rank last noted."""
        return [int(self._peek(f"note/{rank}") or 0) for rank in range(self.size)]

    def meet(self, what: str, waiting: Callable[[], None] | None = None) -> None:
        """Wait until every rank has come here.

        Args:
            what: what the ranks come to do, for messages.
            waiting: called now and then meanwhile.

        Raises:
            RunError: a rank showed no sign of work for `patience` seconds; it is named.
        """
        if self.size == 1:
            return
        self._steps += 1
        here = f"{self._steps}/here"
        self._set(f"{here}/{self.rank}", b"1")
        missing = set(range(self.size)) - {self.rank}
        pause = LOOK / 100
        signs: dict[int, tuple[bytes, float]] = {}
        while missing:
            for rank in sorted(missing):
                if self._peek(f"{here}/{rank}") is not None:
                    missing.discard(rank)
                    continue
                sign, seen = self._peek(f"note/{rank}") or b"", time.monotonic()
                if rank not in signs or signs[rank][0] != sign:
                    signs[rank] = (sign, seen)
                elif seen - signs[rank][1] > self.patience:
                    raise RunError(
                        f"rank {rank} of {self.size} did not come to {what} and showed no sign of work for "
                        f"{self.patience:g} s (it hangs, or its process or node is lost); {self.remedy}"
                    )
            if missing:
                time.sleep(pause)
                pause = min(LOOK, pause * 1.2)
            if waiting is not None:
                waiting()

    def agree(self, value: Any, what: str) -> Any:
        """Rank 0's value, on every rank (others' are ignored)."""
        if self.size == 1:
            return value
        key = f"{self._steps + 1}/said"
        if self.first:
            self._set(key, pickle.dumps(value))
        self.meet(what)
        return pickle.loads(self._peek(key) or b"")

    def gather(self, data: bytes, what: str, waiting: Callable[[], None] | None = None) -> list[bytes]:
        """Every rank's bytes, on every rank, through the device's collectives."""
        if self.size == 1 or self.device is None:
            return [data]
        import torch
        import torch.distributed as distributed

        self.meet(what, waiting)
        place = self.device.torch_device
        try:
            lengths = [torch.zeros(1, dtype=torch.int64, device=place) for _ in range(self.size)]
            distributed.all_gather(lengths, torch.tensor([len(data)], device=place))
            counts = [int(length) for length in lengths]
            padded = torch.zeros(max(1, *counts), dtype=torch.uint8, device=place)
            padded[: len(data)] = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)].to(place)
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            distributed.all_gather(parts, padded)
        except RuntimeError as error:
            raise RunError(f"{what}: the ranks' collective failed ({error}); {self.remedy}") from error
        return [part[:count].cpu().numpy().tobytes() for part, count in zip(parts, counts, strict=True)]

    def leave(self) -> None:
        """Rank 0 leaves last: where no agent of torchrun's holds the store, it does."""
        self._set(f"left/{self.rank}", b"1")
        until = time.monotonic() + self.patience
        others = range(self.size) if self.first else ()
        while time.monotonic() < until and any(self._peek(f"left/{rank}") is None for rank in others):
            time.sleep(LOOK)

    def first_to_say(self, message: str) -> bool:
        """Whether no other rank has said this yet: an error all ranks meet is told once."""
        if self.size == 1:
            return True
        try:
            return self.store.add("said/" + hashlib.sha256(message.encode()).hexdigest(), 1) == 1
        except RuntimeError:  # the store is gone with rank 0: better twice than never
            return True

    def _set(self, key: str, value: bytes) -> None:
        try:
            self.store.set(key, value)
        except RuntimeError as error:
            raise RunError(f"the ranks' store is gone ({error}): rank 0 or its node is lost; {self.remedy}") from error

    def _peek(self, key: str) -> bytes | None:
        try:
            return self.store.get(key) if self.store.check([key]) else None
        except RuntimeError as error:
            raise RunError(f"the ranks' store is gone ({error}): rank 0 or its node is lost; {self.remedy}") from error


#: A process on its own.
ALONE = Ranks()


def under_torchrun() -> bool:
    """Whether this process is one of several that torchrun (or anything with its environment) started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextlib.contextmanager
def join(device: str | Device = "auto", patience: float = PATIENCE, remedy: str = AGAIN) -> Iterator[Ranks]:
    """This process's place among the ranks torchrun started; alone, on the machine's first card, without torchrun.

    Reads RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, and takes the card of its local rank. One node or many:
    several need one file system for the --run directory.

    Args:
        device: as of `npukv.load`.
        patience: seconds without any sign of work after which a rank counts as hung.
        remedy: what to do when a rank is lost, for the error of the others.

    Raises:
        DeviceError: the device is unknown or not usable here; RunError: the ranks do not find each other.

    >>> with npukv.join() as ranks:
    ...     lm = npukv.load(device=ranks.device)
    ...     answer = npukv.answer(lm, text, "What is the pass key?", run="run", ranks=ranks)
    """
    local = int(os.environ.get("LOCAL_RANK", "0")) if under_torchrun() else 0
    if isinstance(device, str):
        try:
            device = select(device, local)
        except DeviceUnavailable as error:
            raise DeviceError(str(error)) from None
    if not under_torchrun():
        yield Ranks(device=device, patience=patience, remedy=remedy)
        return
    import torch
    import torch.distributed as distributed

    if device.torch_device.type != "cpu":
        torch.accelerator.set_device_index(device.index)
    wait = timedelta(seconds=patience)
    try:
        store, rank, size = next(iter(distributed.rendezvous("env://", timeout=wait)))
        distributed.init_process_group(device.collectives, store=store, rank=rank, world_size=size, timeout=wait)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the ranks do not find each other ({error}); start them with torchrun") from error
    ranks = Ranks(
        rank, size, local, int(os.environ.get("LOCAL_WORLD_SIZE", "1")), device, patience,
        distributed.PrefixStore("npukv", store), remedy,
    )  # fmt: skip
    try:
        yield ranks
    except NpukvError as error:
        # no tidying up: a group with a lost member can hang in it
        if not ranks.first_to_say(str(error)):
            raise SystemExit(2) from None
        raise type(error)(f"rank {rank}: {error}" if rank else str(error)) from error
    ranks.leave()
    distributed.destroy_process_group()
