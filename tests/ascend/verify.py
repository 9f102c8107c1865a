"""How far each operator has been verified for Ascend without a card: a table of operators by rungs.

    python -m tests.ascend.verify [--json FILE] [--rungs 0,1,2,3,4,5]

Run it from the root of the checkout; scripts/verify_ascend does so in an environment of its own. The operators come
from the registry, the marks from the tests that were run just now. Exit status: 0 = whatever could be run has passed
(what could not is named), 1 = something failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ascend.processes import ROOT, Check, failures, run

RUNGS = {
    "0": "every call of torch_npu binds against the schemas of real releases",
    "1": "shapes by the vendor's own Meta kernels, read from the wheel",
    "2": "numbers on the simulated device, against the reference in float64",
    "3": "ranks joined through a stand-in for HCCL",
    "4": "Triton kernels lowered by triton-ascend, the lowered form run on the CPU",
    "5": "Ascend C kernels against a stand-in for its headers",
}
WHEEL = "NPUKV_TORCH_NPU_WHEEL"
#: Functions of calls.py that call an operator.
OPERATOR_CALLS = (
    *("fused_infer_attention", "fused_infer_paged_attention", "fusion_attention", "attention_update"),
    *("sign_bits_pack", "rotary_mul", "rms_norm", "dynamic_quant", "quant_matmul"),
    *("grouped_matmul", "grouped_quant_matmul", "hamming_blocks", "centroid_merge"),
)
#: What the operators in Ascend C are made of.
ASCENDC = {"hamming_blocks": "hamming_blocks", "centroid_merge": "merge_pass"}


@dataclass
class Rung:
    """What came of one rung."""

    ran: bool = False
    failed: bool = False
    said: str = ""
    operators: dict[str, str] = field(default_factory=dict)  # operator -> mark
    seconds: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="verify_ascend", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--rungs", default=",".join(RUNGS), help="which, by commas")
    options = parser.parse_args()
    wanted = options.rungs.split(",")
    if set(wanted) - set(RUNGS):
        parser.error(f"got rungs {options.rungs}, expected some of {','.join(RUNGS)}")
    verifiers: dict[str, Callable[[], Rung]] = {
        "0": contract_rung,
        "1": vendor_rung,
        "2": simulated_rung,
        "3": ranks_rung,
        "4": lowering_rung,
        "5": ascendc_rung,
    }
    rungs = {}
    for name in wanted:
        print(f"rung {name}: {RUNGS[name]} ...", flush=True)
        start = time.perf_counter()
        rungs[name] = verifiers[name]()
        rungs[name].seconds = time.perf_counter() - start
        print(f"        {rungs[name].said} ({rungs[name].seconds:.0f} s)", flush=True)
    print()
    print(table(rungs))
    if options.json:
        from npukv.environment import environment

        found = {name: vars(rung) for name, rung in rungs.items()}
        options.json.write_text(json.dumps({"environment": environment(), "rungs": found}, indent=1) + "\n")
    return int(any(rung.failed for rung in rungs.values()))


def table(rungs: dict[str, Rung]) -> str:
    """One line per operator; "." = nothing to verify there, "?" = could not be run here."""
    kernels = registered()
    lines = [f"{'operator':<22} {'kernels for a card, in order':<46} " + "  ".join(rungs)]
    for operator, named in kernels.items():
        marks = []
        for rung in rungs.values():
            marks.append(rung.operators.get(operator, "." if rung.ran else "?"))
        lines.append(f"{operator:<22} {', '.join([*named, 'reference']):<46} " + "  ".join(marks))
    lines += [
        "",
        "+ passed   ! failed   - its kernels are in no suite   . nothing of it to verify on that rung   ? not run here",
    ]
    lines += [f"rung {name} not run: {rung.said}" for name, rung in rungs.items() if not rung.ran]
    lines.append("Rung 7, a card, is scripts/on_device; nothing above says that anything runs on one.")
    return "\n".join(lines)


def registered() -> dict[str, list[str]]:
    """{operator: its kernels for the card}."""
    from npukv import ops
    from npukv.backends.ascend.calls import DEVICE

    return {name: kernels.get(DEVICE, []) for name, kernels in ops.operators().items()}


def by_operator(checks: list[Check]) -> dict[str, str]:
    """A mark per operator that some check is about."""
    marks: dict[str, str] = {}
    for check in checks:
        operator = check.properties.get("operator")
        if operator and check.outcome != "skipped":
            marks[operator] = "!" if check.outcome == "failed" or marks.get(operator) == "!" else "+"
    return marks


def contract_rung() -> Rung:
    from tests.ascend.binding import VERSIONS, package_files, sites, strays, violations
    from tests.ascend.test_contract import WRONG, named

    sources = {named(path): path.read_text(encoding="utf-8") for path in package_files()}
    found = [site for file, source in sources.items() for site in sites(source, file)]
    problems = [problem for version in VERSIONS for site in found for problem in violations(site, version)]
    problems += [stray for file, source in sources.items() for stray in strays(source, file)]
    checks = tests("tests/ascend/test_contract.py")
    planted = [check for check in checks if "planted" in check.name]
    caught = sum(check.outcome == "passed" for check in planted)
    failed = bool(problems) or bool(failures(checks)) or caught != len(WRONG)
    operators = Counter(site.operator for site in found)
    said = (
        f"{len(found)} sites ({operators[True]} operators, {operators[False]} of the runtime) bound against torch_npu "
        f"{', '.join(VERSIONS)}; {caught} of {len(WRONG)} planted violations caught"
        + "".join(f"\n{p}" for p in problems)
    )
    mark = "!" if failed else "+"
    return Rung(True, failed, said, dict.fromkeys(calling_the_vendor(), mark))


def calling_the_vendor() -> list[str]:
    """Operators with a kernel that calls an operator of torch_npu, by the names its code uses."""
    from npukv.backends.ascend import calls
    from npukv.ops import registry

    def reaches(function: Any, seen: set[str]) -> bool:
        names = set(function.__code__.co_names)
        if "calls" in names and any(site in names for site in OPERATOR_CALLS):
            return True
        inner = [function.__globals__.get(name) for name in names - seen]
        seen |= names
        mine = [part for part in inner if getattr(part, "__module__", "") == function.__module__]
        return any(reaches(part, seen) for part in mine if hasattr(part, "__code__"))

    def runs(name: str) -> list[Any]:
        kernels = registry._operators[name].kernels.get(calls.DEVICE, [])
        return [getattr(kernel.run, "by_name", kernel.run) for kernel in kernels]

    return [name for name in registered() if any(reaches(run, set()) for run in runs(name))]


def vendor_rung() -> Rung:
    if not Path(os.environ.get(WHEEL, "-")).exists():
        return Rung(
            said=f"{WHEEL} names no wheel of torch-npu; the simulated operators have the shapes recorded from it"
        )
    checks = run("tests.ascend.vendor.plugin", "vendor/checks_meta.py")
    return summed(checks, f"{count(checks)} of {Path(os.environ[WHEEL]).name}")


def simulated_rung() -> Rung:
    from tests.ascend.simulated import build

    reason = build.missing()
    if reason:
        return Rung(said=reason)
    checks = []
    for path in sorted((ROOT / "tests/ascend/simulated").glob("checks_*.py")):
        checks += run("tests.ascend.simulated.plugin", f"simulated/{path.name}", timeout=1800)
    programs = sum(int(check.properties.get("programs", 0)) for check in checks if check.outcome == "passed")
    return summed(checks, f"{count(checks)}, among them {programs} random programs equal to the CPU's to the bit")


def ranks_rung() -> Rung:
    checks = tests("tests/ascend/test_hccl.py")
    if all(check.outcome == "skipped" for check in checks if "rank" in check.name):
        return Rung(said=next((check.message for check in checks if check.outcome == "skipped"), "no test"))
    return summed(checks, count(checks))


def lowering_rung() -> Rung:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "lowering.json"
        done = subprocess.run(
            [sys.executable, "-m", "tests.lowering", "--json", str(report)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if done.returncode == 77:
            return Rung(said=done.stdout.strip().removeprefix("rung 4 not run: "))
        if not report.exists():
            return Rung(True, True, (done.stdout + done.stderr)[-3000:])
        suites: dict[str, Any] = json.loads(report.read_text())
    marks: dict[str, str] = {}
    for operator in triton_operators():
        tried = [found for found in suites.values() if operator in found["functions"]]
        good = all(not f["failed"] and not f["refused"] and all(f["bugs"].values()) for f in tried)
        marks[operator] = "-" if not tried else "+" if good else "!"
    cases, passed = (sum(found[part] for found in suites.values()) for part in ("cases", "passed"))
    bugs = [how for found in suites.values() for how in found["bugs"].values()]
    said = f"{passed} of {cases} cases, {sum(map(bool, bugs))} of {len(bugs)} planted bugs noticed"
    return Rung(True, done.returncode != 0, said + (done.stdout[-3000:] if done.returncode else ""), marks)


def ascendc_rung() -> Rung:
    checks = tests("tests/ascendc")
    if not checks or all(check.outcome == "skipped" for check in checks):
        return Rung(said=next((check.message for check in checks), "there are no tests of Ascend C kernels"))
    marks = {}
    for file, operator in ASCENDC.items():
        about = [check for check in checks if file in check.properties.get("file", "")]
        if about:
            marks[operator] = "!" if failures(about) else "+"
    rung = summed(checks, count(checks))
    rung.operators = marks
    return rung


def triton_operators() -> list[str]:
    """Operators with a Triton kernel."""
    from npukv import ops

    return [
        name
        for name, kernels in ops.operators().items()
        if any("triton" in kernel for named in kernels.values() for kernel in named)
    ]


def tests(path: str) -> list[Check]:
    """Ordinary tests, in a process of their own."""
    return run("tests.ascend.nothing", str(ROOT / path), timeout=1800)


def summed(checks: list[Check], said: str) -> Rung:
    failed = failures(checks)
    return Rung(True, bool(failed), said + (f"\n{failed}" if failed else ""), by_operator(checks))


def count(checks: list[Check]) -> str:
    outcomes = Counter(check.outcome for check in checks)
    return (
        ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())) + f" of {len(checks)} checks"
    )


if __name__ == "__main__":
    sys.exit(main())
