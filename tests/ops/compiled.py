"""Compile for an NVIDIA card that is not there: what a kernel's launches would compile, up to the assembler.

Run in a process of its own, without Triton's interpreter:

    from compiled import recorded
    with recorded() as kernels:
        call_that_launches(tensors_on_meta)
    kernels["_kernel_name"].asm["ptx"], kernels["_kernel_name"].metadata.shared
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.int32: "*i32"}


@contextmanager
def recorded(capability: int = 90) -> Iterator[dict[str, Any]]:
    """Launches within compile instead of running; the last one of each kernel is kept by the kernel's name."""
    kernels: dict[str, Any] = {}

    def run(self: Any, *args: Any, grid: Any = None, warmup: bool = False, **kwargs: Any) -> None:
        given = dict(zip(self.arg_names, args, strict=False)) | kwargs
        signature, constants, attributes = {}, {}, {}
        for place, parameter in enumerate(self.params):
            value = given[parameter.name]
            if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
                signature[parameter.name], constants[(place,)] = "constexpr", value
                continue
            aligned = True
            if isinstance(value, torch.Tensor):
                signature[parameter.name] = POINTERS[value.dtype]
            elif isinstance(value, int):
                signature[parameter.name] = "i32" if abs(value) < 2**31 else "i64"
                aligned = value % 16 == 0
            else:
                signature[parameter.name], aligned = "fp32", False
            if aligned:
                attributes[(place,)] = [["tt.divisibility", 16]]
        options = {
            name: kwargs[name] for name in ("num_warps", "num_stages", "maxnreg", "launch_pdl") if kwargs.get(name)
        }
        source = ASTSource(self, signature, constants, attributes)
        kernels[self.__name__] = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)

    kept, JITFunction.run = JITFunction.run, run
    try:
        yield kernels
    finally:
        JITFunction.run = kept
