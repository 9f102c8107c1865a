"""Makes `npu` a device of this process, as `import torch_npu` would on a machine with cards."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType

import torch

from tests.ascend.binding import contract

_kept: list[torch.library.Library] = []


def install(cards: int = 1, version: str = "2.13.0") -> ModuleType:
    """The device, torch.npu, torch_npu, its operators' schemas, and what they do where that is documented.

    Args:
        cards: how many there seem to be.
        version: of torch_npu, whose kernels and schemas there are.

    Returns:
        `runtime`, with what only the simulated device can: limits, counts, recording.
    """
    from tests.ascend.simulated import runtime, semantics

    if "torch_npu" in sys.modules:
        return runtime
    torch.utils.rename_privateuse1_backend("npu")
    torch._register_device_module("npu", runtime.module(cards))
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    facts = contract(version)
    runtime.list_kernels(facts["kernels"])
    library = torch.library.Library("npu", "FRAGMENT")
    for schema in facts["operators"]:
        library.define(schema)
    semantics.register(library)
    _kept.append(library)
    stand_in = ModuleType("torch_npu")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("torch_npu", None)
    stand_in.__version__ = f"{version}+simulated"  # type: ignore[attr-defined]
    stand_in.npu = torch.npu  # type: ignore[attr-defined]
    for name in {schema.partition("(")[0].partition(".")[0] for schema in facts["operators"]}:
        setattr(stand_in, name, getattr(torch.ops.npu, name))  # transformers looks for some of them
    sys.modules["torch_npu"] = stand_in
    return runtime
