"""Every operator on the simulated device: which kernel serves it, and its numbers against the reference in float64."""

from __future__ import annotations

import pytest
import torch

from npukv import ops
from npukv.ops import registry
from npukv.ops.registry import strict
from tests.ascend.cases import Case, cases, coarsest, difference, exactly, flat, on

OPERATORS = ops.operators()
CASES = list(cases())


def test_every_operator_has_cases() -> None:
    assert {case.operator for case in CASES} == set(OPERATORS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parity(case: Case, record_property) -> None:
    operator = registry._operators[case.operator]
    results, written = exactly(case, operator.reference)
    arguments = on(case, "npu")
    record_property("operator", case.operator)
    record_property("kernel", next(choice.kernel for choice in operator.explain(*arguments) if choice.chosen))
    with strict():
        got = flat(operator(*arguments))
    assert all(part.device.type == "npu" for part in got)
    problems = [difference(a, b, coarsest(case)) for a, b in zip(got, results, strict=True)]
    problems += [difference(arguments[i], b, coarsest(case)) for i, b in zip(case.written, written, strict=True)]
    assert not any(problems), problems


@pytest.mark.parametrize("operator", sorted(name for name in OPERATORS if "npu" in OPERATORS[name]))
def test_every_kernel_is_reached(operator: str) -> None:
    """No kernel is registered for nothing: some case is served by each, by name."""
    served = set()
    for case in CASES:
        if case.operator == operator:
            choices = registry.explain(operator, *on(case, "npu"))
            served |= {choice.kernel for choice in choices if choice.ok}
    assert set(OPERATORS[operator]["npu"]) <= served | {"custom"}  # those are in checks_custom.py


CAPTURED = [
    case
    for case in CASES
    if case.operator == "partial_attention" and "x1x" in case.label and "-length" in case.label
    if not case.label.endswith("float32")
]


@pytest.mark.parametrize("case", CAPTURED, ids=lambda case: case.name)
def test_attention_with_lengths_on_the_card_is_captured(case: Case) -> None:
    """A captured call follows the lengths: it is replayed with others, and gives what a fresh call gives."""
    arguments = on(case, "npu")
    for index in (1, 2):  # captured calls need finite numbers behind the lengths
        arguments[index] = arguments[index].nan_to_num()
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph), strict():
        got = ops.attention.partial_attention(*arguments)
    for change in (-1, -20, -60):
        arguments[4].add_(change).clamp_(min=0)
        graph.replay()
        exact = registry._operators["partial_attention"].reference(
            *(x.cpu().double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in arguments[:4]),
            arguments[4].cpu(),
            *arguments[5:],
        )
        assert not [problem for a, b in zip(got, exact, strict=True) if (problem := difference(a, b, coarsest(case)))]
