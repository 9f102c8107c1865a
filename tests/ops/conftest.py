"""Triton's interpreter, which runs the kernels on the CPU, with what it lacks."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest


@pytest.fixture(scope="session")
def interpreter() -> None:
    """Skips where there is no triton. Two things its interpreter does not do by itself:

    it keeps bfloat16 as raw 16-bit words, and multiplies those; up to 3.6 it counts with arrays of one number, which
    numpy no longer takes for numbers.
    """
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: its interpreter runs the CUDA kernels on the CPU")
    import triton.language as tl
    from triton.runtime import interpreter

    multiply, patch_tensor = interpreter.InterpreterBuilder.create_dot, interpreter._patch_lang_tensor

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (self.cast_impl(part, tl.float32) if part.dtype.scalar == tl.bfloat16 else part for part in (a, b))
        return multiply(self, a, b, *rest)

    def patched(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter.InterpreterBuilder.create_dot = create_dot
    interpreter._patch_lang_tensor = patched
