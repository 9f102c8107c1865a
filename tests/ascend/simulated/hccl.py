"""What stands in for HCCL: the collectives npukv may use, carried by gloo, for tensors on cards; others are errors."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed

#: torch.distributed's functions that the stand-in carries.
COLLECTIVES = {"all_gather", "all_reduce", "barrier", "broadcast"}


class Done(distributed._Work):
    """Work that is over when it is returned."""

    def wait(self, timeout: timedelta | None = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def get_future(self) -> Any:
        future: Any = torch.futures.Future()
        future.set_result(None)
        return future


class Hccl(distributed.ProcessGroup):
    """Every collective gathers on the host and copies back to the cards."""

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self._gloo = distributed.ProcessGroupGloo(store, rank, size, timeout)

    def getBackendName(self) -> str:
        return "hccl"

    def allgather(self, outputs: list[list[torch.Tensor]], inputs: list[torch.Tensor], opts: Any = None) -> Done:
        _on_cards("all_gather", [*inputs, *outputs[0]])
        _alike("all_gather", [inputs[0], *outputs[0]])
        parts = [torch.empty(part.shape, dtype=part.dtype) for part in outputs[0]]
        self._gloo.allgather([parts], [inputs[0].cpu()]).wait()
        _put(outputs[0], parts)
        return Done()

    def allreduce(self, tensors: list[torch.Tensor], opts: Any = None) -> Done:
        _on_cards("all_reduce", tensors)
        parts = [tensor.cpu() for tensor in tensors]
        self._gloo.allreduce(parts, opts or distributed.AllreduceOptions()).wait()
        _put(tensors, parts)
        return Done()

    def broadcast(self, tensors: list[torch.Tensor], opts: Any = None) -> Done:
        _on_cards("broadcast", tensors)
        parts = [tensor.cpu() for tensor in tensors]
        self._gloo.broadcast(parts, opts).wait()
        _put(tensors, parts)
        return Done()

    def barrier(self, opts: Any = None) -> Done:
        self._gloo.barrier().wait()
        return Done()


def register() -> None:
    """Make "hccl" a backend of torch.distributed for `npu`."""
    distributed.Backend.register_backend("hccl", Hccl, devices=["npu"])


def _on_cards(name: str, tensors: Sequence[torch.Tensor]) -> None:
    for tensor in tensors:
        if tensor.device.type != "npu":
            raise RuntimeError(f"{name}: HCCL takes tensors on a card, got one on {tensor.device}")


def _alike(name: str, tensors: Sequence[torch.Tensor]) -> None:
    kinds = {(tuple(tensor.shape), tensor.dtype) for tensor in tensors}
    if len(kinds) > 1:
        raise RuntimeError(f"{name}: HCCL takes tensors of one shape and type, got {sorted(map(str, kinds))}")


def _put(tensors: Sequence[torch.Tensor], parts: Sequence[torch.Tensor]) -> None:
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part)
