"""NVIDIA cards through torch.cuda."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from npukv.backends.base import Device, Recorded, fetch_pinned

if TYPE_CHECKING:
    import torch


class Cuda(Device):
    name = "cuda"
    collectives = "nccl"
    batch_tokens = 262144
    captures = True

    @classmethod
    def available(cls) -> tuple[bool, str]:
        import torch

        if torch.version.cuda is None:
            return False, f"torch {torch.__version__} is built without CUDA: install a CUDA build of torch"
        if not torch.cuda.is_available():
            return False, "torch finds no CUDA card: check the driver with nvidia-smi"
        return True, f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device("cuda", self.index)

    def free_memory(self) -> int:
        import torch

        free, _ = torch.cuda.mem_get_info(self.index)
        reusable = torch.cuda.memory_reserved(self.index) - torch.cuda.memory_allocated(self.index)
        return free + reusable

    def peak_memory(self) -> int:
        import torch

        return torch.cuda.max_memory_allocated(self.index)

    def description(self) -> str:
        import torch

        return torch.cuda.get_device_name(self.index)

    def default_dtype(self) -> torch.dtype:
        import torch

        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32

    def units(self) -> dict[str, int]:
        import torch

        return {"multiprocessors": torch.cuda.get_device_properties(self.index).multi_processor_count}

    def seed(self, seed: int) -> None:
        import torch

        torch.cuda.manual_seed_all(seed)

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize(self.index)

    def release_memory(self) -> None:
        import torch

        torch.cuda.empty_cache()

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        import torch

        return Recorded(step, torch.cuda, torch.cuda.Stream(self.index), torch.cuda.CUDAGraph)

    def fetch(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        import torch

        return fetch_pinned(tensor, torch.cuda.Event())

    def is_out_of_memory(self, error: BaseException) -> bool:
        import torch

        return isinstance(error, torch.OutOfMemoryError) or super().is_out_of_memory(error)
