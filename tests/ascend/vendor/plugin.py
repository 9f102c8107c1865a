"""Given to pytest with -p: defines torch_npu's operators with the vendor's Meta kernels, read from a wheel.

The wheel is not installed: without CANN it could not be imported. The one file with Meta kernels needs little of the
package, for which empty modules stand in. It changes the process it is in.
"""

from __future__ import annotations

import os
import re
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import torch

WHEEL = "NPUKV_TORCH_NPU_WHEEL"
META = "torch_npu/op_plugin/meta/_meta_registrations.py"
NEWEST = "2.13.0"
#: SoC number of the 910B series, and a CANN that is new enough for every kernel.
SOC, CANN = 220, "8.5.0"

_kept: list[torch.library.Library] = []
refused: list[str] = []


def wheel() -> Path:
    return Path(os.environ[WHEEL])


def version() -> str:
    return wheel().name.split("-")[1]


def load() -> int:
    """Define all operators, run the vendor's file; the number of Meta kernels there are then."""
    from tests.ascend.binding import contract

    library = torch.library.Library("npu", "FRAGMENT")
    _kept.append(library)
    for schema in contract(version())["operators"]:
        library.define(schema)
    _stand_ins()

    class Lenient(torch.library.Library):
        """A kernel for an operator that this build does not have is noted, not fatal."""

        def impl(self, name: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().impl(name, *args, **kwargs)
            except RuntimeError as error:
                refused.append(f"{name}: {error}")
                return None

    strict = torch.library.Library
    torch.library.Library = Lenient  # type: ignore[misc]
    try:
        with zipfile.ZipFile(wheel()) as archive:
            source = archive.read(META).decode()
        names: dict[str, Any] = {"__name__": "vendor_meta"}
        exec(compile(source, META, "exec"), names)
        _kept.append(names)  # type: ignore[arg-type]
    finally:
        torch.library.Library = strict  # type: ignore[misc]
    return sum(
        has_meta(name) for name in set(re.findall(r"^[\w.]+", "\n".join(contract(version())["operators"]), re.M))
    )


def has_meta(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"npu::{name}", "Meta")


def _stand_ins() -> None:
    def module(name: str, **parts: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(parts)
        made.__path__ = []
        sys.modules[name] = made
        return made

    class Codes:
        def __getattr__(self, name: str) -> str:
            return name

    types_of_numbers = dict(int4=285, hifloat8=290, float8_e8m0fnu=293, float4_e2m1fn_x2=296, float4_e1m2fn_x2=297)
    inner = module("torch_npu._C")
    module("torch_npu", _C=inner, **types_of_numbers)
    module("torch_npu.utils")
    module("torch_npu.utils._error_code", ErrCode=Codes(), ops_error=lambda code: f" [{code}]", pta_error=str)
    module("torch_npu.npu")
    module("torch_npu.npu.utils", get_cann_version=lambda module="CANN": CANN)
    module("torch_npu.npu._backends", get_soc_version=lambda: SOC)


kernels = load()
