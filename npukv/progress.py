"""Progress of long work on standard error: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

_DONE = {"tokenise": "characters", "sketch": "tokens", "score": "tokens"}


class ProgressReport:
    """A context manager, called with (stage, done, in all); shows the rate per second and the time left.

    Args:
        cards: how many share the work; of several, the rate per card is shown too.
        silent: show nothing.
    """

    #: Seconds between two lines where there is no terminal.
    PAUSE = 10.0

    def __init__(self, cards: int = 1, silent: bool = False) -> None:
        self._cards = cards
        self._silent = silent
        self._bar: Any = None
        self._task: Any = None
        self._stage = ""
        self._started = self._printed = self._first = 0.0

    def __enter__(self) -> ProgressReport:
        if sys.stderr.isatty() and not self._silent:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description:>9}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f}%"),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands, so that other output may follow it. Calling again changes nothing."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._silent:
            return
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._printed, self._first = stage, now, now, done
            if self._bar is not None:
                self._task = self._bar.add_task(stage, total=total, rate="")
        elapsed = now - self._started
        # the first call ends the first piece of work: the rate counts from there
        speed = (done - self._first) / elapsed if elapsed > 0 else 0.0
        rate = f"{speed:,.0f} {_DONE.get(stage, '')}/s" if speed else ""
        if rate and self._cards > 1:
            rate += f" ({speed / self._cards:,.0f} on each of {self._cards} cards)"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, rate=rate)
        elif now - self._printed >= self.PAUSE or (done == total and stage == "score"):
            self._printed = now
            left = f", {(total - done) / speed:,.0f} s left" if speed and done < total else ""
            print(
                f"{stage}: {done:,} of {total:,} ({100 * done / total:.0f}%) {rate}{left}", file=sys.stderr, flush=True
            )
