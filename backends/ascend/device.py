"""The Ascend member of the device contract.

Written against the public interface of torch_npu 2.13; no card has run it yet (the README's Ascend section says what
has been verified and how).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from npukv.backends.base import Device, Recorded, fetch_pinned

if TYPE_CHECKING:
    import torch


class Ascend(Device):
    name = "npu"
    collectives = "hccl"
    batch_tokens = 65536
    captures = True

    @classmethod
    def available(cls) -> tuple[bool, str]:
        if find_spec("torch_npu") is None:
            import torch

            base = torch.__version__.partition("+")[0]
            return False, f"torch_npu is not installed: install CANN, then torch-npu=={base} (it must match torch)"
        try:
            npu = _npu()
        except (ImportError, OSError, RuntimeError) as error:
            return False, f"torch_npu does not load ({error}): source CANN's set_env.sh and match torch's version"
        if not npu.is_available():
            return False, "torch_npu finds no card: check it with npu-smi info, and ASCEND_RT_VISIBLE_DEVICES"
        return True, f"{npu.device_count()} x {npu.get_device_name(0)}"

    @property
    def torch_device(self) -> torch.device:
        import torch

        _npu()  # registers the device name with torch
        return torch.device("npu", self.index)

    def free_memory(self) -> int:
        npu = _npu()
        free, _ = npu.mem_get_info(self.index)
        return free + npu.memory_reserved(self.index) - npu.memory_allocated(self.index)

    def peak_memory(self) -> int:
        return _npu().max_memory_allocated(self.index)

    def description(self) -> str:
        return _npu().get_device_name(self.index)

    def default_dtype(self) -> torch.dtype:
        """bfloat16 on 910B and later; the first 910 has none."""
        import torch

        return torch.bfloat16 if _npu().is_bf16_supported() else torch.float16

    def units(self) -> dict[str, int]:
        """Cube and vector cores this process may use: the card's own, unless torch.npu.set_device_limit left fewer."""
        limit = _npu().get_device_limit(self.index)
        return {"cube cores": limit["cube_core_num"], "vector cores": limit["vector_core_num"]}

    def seed(self, seed: int) -> None:
        _npu().manual_seed_all(seed)

    def synchronize(self) -> None:
        _npu().synchronize(self.index)

    def release_memory(self) -> None:
        _npu().empty_cache()

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        npu = _npu()
        return Recorded(step, npu, npu.Stream(self.index), npu.NPUGraph)

    def fetch(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        return fetch_pinned(tensor, _npu().Event())

    def is_out_of_memory(self, error: BaseException) -> bool:
        # torch_npu raises a RuntimeError with this text where torch has a class of its own
        return "NPU out of memory" in str(error) or super().is_out_of_memory(error)


def _npu() -> Any:
    """torch.npu, which importing torch_npu puts there."""
    import torch
    import torch_npu  # noqa: F401

    return torch.npu  # type: ignore[attr-defined]
