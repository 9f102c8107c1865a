"""The contract every device fulfils."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class DeviceUnavailable(RuntimeError):
    """The device asked for is unknown, or cannot be used on this machine; the message says why and what to do."""


class Device(ABC):
    """One accelerator (or the CPU) as npukv sees it.

    Attributes:
        name: the word a user types ("cpu", "cuda", "npu").
        index: which of the machine's cards.
        collectives: the torch.distributed backend that joins several of them.
        batch_tokens: tokens per forward pass beyond which throughput no longer grows.
    """

    name: str
    collectives: str
    batch_tokens: int

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

    def prepare(self) -> None:  # noqa: B027 - most devices come ready
        """Settle what makes repeated large batches fast, once per process, before the first model is loaded."""

    def synchronize(self) -> None:  # noqa: B027 - a device without a queue has nothing to wait for
        """Wait until all queued work is done."""

    def release_memory(self) -> None:  # noqa: B027 - a device without a caching allocator has nothing to release
        """Give cached, unused memory back to the device."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an exception means that an allocation did not fit."""
        return isinstance(error, MemoryError)
