"""Custom operators, built with g++ against the stand-in for Ascend C and run on tensors: host tiling, then kernel."""

from __future__ import annotations

import ctypes
import hashlib
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

SHIM = Path(__file__).parent / "shim"
SOURCES = Path(__file__).parents[2] / "ops" / "ascendc"
TYPES = {torch.float32: 0, torch.float16: 1, torch.int32: 3, torch.bfloat16: 27}  # ge::DataType
GUARD = 64  # bytes on both sides of a tensor


class RuleBroken(Exception):
    """The kernel did what a card does not allow, or wrote beside its outputs."""


class Refused(Exception):
    """The host's tiling refuses the arguments."""


@dataclass(frozen=True)
class Chip:
    """What differs from card to card; the default is arch 2201 with few cores."""

    unified_buffer: int = 192 * 1024
    cores: int = 5


@dataclass(frozen=True)
class Spec:
    """An operator's name, and how many tensors its kernel takes and returns."""

    name: str
    tiling: str
    inputs: int
    outputs: int


HAMMING = Spec("hamming_blocks", "HammingBlocksTilingData", 3, 1)
MERGE = Spec("centroid_merge", "CentroidMergeTilingData", 4, 3)


@cache
def missing() -> str:
    """Why nothing can be built here; "" when it can."""
    compiler = shutil.which("g++")
    if compiler is None:
        return "no g++"
    program = "_Float16 x; int main() { if constexpr (true) return static_cast<int>(x); }"
    command = [compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(command, input=program, capture_output=True, text=True)
    return "" if done.returncode == 0 else "g++ knows no _Float16"


class Operator:
    """A built operator: `operator(tensors, attributes)` plans on the host and runs the kernel on all cores."""

    def __init__(self, library: Path, spec: Spec, version: int) -> None:
        self.spec, self.version = spec, version
        self.library = ctypes.CDLL(str(library))
        self.library.error.restype = self.library.definition.restype = ctypes.c_char_p
        self.most = 0  # bytes of the unified buffer that the last run took

    def definition(self) -> list[list[str]]:
        return [line.split() for line in self.library.definition().decode().splitlines()]

    def plan(self, tensors: list[torch.Tensor], attributes: list[int], chip: Chip) -> tuple[int, int, list[int]]:
        """(cores, bytes of workspace, tiling data as 32-bit words); `Refused` when the host refuses."""
        workspace, words = ctypes.c_uint64(), (ctypes.c_uint32 * 32)()
        cores = self.library.plan(
            *arguments(tensors, attributes),
            ctypes.c_uint64(chip.unified_buffer),
            chip.cores,
            ctypes.byref(workspace),
            words,
            32,
        )
        if cores == 0:
            raise Refused(self.spec.name)
        return cores, workspace.value, list(words)

    def infer(self, tensors: list[torch.Tensor], attributes: list[int]) -> list[tuple[list[int], torch.dtype]]:
        """Shapes and types of the outputs as the host infers them."""
        shapes, types = (ctypes.c_int64 * 64)(), (ctypes.c_int32 * 8)()
        if self.library.infer(*arguments(tensors, attributes), shapes, types):
            raise Refused(self.spec.name)
        flat, found = list(shapes), []
        dtypes = {number: dtype for dtype, number in TYPES.items()}
        for output in range(self.spec.outputs):
            size = flat[0]
            found.append((flat[1 : 1 + size], dtypes[types[output]]))
            flat = flat[1 + size :]
        return found

    def __call__(
        self, tensors: list[torch.Tensor], attributes: list[int], chip: Chip | None = None
    ) -> list[torch.Tensor]:
        chip = chip or Chip()
        _, workspace, _ = self.plan(tensors, attributes, chip)
        outputs = [torch.empty(shape, dtype=dtype) for shape, dtype in self.infer(tensors, attributes)]
        sizes = [tensor.nbytes for tensor in (*tensors, *outputs)] + [workspace]
        memory = [torch.full((size + 2 * GUARD,), 0xAB, dtype=torch.uint8) for size in sizes]
        for tensor, held in zip(tensors, memory, strict=False):
            held[GUARD : GUARD + tensor.nbytes] = tensor.contiguous().flatten().view(torch.uint8)
        pointers = (ctypes.c_void_p * len(memory))(*(held.data_ptr() + GUARD for held in memory))
        most = ctypes.c_uint64()
        failed = self.library.run(
            self.version,
            pointers,
            (ctypes.c_uint64 * len(sizes))(*sizes),
            ctypes.c_uint64(chip.unified_buffer),
            random.randrange(2**31),
            ctypes.byref(most),
        )
        self.most = most.value
        if failed:
            raise RuleBroken(self.library.error().decode())
        for held, size in zip(memory, sizes, strict=True):
            if not bool((held[:GUARD] == 0xAB).all() and (held[GUARD + size :] == 0xAB).all()):
                raise RuleBroken("a store beside a tensor")
        results = memory[len(tensors) : len(tensors) + len(outputs)]
        for tensor, held in zip(tensors, memory, strict=False):
            if not torch.equal(held[GUARD : GUARD + tensor.nbytes], tensor.contiguous().flatten().view(torch.uint8)):
                raise RuleBroken("an input was written to")
        return [
            held[GUARD : GUARD + out.nbytes].clone().view(out.dtype).view(out.shape)
            for held, out in zip(results, outputs, strict=True)
        ]


def arguments(tensors: list[torch.Tensor], attributes: list[int]) -> tuple[object, ...]:
    """Shapes (each after its number of dimensions), types and attributes as the library takes them."""
    flat = [number for tensor in tensors for number in (tensor.dim(), *tensor.shape)]
    types = [TYPES[tensor.dtype] for tensor in tensors]
    return (
        (ctypes.c_int64 * len(flat))(*flat),
        (ctypes.c_int32 * len(types))(*types),
        len(tensors),
        (ctypes.c_int64 * max(1, len(attributes)))(*attributes),
        len(attributes),
    )


def build(folder: Path, spec: Spec, kernels: Sequence[str] = ()) -> list[Operator]:
    """Compiles an operator; with other versions of its kernel's source, where some are given, in one library."""
    sources = list(kernels) or [kernel_of(spec)]
    parts = [
        f"namespace version_{number} {{\n" + source.replace('extern "C" ', "").replace("#include", "//") + "\n}\n"
        for number, source in enumerate(sources)
    ]
    names = ", ".join(f"version_{number}::{spec.name}" for number in range(len(sources)))
    text = "".join(parts) + f"static decltype(&version_0::{spec.name}) entries[] = {{{names}}};\n"
    stem = folder / f"{spec.name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    stem.with_suffix(".h").write_text(text, encoding="utf-8")
    library, host = stem.with_suffix(".so"), SOURCES / "op_host"
    command = ["g++", "-std=c++17", "-O0", "-fPIC", "-shared", "-pthread", "-fno-gnu-unique", f"-I{SHIM}", f"-I{host}"]
    command += [f'-DHOST="{host / spec.name}.cpp"', f'-DKERNELS="{stem}.h"', f"-DTILING={spec.tiling}"]
    command += [f"-DTENSORS={spec.inputs + spec.outputs}", str(SHIM / "run.cpp"), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"g++ refuses {spec.name}:\n{done.stderr[:3000]}")
    return [Operator(library, spec, number) for number in range(len(sources))]


def kernel_of(spec: Spec) -> str:
    return (SOURCES / "op_kernel" / f"{spec.name}.cpp").read_text(encoding="utf-8")
