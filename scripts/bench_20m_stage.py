"""What the stages of bench_20m share: guarded sections, and clocks for one process and for all ranks."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from typing import Any


class Stage:
    """One stage: guarded sections, a JSON written as figures come."""

    def __init__(self, name: str, chosen: Any, first: bool = True) -> None:
        self.chosen, self.first = chosen, first
        self.path = chosen.work / f"stage-{name}.json"
        self.found: dict[str, Any] = {"failed": {}}

    @property
    def left(self) -> float:
        return self.chosen.deadline - time.time()

    def section(self, name: str, needs: float, work: Callable[[], Any]) -> Any:
        if self.chosen.sections and name not in self.chosen.sections.split(","):
            return None
        if self.left < needs:
            self.found["failed"][name] = f"{self.left:.0f} s were left, it needs {needs:.0f}"
            return None
        started = time.perf_counter()
        try:
            self.found[name] = work()
        except Exception as error:
            traceback.print_exc()
            self.found["failed"][name] = f"{type(error).__name__}: {error}"
        if self.first:
            print(f"[{name}: {time.perf_counter() - started:.1f} s, {self.left:.0f} s left]", flush=True)
            self.path.write_text(json.dumps(self.found))
        return self.found.get(name)


def timed(lm: Any, work: Callable[[], Any]) -> tuple[Any, float]:
    lm.device.synchronize()
    started = time.perf_counter()
    result = work()
    lm.device.synchronize()
    return result, time.perf_counter() - started


def watched(ranks: Any, work: Callable[[], Any]) -> tuple[Any, float, list[list[tuple[float, int]]]]:
    """What work returns, its seconds, and of every rank when it had done how many segments."""
    marks: list[tuple[float, int]] = []
    note = ranks.note
    ranks.note = lambda done, last=False: (marks.append((time.time(), done)), note(done, last))[1]
    ranks.meet("begin")
    began, started = time.time(), time.perf_counter()
    try:
        result = work()
    finally:
        ranks.note = note
    ranks.device.synchronize()
    seconds = time.perf_counter() - started
    lines = ranks.gather(json.dumps([(at - began, done) for at, done in marks]).encode(), "gather time lines")
    return result, seconds, [json.loads(line) for line in lines]
