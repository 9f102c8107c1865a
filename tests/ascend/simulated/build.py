"""Builds the device's library on first use and keeps it: some ten seconds with g++."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parent / "device.cpp"


class CannotBuild(Exception):
    """No compiler, or torch has no headers."""


def missing() -> str:
    """Why the library cannot be had here; empty = it can."""
    try:
        library()
    except CannotBuild as error:
        return str(error)
    return ""


@cache
def library() -> Path:
    """The shared library for the torch in use."""
    import torch

    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    name = f"npu-{torch.__version__}-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    kept = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "npukv-simulated" / name
    if kept.exists():
        return kept
    if compiler is None:
        raise CannotBuild("the simulated device needs a C++ compiler (g++)")
    root = Path(torch.__file__).parent
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        made = Path(folder) / name
        done = subprocess.run(
            [
                *(compiler, "-O1", "-std=c++20", "-shared", "-fPIC", "-DAT_PER_OPERATOR_HEADERS"),
                f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
                *(f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}"),
                *(str(SOURCE), "-o", str(made), f"-L{root / 'lib'}", "-ltorch_cpu", "-lc10", "-ltorch"),
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise CannotBuild(f"the simulated device does not compile with {compiler}: {done.stderr[-2000:]}")
        os.replace(made, kept)  # two processes may build it at the same time
    return kept
