"""Planted bugs: versions of a kernel that the cases must tell from the right one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.ascendc.card import Operator, Refused, RuleBroken, Spec, build, kernel_of

Case = Callable[[Operator], None]


class Mismatch(Exception):
    """The kernel computes something else than the reference."""


@dataclass(frozen=True)
class Mutation:
    """`old` in the kernel's source, there exactly once, becomes `new`."""

    name: str
    old: str
    new: str

    def plant(self, source: str) -> str:
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: the kernel has {self.old!r} {source.count(self.old)} times")
        return source.replace(self.old, self.new)


def noticed(operator: Operator, cases: Sequence[Case]) -> str:
    """How the first case that notices the bug does; "" when none does."""
    for case in cases:
        try:
            case(operator)
        except (Mismatch, RuleBroken, Refused) as error:
            return f"{type(error).__name__}: {error}"
    return ""


def unnoticed(spec: Spec, mutations: Sequence[Mutation], cases: Sequence[Case], folder: Path) -> list[str]:
    """Names of the bugs that no case notices; all versions are built into one library in the folder."""
    source = kernel_of(spec)
    versions = build(folder, spec, [mutation.plant(source) for mutation in mutations])
    quiet = []
    for mutation, version in zip(mutations, versions, strict=True):
        torch.manual_seed(1)
        if not noticed(version, cases):
            quiet.append(mutation.name)
    return quiet
