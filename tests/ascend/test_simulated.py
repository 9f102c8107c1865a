"""Rung 2: npukv on the simulated device, each file of checks in a process of its own."""

from __future__ import annotations

import pytest

from tests.ascend.processes import FOLDER, failures, run
from tests.ascend.simulated import build

FILES = sorted(path.name for path in (FOLDER / "simulated").glob("checks_*.py"))


@pytest.mark.parametrize("file", FILES)
def test_on_the_simulated_device(file: str) -> None:
    reason = build.missing()
    if reason:
        pytest.skip(reason)
    checks = run("tests.ascend.simulated.plugin", f"simulated/{file}")
    assert not failures(checks), failures(checks)
    assert sum(check.outcome == "passed" for check in checks) >= 5
