"""Huawei Ascend cards through torch_npu."""

from npukv.backends.ascend.device import Ascend

__all__ = ["Ascend"]
