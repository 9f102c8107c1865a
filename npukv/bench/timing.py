"""Times of single launches: cold caches, raw samples, and the rate at which the device copies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from npukv.backends.base import CaptureFailed

#: Bytes read between two samples, more than any last-level cache holds. Bytes written would still have to leave the
#: cache while the next sample is timed.
FLUSH = 256 << 20


@dataclass(frozen=True)
class Samples:
    """Seconds of each sample, in the order taken; and why they are of calls and not of a captured step, if so."""

    seconds: tuple[float, ...]
    uncaptured: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Timer:
    """Measures steps on one device.

    On a card a step is captured and its replay timed between two events, behind a read that flushes the caches and
    hides the launch; one that cannot be captured is called there, and its samples say so; on the CPU a step is called
    and the clock read.
    """

    def __init__(self, device: Any, samples: int = 20) -> None:
        import torch

        self.device = device
        self.samples = samples
        room = FLUSH if device.captures else 1 << 20
        self._room = torch.zeros(room // 4, dtype=torch.int32, device=device.torch_device)

    def __call__(self, step: Callable[[], Any]) -> Samples:
        import torch

        def run() -> None:
            step()

        replay, why = self.device.capture(run), ""
        try:
            for _ in range(4):
                replay()
        except CaptureFailed as error:
            replay, why = run, str(error)
        self.device.synchronize()
        if not self.device.captures:
            return Samples(tuple(self._clocked(replay) for _ in range(self.samples)), why)
        pairs = []
        for _ in range(self.samples):
            before, after = (torch.Event(self.device.torch_device, enable_timing=True) for _ in range(2))
            self._room.amax()
            before.record()
            replay()
            after.record()
            pairs.append((before, after))
        self.device.synchronize()
        return Samples(tuple(before.elapsed_time(after) / 1e3 for before, after in pairs), why)

    def copy_rate(self, size: int = 1 << 30) -> float:
        """Bytes read and written per second by torch's copy of one buffer to another."""
        import torch

        size = size if self.device.captures else 1 << 26
        one, other = (torch.zeros(size, dtype=torch.uint8, device=self.device.torch_device) for _ in range(2))
        return 2 * size / self(lambda: other.copy_(one)).median

    def _clocked(self, replay: Callable[[], None]) -> float:
        started = time.perf_counter()
        replay()
        return time.perf_counter() - started
