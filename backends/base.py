"""The contract every device fulfils."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class DeviceUnavailable(RuntimeError):
    """The device asked for is unknown, or cannot be used on this machine; the message says why and what to do."""


class CaptureFailed(RuntimeError):
    """A step could not be recorded; the message says why and what to do."""


class Device(ABC):
    """One accelerator (or the CPU) as npukv sees it.

    Attributes:
        name: the word a user types ("cpu", "cuda", "npu").
        index: which of the machine's cards.
        collectives: the torch.distributed backend that joins several of them.
        batch_tokens: tokens per forward pass beyond which throughput no longer grows.
        captures: whether work is queued, and `capture` records it.
    """

    name: str
    collectives: str
    batch_tokens: int
    captures = False

    def __init__(self, index: int = 0) -> None:
        self.index = index

    @classmethod
    @abstractmethod
    def available(cls) -> tuple[bool, str]:
        """Whether the device can be used here, and a sentence that says why (not)."""

    @property
    @abstractmethod
    def torch_device(self) -> torch.device:
        """The torch device tensors are placed on."""

    @abstractmethod
    def free_memory(self) -> int:
        """Bytes that can be allocated now, measured."""

    @abstractmethod
    def peak_memory(self) -> int:
        """Highest use so far, in bytes: of the allocator on a card, of the process on the CPU."""

    @abstractmethod
    def description(self) -> str:
        """The card's or processor's own name."""

    @abstractmethod
    def default_dtype(self) -> torch.dtype:
        """The floating type in which inference is fastest here at full 8-bit exponent range."""

    @abstractmethod
    def units(self) -> dict[str, int]:
        """How many units of each kind compute side by side, as the device says now."""

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Begin the device's own random numbers anew, those of all its cards."""

    def prepare(self) -> None:  # noqa: B027 - most devices come ready
        """Settle what makes repeated large batches fast, once per process, before the first model is loaded."""

    def synchronize(self) -> None:  # noqa: B027 - a device without a queue has nothing to wait for
        """Wait until all queued work is done."""

    def release_memory(self) -> None:  # noqa: B027 - a device without a caching allocator has nothing to release
        """Give cached, unused memory back to the device."""

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """A function that does what `step` does each time it is called, launched as one where the device can.

        `step` must read and write the same tensors every time, wait for nothing and decide nothing on the host. It is
        run as it is a few times, recorded once, and from then on only replayed: whatever it does on the host stays
        undone.
        """
        return step

    def fetch(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to copy a tensor to the host; the function returned waits for it and gives the copy.

        Work queued after this call neither changes the copy nor delays it.
        """
        copy = tensor.detach().to("cpu", copy=True)
        return lambda: copy

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an exception means that an allocation did not fit."""
        return isinstance(error, MemoryError)


class Recorded:
    """A step that records itself: what `capture` returns on cards whose runtime has streams and graphs.

    The first calls do their work without a graph, so that kernels compile and libraries take their workspaces before
    anything is recorded, and no call is wasted on it.

    Args:
        runtime: torch's module for the device (its streams, its `graph` context).
        stream: of its own, to record on.
        new_graph: makes an empty graph.
    """

    UNRECORDED = 2

    def __init__(self, step: Callable[[], None], runtime: Any, stream: Any, new_graph: Callable[[], Any]) -> None:
        self._step = step
        self._runtime = runtime
        self._new_graph = new_graph
        self._stream = stream
        self._calls = 0
        self._graph: Any = None

    def __call__(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        elif self._calls < self.UNRECORDED:
            self._calls += 1
            current = self._runtime.current_stream()
            self._stream.wait_stream(current)
            with self._runtime.stream(self._stream):
                self._step()
            current.wait_stream(self._stream)
        else:
            graph = self._new_graph()
            try:
                with self._runtime.graph(graph, stream=self._stream):
                    self._step()
            except RuntimeError as error:
                raise CaptureFailed(
                    f"the step cannot be recorded ({(str(error).splitlines() or ['no reason given'])[0]}); expected "
                    "work on the device alone, nothing that waits for it: leave capturing (capture=False)"
                ) from error
            self._graph = graph
            graph.replay()


def fetch_pinned(tensor: torch.Tensor, event: Any) -> Callable[[], torch.Tensor]:
    """Copy to the host's page-locked memory behind the work queued so far; `event` tells when it is there."""
    import torch

    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor.detach(), non_blocking=True)
    event.record()

    def wait() -> torch.Tensor:
        event.synchronize()
        return host

    return wait
