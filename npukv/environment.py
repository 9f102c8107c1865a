"""What this machine has: versions, devices, kernels. Kept beside every measured figure."""

from __future__ import annotations

import os
import platform
from argparse import Namespace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("npukv", "torch", "torch-npu", "transformers", "tokenizers", "safetensors", "numpy", "triton")


def environment() -> dict[str, Any]:
    """A JSON-ready description of the software and the hardware in reach."""
    import torch

    from npukv.backends import DEVICES, select
    from npukv.backends.cpu import Cpu
    from npukv.ops import attention

    chosen = select()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "cores": Cpu().units()["cores"],
        "threads": torch.get_num_threads(),
        "devices": {name: _availability(device) for name, device in DEVICES.items()},
        "device": {
            "name": chosen.name,
            "description": chosen.description(),
            "dtype": str(chosen.default_dtype()).removeprefix("torch."),
            "units": chosen.units(),
            "free_memory": chosen.free_memory(),
            "collectives": chosen.collectives,
        },
        "kernels": {
            f"causal_attention, {name}": dict(
                zip(("kernel", "reason"), attention.explain(chosen.name, dtype), strict=True)
            )
            for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32))
        },
    }


def as_given(options: Namespace) -> dict[str, str]:
    """A command's options for a JSON of results; of paths the last part alone: the others are one machine's."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        if isinstance(value, str) and os.sep in value and Path(value).exists():
            return Path(value).name
        return value.name if isinstance(value, Path) else value

    return {name: str(plain(value)) for name, value in vars(options).items()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _availability(device: Any) -> dict[str, Any]:
    ok, reason = device.available()
    return {"available": ok, "reason": reason}
