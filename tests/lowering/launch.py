"""Launches of Triton kernels, carried out on the CPU by their form lowered for Ascend.

`on_lowered(module)` replaces the kernels of a module while its own launchers run: strides, grids and constants are
those that a device would get. Every tensor goes into memory that ends, or begins, at a page that cannot be touched, so
that any access outside it kills the (forked) program; the programs of a grid run in random order.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import faulthandler
import importlib.util
import itertools
import mmap
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tests.lowering import toolchain

POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}
SCALARS = {"i1": ctypes.c_bool, "i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}
#: Arguments of a launch that say how to schedule a kernel, not what it computes.
SCHEDULING = {"num_warps", "num_stages", "num_ctas", "maxnreg"}
CANARY = 0xA5
LIMIT = 60  # seconds for one launch
#: On which side of every tensor lies what cannot be touched; on the other side, only stores are noticed.
fence_at_end = True


class OutOfBounds(Exception):
    """A kernel touched memory that is not its argument's."""


def is_jit(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(mark) for mark in node.decorator_list)


def jit_functions(source: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and is_jit(node)}


def kernel_source(source: str) -> str:
    """What the compiler needs of a file: triton's imports, the jitted functions, and the constants they use."""
    kept: list[str] = ["import triton", "import triton.language as tl"]
    body = ast.parse(source).body
    used = {name.id for node in body if is_jit(node) for name in ast.walk(node) if isinstance(name, ast.Name)}
    body = [Unqualified(modules_named(body) & used).visit(node) if is_jit(node) else node for node in body]
    for node in body:
        if is_jit(node) and isinstance(node, ast.FunctionDef):
            node.decorator_list = [ast.parse("triton.jit", mode="eval").body]
            node.body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            kept.append(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("npukv"):
            kept += jitted_imports(node, used)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "triton":
            kept.append(ast.unparse(node))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id in used for target in targets):
                kept.append(ast.unparse(node))
    return "\n\n".join(kept) + "\n"


class Unqualified(ast.NodeTransformer):
    """`module.function` becomes `function`: the compiler is given one file."""

    def __init__(self, modules: set[str]) -> None:
        self.modules = modules

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id in self.modules:
            return ast.Name(node.attr, node.ctx)
        return self.generic_visit(node)


def modules_named(body: list[ast.stmt]) -> set[str]:
    """What a file calls other modules of ours."""
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    aliases = [(node.module, alias) for node in imports for alias in node.names]
    return {alias.asname or alias.name for module, alias in aliases if source_of(module, alias.name)}


def source_of(package: str | None, name: str) -> str:
    """The text of one of our modules that is named in an import; "" = it is none."""
    whole = f"{package}.{name}"
    spec = importlib.util.find_spec(whole) if package and package.startswith("npukv") and is_package(package) else None
    return Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""


def is_package(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.submodule_search_locations is not None


def jitted_imports(node: ast.ImportFrom, used: set[str]) -> list[str]:
    """The sources of kernels that a file takes from others of ours, or calls there."""
    modules = [source_of(node.module, alias.name) for alias in node.names if (alias.asname or alias.name) in used]
    spec = importlib.util.find_spec(node.module or "")
    if spec is not None and spec.origin is not None:
        source = Path(spec.origin).read_text(encoding="utf-8")
        modules += [source] if {alias.name for alias in node.names} & set(jit_functions(source)) else []
    return [kernel_source(source) for source in modules if source]


libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Fenced:
    """A tensor's memory (from its first element to its last) between two untouchable pages, shared with a fork."""

    def __init__(self, tensor: torch.Tensor, at_end: bool) -> None:
        page, self.tensor = mmap.PAGESIZE, tensor
        elements = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
        self.bytes = (elements if tensor.numel() else 0) * tensor.element_size()
        inner = max(page, -(-self.bytes // page) * page)
        self.length = inner + 2 * page
        base = libc.mmap(None, self.length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | mmap.MAP_ANON, -1, 0)
        if base in (None, ctypes.c_void_p(-1).value):
            raise MemoryError(f"mmap of {self.length} bytes: {os.strerror(ctypes.get_errno())}")
        self.base: int = base
        libc.mprotect(base, page, 0)
        libc.mprotect(base + page + inner, page, 0)
        self.slack = inner - self.bytes
        self.address = base + page + (self.slack if at_end else 0)
        self.slack_address = base + page + (0 if at_end else self.bytes)
        ctypes.memset(self.slack_address, CANARY, self.slack)
        self.before = ctypes.string_at(tensor.data_ptr(), self.bytes) if self.bytes else b""
        ctypes.memmove(self.address, self.before, self.bytes)

    def take_back(self) -> None:
        """Copies what the kernel changed into the tensor; checks what lies beside it."""
        if ctypes.string_at(self.slack_address, self.slack) != bytes([CANARY]) * self.slack:
            raise OutOfBounds("a store beside an argument")
        after = ctypes.string_at(self.address, self.bytes)
        if after == self.before:
            return
        # Only what changed: another argument may be a view of the same memory.
        size = self.tensor.element_size()
        for start in range(0, self.bytes, size):
            if after[start : start + size] != self.before[start : start + size]:
                ctypes.memmove(self.tensor.data_ptr() + start, after[start : start + size], size)

    def free(self) -> None:
        libc.munmap(self.base, self.length)


def in_fork(work: Callable[[], None]) -> None:
    """Runs `work` in a forked process, whose death is an error here."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            faulthandler.disable()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LIMIT)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        if name == "SIGALRM":
            raise TimeoutError(f"a kernel ran for more than {LIMIT} s")
        raise OutOfBounds(f"{name}: an access outside every argument")
    if status:
        raise RuntimeError(f"the launch failed in the fork with status {status}")


def not_specialised(mark: ast.expr, names: dict[str, Any]) -> set[str]:
    """Arguments that a kernel's decorator keeps from being constants where they are 1."""
    for keyword in mark.keywords if isinstance(mark, ast.Call) else ():
        if keyword.arg == "do_not_specialize":
            return set(eval(ast.unparse(keyword.value), dict(names)))
    return set()


class Lowered:
    """Stands in for a jitted kernel: `kernel[grid](...)` runs its lowered form on the CPU."""

    def __init__(self, name: str, module: ModuleType, source: str, seen: dict[str, int]) -> None:
        self.name, self.source, self.seen = name, kernel_source(source), seen
        marks = jit_functions(source)[name].decorator_list
        self.varying = {name for mark in marks for name in not_specialised(mark, vars(module))}
        definition = jit_functions(self.source)[name].args
        self.parameters = [argument.arg for argument in definition.args]
        self.constexpr = {
            argument.arg
            for argument in definition.args
            if argument.annotation is not None and "constexpr" in ast.unparse(argument.annotation)
        }
        values = [ast.literal_eval(value) for value in definition.defaults]
        self.defaults = dict(zip(self.parameters[len(self.parameters) - len(values) :], values, strict=True))

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def call(*positional: Any, **named: Any) -> None:
            named = {name: value for name, value in named.items() if name not in SCHEDULING}
            bound = self.defaults | dict(zip(self.parameters, positional, strict=False)) | named
            unknown = sorted(set(bound) - set(self.parameters))
            if unknown or len(bound) != len(self.parameters):
                raise TypeError(f"{self.name}: unknown {unknown}, missing {sorted(set(self.parameters) - set(bound))}")
            size = grid(bound) if callable(grid) else grid
            self.launch(tuple(size) if isinstance(size, Sequence) else (size,), bound)

        return call

    def launch(self, grid: tuple[int, ...], bound: dict[str, Any]) -> None:
        """Signature and constants as triton's own launcher specialises them: None and the integer 1 are constants."""
        constants: dict[str, Any] = {}
        signature: dict[str, str] = {}
        for name in self.parameters:
            value = bound[name]
            one = type(value) is int and value == 1 and name not in self.varying
            if name in self.constexpr or value is None or one:
                constants[name] = getattr(value, "value", value)
            elif isinstance(value, torch.Tensor):
                signature[name] = POINTERS[value.dtype]
            elif isinstance(value, bool):
                signature[name] = "i1"
            elif isinstance(value, int):
                signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            elif isinstance(value, float):
                signature[name] = "fp32"
            else:
                raise TypeError(f"{self.name}: {name} is a {type(value).__name__}")
        library = toolchain.kernel(self.source, self.name, signature, constants)
        self.seen[self.name] = self.seen.get(self.name, 0) + 1
        try:
            run(library[self.name], [bound[name] for name in signature], list(signature.values()), grid)
        except OutOfBounds as error:
            raise OutOfBounds(f"{self.name}: {error}") from None


def run(function: Any, arguments: list[Any], types: list[str], grid: tuple[int, ...]) -> None:
    """Calls a lowered kernel for each program: two workspaces (unused), its arguments, the grid, the place in it."""
    function.restype = None
    fences: list[Fenced] = []
    plain: list[Any] = []
    for value, kind in zip(arguments, types, strict=True):
        if isinstance(value, torch.Tensor):
            fences.append(Fenced(value, fence_at_end))
            plain += memref(fences[-1].address, value.numel())
        else:
            plain.append(SCALARS[kind](value))
    sizes = [*grid, 1, 1][:3]
    places = list(itertools.product(*(range(size) for size in sizes)))
    random.shuffle(places)
    workspaces = memref(0, 0) * 2
    size_arguments = [ctypes.c_int32(size) for size in sizes]

    def programs() -> None:
        for place in places:
            function(*workspaces, *plain, *size_arguments, *(ctypes.c_int32(index) for index in place))

    try:
        in_fork(programs)
        for fence in fences:
            fence.take_back()
    finally:
        for fence in fences:
            fence.free()


def memref(address: int, elements: int) -> list[Any]:
    """A memref of one dimension as MLIR passes it: allocated, aligned, offset, size, stride."""
    pointer = ctypes.c_void_p(address)
    return [pointer, pointer, ctypes.c_int64(0), ctypes.c_int64(elements), ctypes.c_int64(1)]


@contextlib.contextmanager
def on_lowered(module: ModuleType, source: str | None = None) -> Iterator[dict[str, int]]:
    """Within it, launches of the module's kernels run their lowered form; gives launches per kernel.

    Args:
        module: a module with kernels, e.g. `npukv.ops.hashing.triton`.
        source: its text, when the kernels to lower differ from the file's (a mutation).
    """
    text = Path(str(module.__file__)).read_text(encoding="utf-8") if source is None else source
    seen: dict[str, int] = {}
    originals = {name: getattr(module, name) for name in jit_functions(text)}
    try:
        for name in originals:
            setattr(module, name, Lowered(name, module, text, seen))
        yield seen
    finally:
        for name, kernel in originals.items():
            setattr(module, name, kernel)
