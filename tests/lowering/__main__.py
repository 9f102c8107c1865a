"""Every Triton kernel of the package, lowered for Ascend and run on the CPU against its reference: kernel x result.

    python -m tests.lowering [--json FILE] [SUITE ...]

Run it from the root of the checkout. Exit status: 0 = all agree and every planted bug was noticed, 1 = not so, 77 = the
tools are not there (see toolchain.py for the two variables that name them).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from types import ModuleType

from tests.lowering import toolchain
from tests.lowering.suite import Suite, catch, kernels, try_cases
from tests.lowering.suites import suites


def own_functions(module: ModuleType) -> list[str]:
    """Functions that a module defines: what it is called for has the operator's name."""
    return [name for name, part in vars(module).items() if getattr(part, "__module__", "") == module.__name__]


def report(suite: Suite) -> dict[str, object]:
    """Cases, launches and planted bugs of one module, printed as they come."""
    start = time.perf_counter()
    outcome = try_cases(suite)
    bugs: dict[str, str] = {}
    for mutation in suite.mutations if not outcome.failed else ():
        try:
            bugs[mutation.name] = catch(suite, mutation)
        except ValueError as error:  # it cannot be planted any more: the kernel has changed
            bugs[mutation.name] = ""
            print(f"{suite.name:<12} {error}")
    for name in kernels(suite):
        print(f"{suite.name:<12} {name:<32} {outcome.launches.get(name, 0):>4} launches")
    for verdict, where in (("REFUSED", outcome.refused), ("FAILED", outcome.failed)):
        for name, why in where.items():
            print(f"{suite.name:<12} {verdict} {name}: {why}")
    for name, how in bugs.items():
        if not how:
            print(f"{suite.name:<12} NOT NOTICED: {name}")
    noticed = sum(bool(how) for how in bugs.values())
    total = outcome.passed + len(outcome.failed) + len(outcome.refused)
    seconds = time.perf_counter() - start
    bugs_noticed = f"{noticed}/{len(bugs)} planted bugs noticed"
    print(f"{suite.name:<12} {outcome.passed}/{total} cases, {bugs_noticed}, {seconds:.1f} s")
    return {
        "kernels": {name: outcome.launches.get(name, 0) for name in kernels(suite)},
        "functions": sorted({name for module in suite.modules for name in own_functions(module)}),
        "cases": total,
        "passed": outcome.passed,
        "refused": outcome.refused,
        "failed": outcome.failed,
        "bugs": bugs,
        "seconds": round(seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lowering", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suite", nargs="*", help="names of suites; all by default")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    reason = toolchain.missing()
    if reason:
        print(f"rung 4 not run: {reason}")
        return 77
    there = suites()
    unknown = set(options.suite) - set(there)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    results = {name: report(suite) for name, suite in there.items() if not options.suite or name in options.suite}
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    good = all(
        not r["failed"] and not r["refused"] and all(r["bugs"].values()) and all(r["kernels"].values())  # type: ignore[attr-defined]
        for r in results.values()
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
