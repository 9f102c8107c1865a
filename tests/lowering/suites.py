"""The suites that can be tried here; a family whose kernels cannot be imported (no triton) is left out with its reason."""

from __future__ import annotations

import importlib

from tests.lowering.suite import Suite

FAMILIES = ("small",)


def suites() -> dict[str, Suite]:
    return {name: importlib.import_module(f"tests.lowering.{name}_suite").SUITE for name in FAMILIES}
