"""From a Triton kernel's source to a shared object for this machine's CPU, by way of triton-ascend's linalg.

Two things are needed that are no dependencies of the package, both named by variables of the environment:
NPUKV_TRITON_ASCEND: the Python of an environment (3.9-3.11) with triton-ascend 3.2.0 and pybind11, and nothing else
called triton; NPUKV_MLIR: the folder with LLVM 19's mlir-opt, mlir-translate, opt and llc (Debian: mlir-19-tools,
libmlir-19, llvm-19 and libllvm19, which may be unpacked anywhere). Without that one, `mlir-opt` is looked for on PATH
and in Debian's own place.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tests.lowering.intrinsics import with_bodies

HERE = Path(__file__).parent
TOOLS = ("mlir-opt", "mlir-translate", "opt", "llc")
#: linalg on tensors -> buffers -> loops -> LLVM. Names are MLIR 19's; nothing here knows of Ascend.
PASSES = (
    "--allow-unregistered-dialect",
    "--inline",
    "--linalg-generalize-named-ops",
    "--convert-elementwise-to-linalg",
    "--eliminate-empty-tensors",
    "--empty-tensor-to-alloc-tensor",
    "--one-shot-bufferize=allow-return-allocs-from-loops=true",
    "--convert-linalg-to-loops",
    "--expand-strided-metadata",
    "--lower-affine",
    "--convert-scf-to-cf",
    "--convert-cf-to-llvm",
    "--arith-expand=include-bf16=true",
    "--convert-arith-to-llvm",
    "--convert-math-to-llvm",
    "--convert-math-to-libm",
    "--convert-index-to-llvm",
    "--finalize-memref-to-llvm",
    "--convert-func-to-llvm",
    "--lower-affine",
    "--convert-arith-to-llvm",
    "--convert-cf-to-llvm",
    "--reconcile-unrealized-casts",
)


class LoweringError(Exception):
    """A kernel that the vendor's front end, or MLIR on the CPU, refuses; `stage` says which: "lower" or "cpu"."""

    def __init__(self, stage: str, message: str, kernel: str = "") -> None:
        super().__init__(f"{stage}: {kernel}: {message}")
        self.stage, self.message, self.kernel = stage, message, kernel


def mlir_folder() -> Path | None:
    named = os.environ.get("NPUKV_MLIR")
    on_path = shutil.which("mlir-opt") or shutil.which("mlir-opt-19")
    places = [named] if named else [str(Path(on_path).resolve().parent) if on_path else "", "/usr/lib/llvm-19/bin"]
    return next((Path(p) for p in places if p and all((Path(p) / tool).exists() for tool in TOOLS)), None)


def libraries(folder: Path) -> dict[str, str]:
    """The environment for LLVM's tools: when they are unpacked elsewhere, so are their libraries."""
    root = folder.parent.parent
    paths = [str(folder.parent / "lib"), *(str(path) for path in sorted(root.glob("*-linux-gnu")))]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join([*paths, os.environ.get("LD_LIBRARY_PATH", "")])}


@cache
def missing() -> str:
    """What is not there, as a reason to skip; "" when everything is."""
    if sys.platform != "linux":
        return "guard pages and fork are used as Linux has them"
    python = os.environ.get("NPUKV_TRITON_ASCEND")
    if not python:
        return "NPUKV_TRITON_ASCEND does not name the Python of an environment with triton-ascend"
    probe = [python, "-c", "import triton.backends.ascend.compiler"]
    found = subprocess.run(probe, capture_output=True, text=True) if Path(python).exists() else None
    if found is None or found.returncode:
        return f"{python} has no triton-ascend: " + (found.stderr.strip().splitlines()[-1] if found else "no such file")
    folder = mlir_folder()
    if folder is None:
        return f"NPUKV_MLIR does not name a folder with {', '.join(TOOLS)} of LLVM 19"
    works = subprocess.run([folder / "mlir-opt", "--version"], capture_output=True, text=True, env=libraries(folder))
    if works.returncode:
        return f"mlir-opt does not run: {works.stderr.strip()[:200]}"
    return "" if shutil.which("g++") else "no g++ to link with"


class Lowerer:
    """One process of triton-ascend's environment that lowers kernels as they come."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [os.environ["NPUKV_TRITON_ASCEND"], str(HERE / "lower.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TRITON_INTERPRET": "0"},  # tests of the CUDA kernels ask for the interpreter
        )
        atexit.register(self.process.communicate)

    def __call__(self, **request: Any) -> str:
        if self.process.stdin is None or self.process.stdout is None:
            raise LoweringError("lower", "the compiler's process has no pipes")
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise LoweringError("lower", f"the compiler died with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise LoweringError("lower", answer["error"])
        return answer["linalg"]


@cache
def lowerer() -> Lowerer:
    return Lowerer()


@cache
def objects() -> tempfile.TemporaryDirectory[str]:
    """Where shared objects lie; gone with the process."""
    return tempfile.TemporaryDirectory(prefix="lowered-")


def run(command: list[str | Path], folder: Path | None = None, text: str = "") -> str:
    environment = libraries(folder) if folder else None
    done = subprocess.run(command, capture_output=True, text=True, env=environment, input=text)
    if done.returncode:
        raise LoweringError("cpu", f"{Path(command[0]).name}: {done.stderr.strip()[:2000]}")
    return done.stdout


@cache
def runtime() -> Path:
    """memref_copy.cpp, compiled."""
    path = Path(objects().name) / "memref_copy.o"
    run(["g++", "-O2", "-fPIC", "-c", HERE / "memref_copy.cpp", "-o", path])
    return path


def compile_linalg(linalg: str) -> ctypes.CDLL:
    """Lowered code as a library of this process.

    Raises:
        LoweringError: of stage "cpu", where MLIR has no way to run an operation that Ascend's compiler knows.
    """
    tools = mlir_folder()
    if tools is None:
        raise LoweringError("cpu", missing())
    stem = Path(objects().name) / hashlib.sha256(linalg.encode()).hexdigest()[:24]
    shared = stem.with_suffix(".so")
    if not shared.exists():
        dialect = run([tools / "mlir-opt", "-", *PASSES], tools, with_bodies(linalg))
        translate = [tools / "mlir-translate", "-", "--mlir-to-llvmir", "--allow-unregistered-dialect"]
        better = run([tools / "opt", "-O1", "-S", "-"], tools, run(translate, tools, dialect))
        code = stem.with_suffix(".o")
        flags = ["-O1", "-relocation-model=pic", "-filetype=obj", "-mattr=+f16c"]
        run([tools / "llc", *flags, "-o", code, "-"], tools, better)
        run(["g++", "-shared", "-Wl,--no-undefined", "-o", shared, code, runtime(), "-lm"])
    return ctypes.CDLL(str(shared))


@cache
def _kernel(source: str, name: str, signature: str, constants: str) -> ctypes.CDLL:
    try:
        linalg = lowerer()(source=source, name=name, signature=json.loads(signature), constants=json.loads(constants))
        return compile_linalg(linalg)
    except LoweringError as error:
        raise LoweringError(error.stage, error.message, name) from None


def kernel(source: str, name: str, signature: dict[str, str], constants: dict[str, Any]) -> ctypes.CDLL:
    """The library that holds one specialisation of a kernel; each is made once in a process."""
    return _kernel(source, name, json.dumps(signature), json.dumps(constants))
