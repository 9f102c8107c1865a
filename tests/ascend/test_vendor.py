"""Rung 1: shapes by the vendor's Meta kernels, where the wheel is here; by what they said when it was, elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.ascend.processes import failures, run
from tests.ascend.shapes import examples, recorded

WHEEL = "NPUKV_TORCH_NPU_WHEEL"


def test_every_example_is_recorded() -> None:
    assert set(recorded()) == set(examples(lambda *shape, dtype: torch.empty(shape, dtype=dtype, device="meta")))


@pytest.mark.skipif(
    not Path(os.environ.get(WHEEL, "-")).exists(),
    reason=f"{WHEEL} names no wheel: pip download --no-deps torch-npu==2.13.0; recorded shapes are tested instead",
)
def test_through_the_vendors_meta_kernels() -> None:
    checks = run("tests.ascend.vendor.plugin", "vendor/checks_meta.py")
    assert not failures(checks), failures(checks)
    assert sum(check.outcome == "passed" for check in checks) > 50
