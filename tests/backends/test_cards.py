"""What the cards answer on a machine without them."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from npukv.backends import DeviceUnavailable, select
from npukv.backends.ascend import Ascend
from npukv.backends.cuda import Cuda


@pytest.mark.skipif(find_spec("torch_npu") is not None, reason="torch_npu is installed here")
def test_absent_ascend_names_the_remedy() -> None:
    ok, reason = Ascend.available()
    assert not ok
    assert "CANN" in reason
    assert f"torch-npu=={torch.__version__.partition('+')[0]} " in reason
    with pytest.raises(DeviceUnavailable, match="torch-npu"):
        select("npu")


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is built with CUDA here")
def test_torch_without_cuda_names_the_remedy() -> None:
    ok, reason = Cuda.available()
    assert not ok
    assert torch.__version__ in reason
    assert "CUDA build" in reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA card is here")
def test_absent_cuda_card_is_refused() -> None:
    with pytest.raises(DeviceUnavailable, match="'cuda' cannot be used here"):
        select("cuda")


def test_out_of_memory_of_each_card() -> None:
    assert Cuda().is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."))
    assert Ascend().is_out_of_memory(RuntimeError("NPU out of memory. Tried to allocate 20.00 GiB"))
    assert not Ascend().is_out_of_memory(RuntimeError("EZ9999: inner error"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_cuda_figures() -> None:
    device = select("cuda")
    free = device.free_memory()
    assert 0 < free <= torch.cuda.get_device_properties(0).total_memory
    block = torch.ones(1 << 28, dtype=torch.uint8, device=device.torch_device)
    device.synchronize()
    assert device.peak_memory() >= 1 << 28
    assert device.free_memory() < free - (1 << 27)
    del block
    device.release_memory()
    with pytest.raises(Exception) as error:
        torch.empty(1 << 56, dtype=torch.uint8, device=device.torch_device)
    assert device.is_out_of_memory(error.value)
