"""Capturing a step: every call does it once, whether it is run, recorded or replayed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from npukv.backends import DEVICES, CaptureFailed, select
from npukv.backends.base import Recorded
from npukv.backends.cpu import Cpu

AVAILABLE = [name for name in ("cuda", "npu") if DEVICES[name].available()[0]]


class Runtime:
    """A runtime that records: inside its `graph`, work is noted and not done."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.recording: list[Callable[[], None]] | None = None

    def current_stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda stream: self.events.append("main waits"))

    @contextmanager
    def stream(self, stream: Any):
        self.events.append("on the side")
        yield

    @contextmanager
    def graph(self, graph: Any, stream: Any):
        self.events.append("record")
        self.recording = graph.work
        yield
        self.recording = None

    def launch(self, work: Callable[[], None]) -> None:
        if self.recording is not None:
            self.recording.append(work)
        else:
            work()


class Graph:
    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def replay(self) -> None:
        for work in self.work:
            work()


def test_each_call_does_the_step_once() -> None:
    runtime, done = Runtime(), torch.zeros(())
    on_host = []

    def step() -> None:
        on_host.append(1)
        runtime.launch(lambda: done.add_(1))

    side = SimpleNamespace(wait_stream=lambda stream: runtime.events.append("side waits"))
    replay = Recorded(step, runtime, side, Graph)
    for call in range(1, 8):
        replay()
        assert done == call
    assert len(on_host) == Recorded.UNRECORDED + 1  # as it is, and once to record
    assert runtime.events == ["side waits", "on the side", "main waits"] * Recorded.UNRECORDED + ["record"]


def test_what_cannot_be_recorded_is_refused() -> None:
    class Refusing(Runtime):
        @contextmanager
        def graph(self, graph: Any, stream: Any):
            yield
            raise RuntimeError("operation not permitted when stream is capturing\nsecond line")

    side = SimpleNamespace(wait_stream=lambda stream: None)
    replay = Recorded(lambda: None, Refusing(), side, Graph)
    for _ in range(Recorded.UNRECORDED):
        replay()
    with pytest.raises(CaptureFailed, match=r"\(operation not permitted when stream is capturing\).*capture=False"):
        replay()


def test_the_cpu_takes_the_step_itself() -> None:
    def step() -> None: ...

    assert Cpu().capture(step) is step
    assert not Cpu.captures


def test_what_was_fetched_stays_as_it_was() -> None:
    device, tensor = Cpu(), torch.arange(3)
    fetched = device.fetch(tensor)
    tensor.add_(5)
    assert fetched().tolist() == [0, 1, 2]


@pytest.mark.skipif(not AVAILABLE, reason="needs a card")
@pytest.mark.parametrize("name", AVAILABLE)
def test_on_a_card(name: str) -> None:
    device = select(name)
    place, total = torch.zeros(4, device=device.torch_device), torch.zeros(4, device=device.torch_device)

    def step() -> None:
        place.add_(1)
        total.add_(place @ torch.eye(4, device=device.torch_device))

    replay = device.capture(step)
    fetched = []
    for _ in range(6):
        replay()
        fetched.append(device.fetch(total))
    assert [one()[0].item() for one in fetched] == [1, 3, 6, 10, 15, 21]
