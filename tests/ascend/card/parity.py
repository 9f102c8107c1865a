"""Every operator on the card against its reference in float64; one line per case.

python -m tests.ascend.card.parity [OPERATOR ...]
"""

from __future__ import annotations

import json
import sys

import torch

from npukv import ops
from npukv.backends import select
from npukv.ops import registry
from tests.ascend.cases import Case, cases, coarsest, difference, exactly, flat, on


def outcome(case: Case, device: torch.device) -> dict[str, str]:
    operator = registry._operators[case.operator]
    arguments = on(case, device)
    kernel = next(choice.kernel for choice in operator.explain(*arguments) if choice.chosen)
    results, written = exactly(case, operator.reference)
    said = {"operator": case.operator, "case": case.label, "kernel": kernel}
    try:
        got = flat(operator(*arguments))
        problems = [difference(a, b, coarsest(case)) for a, b in zip(got, results, strict=True)]
        problems += [difference(arguments[i], b, coarsest(case)) for i, b in zip(case.written, written, strict=True)]
    except Exception as error:  # whatever a card says is what the report is for
        problems = [f"{type(error).__name__}: {str(error)[:1500]}"]
    return said | {"problem": "; ".join(filter(None, problems))}


def main(wanted: list[str]) -> int:
    device = select("npu").torch_device
    ops.operators()
    failed = False
    for case in cases():
        if wanted and case.operator not in wanted:
            continue
        said = outcome(case, device)
        failed = failed or bool(said["problem"])
        print(json.dumps(said), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
