"""Runs files of checks in processes of their own: they change what `npu` is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Check:
    """One test of a file of checks."""

    name: str
    outcome: str  # "passed", "failed" or "skipped"
    message: str = ""
    seconds: float = 0.0
    properties: dict[str, str] = field(default_factory=dict)


def run(plugin: str, file: str, *options: str, timeout: float = 600, **environment: str) -> list[Check]:
    """The checks of a file under tests/ascend, with a plugin loaded before them.

    Raises:
        RuntimeError: pytest itself did not come to an end.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-p", plugin, str(FOLDER / file), "-q", "--no-header", "-rN"),
                *("-o", "junit_family=xunit1", "-p", "no:cacheprovider", f"--junitxml={report}", *options),
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"} | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if not report.exists() or done.returncode not in (0, 1):
            raise RuntimeError(f"{file}: pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
        return [_check(case) for case in ElementTree.parse(report).iter("testcase")]


def failures(checks: list[Check]) -> str:
    return "\n\n".join(f"{check.name}\n{check.message}" for check in checks if check.outcome == "failed")


def _check(case: ElementTree.Element) -> Check:
    outcome, message = "passed", ""
    for tag, word in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = case.find(tag)
        if found is not None:
            outcome, message = word, (found.text or found.get("message") or "")[-3000:]
    properties = {"file": case.get("file") or case.get("classname", "")}
    properties |= {part.get("name", ""): part.get("value", "") for part in case.iter("property")}
    return Check(case.get("name", ""), outcome, message, float(case.get("time", 0)), properties)
