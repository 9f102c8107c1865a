"""What is tried of each kernel, and what comes out of it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch

from tests.lowering import launch
from tests.lowering.launch import OutOfBounds, jit_functions, on_lowered
from tests.lowering.toolchain import LoweringError

#: A case launches the operator on inputs of its own and raises `Mismatch` where the outcome is not the reference's.
Case = Callable[[], None]


class Mismatch(Exception):
    """The lowered kernel computes something else than the reference."""


@dataclass(frozen=True)
class Mutation:
    """A planted bug: `old` in the source of the module that has it becomes `new`."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Suite:
    """Modules of kernels, their cases by name (from a seed), and the bugs they must notice."""

    name: str
    modules: tuple[ModuleType, ...]
    cases: Callable[[int], Iterator[tuple[str, Case]]]
    mutations: tuple[Mutation, ...] = ()


@dataclass
class Outcome:
    """What happened to a suite's cases: the number passed, the first complaint per case, launches per kernel."""

    passed: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # does not lower, or cannot be run on the CPU
    launches: dict[str, int] = field(default_factory=dict)


def source_of(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def try_cases(
    suite: Suite, sources: dict[ModuleType, str] | None = None, seed: int = 0, until_failure: bool = False
) -> Outcome:
    """Runs the cases on the lowered form of the modules' kernels, or of other versions of their source."""
    outcome = Outcome()
    torch.manual_seed(seed)
    random.seed(seed)
    with contextlib.ExitStack() as stack:
        seen = [stack.enter_context(on_lowered(module, (sources or {}).get(module))) for module in suite.modules]
        for name, case in suite.cases(seed):
            try:
                for launch.fence_at_end in (True, False):
                    case()
                outcome.passed += 1
            except (Mismatch, OutOfBounds, TimeoutError) as error:
                outcome.failed[name] = f"{type(error).__name__}: {error}"
            except LoweringError as error:
                outcome.refused[name] = str(error)
            if until_failure and (outcome.failed or outcome.refused):
                break
    outcome.launches = {name: number for counts in seen for name, number in counts.items()}
    return outcome


def plant(suite: Suite, mutation: Mutation) -> dict[ModuleType, str]:
    """The module that has the bug's place, with its new source."""
    for module in suite.modules:
        source = source_of(module)
        if mutation.old in source:
            return {module: source.replace(mutation.old, mutation.new)}
    raise ValueError(f"{suite.name}, {mutation.name}: no source has {mutation.old!r}")


def catch(suite: Suite, mutation: Mutation) -> str:
    """Which case notices a planted bug, and how; "" when none does."""
    outcome = try_cases(suite, plant(suite, mutation), until_failure=True)
    if outcome.refused:
        raise ValueError(f"{mutation.name} no longer lowers, which proves nothing: {outcome.refused}")
    return next((f"{name}: {how}" for name, how in outcome.failed.items()), "")


def kernels(suite: Suite) -> list[str]:
    """The kernels that are launched (functions that only other kernels call have no launch of their own)."""
    sources = [source_of(module) for module in suite.modules]
    return [name for source in sources for name in jit_functions(source) if f"{name}[" in source]


def expect_close(name: str, got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Largest difference against the larger of 1 and the expected size; both infinite of one sign is no difference."""
    if got.shape != expected.shape:
        raise Mismatch(f"{name}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
    got, expected = got.double(), expected.double()
    same = (got == expected) | (got.isnan() & expected.isnan())
    error = torch.where(same, 0.0, (got - expected).abs() / expected.abs().clamp_min(1.0))
    worst = float(error.nan_to_num(float("inf")).max()) if error.numel() else 0.0
    if not worst <= tolerance:
        raise Mismatch(f"{name}: off by {worst:.3g}, allowed {tolerance:.3g}")


def expect_equal(name: str, got: torch.Tensor, expected: torch.Tensor) -> None:
    if got.shape != expected.shape or not torch.equal(got, expected.to(got.dtype)):
        wrong = int((got != expected).sum()) if got.shape == expected.shape else "shape"
        raise Mismatch(f"{name}: differs ({wrong})")
