"""Planted bugs: versions of a kernel that the cases must tell from the right one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.ascendc.card import Operator, Refused, RuleBroken


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


def noticed(operator: Operator, cases: list[Callable[[Operator], None]]) -> str:
    """How the first case that notices the bug does; "" when none does."""
    for case in cases:
        try:
            case(operator)
        except (Mismatch, RuleBroken, Refused) as error:
            return f"{type(error).__name__}: {error}"
    return ""
