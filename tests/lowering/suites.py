"""The suites: one per file of kernels."""

from __future__ import annotations

import importlib

from tests.lowering.suite import Suite

FAMILIES = ("small", "attention", "hashing", "attend", "clustering", "passes", "merging", "decode")


def suites() -> dict[str, Suite]:
    return {name: importlib.import_module(f"tests.lowering.{name}_suite").SUITE for name in FAMILIES}
