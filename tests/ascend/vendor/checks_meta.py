"""Rung 1: what npukv calls, through the vendor's Meta kernels."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch

from npukv import ops
from npukv.backends.ascend import calls
from npukv.ops import registry
from npukv.ops.attention import ascend
from tests.ascend.cases import Case, cases, on
from tests.ascend.shapes import RECORDED, described, examples, recorded
from tests.ascend.vendor import plugin


def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


EXAMPLES = examples(empty)


def test_the_vendors_kernels_are_there() -> None:
    assert plugin.kernels > 150, plugin.refused


def outcome(label: str) -> Any:
    function, arguments = EXAMPLES[label]
    try:
        return described(getattr(calls, function)(*arguments))
    except NotImplementedError:
        return "no Meta kernel"


@pytest.mark.parametrize("label", EXAMPLES)
def test_shapes_are_those_recorded(label: str) -> None:
    if plugin.version() != plugin.NEWEST:
        pytest.skip(f"shapes are recorded for {plugin.NEWEST}")
    if os.environ.get("NPUKV_RECORD_SHAPES"):
        kept = recorded() if RECORDED.exists() else {}
        RECORDED.write_text(json.dumps(kept | {label: outcome(label)}, indent=1) + "\n")
    assert outcome(label) == recorded()[label]


def test_at_most_two_calls_are_without_a_meta_kernel() -> None:
    assert sorted(label for label in EXAMPLES if outcome(label) == "no Meta kernel") in (["signs"], ["merge", "signs"])


def noted(name: str, asked: list[str]) -> Any:
    function = getattr(calls, name)

    def call(*arguments: Any) -> Any:
        results = function(*arguments)
        asked.append(name)
        return results

    return call


def while_capturing(check: Any, arguments: list[Any]) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "capturing", lambda: True)
        return check(*arguments)[0]


CASES = [case for case in cases() if "npu" in ops.operators()[case.operator]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kernels_give_the_operators_shapes(case: Case, monkeypatch: pytest.MonkeyPatch, record_property) -> None:
    """Every kernel that takes the case, on meta tensors; what the host would read of them is made up."""
    monkeypatch.setattr(calls, "capturing", lambda: False)
    monkeypatch.setattr(ascend, "_read", lambda length, most: [most] * len(length))
    operator = registry._operators[case.operator]
    host, meta = on(case, "cpu"), on(case, "meta")
    expected = operator(*meta)
    tried: list[str] = []
    asked: list[str] = []
    vendors: list[str] = []
    for name in {function for function, _ in EXAMPLES.values()}:
        monkeypatch.setattr(calls, name, noted(name, asked))
    for kernel in operator.kernels["npu"]:
        if not kernel.check(*host)[0] and not while_capturing(kernel.check, host):
            continue
        asked.clear()
        try:
            got = kernel.run(*meta)
        except NotImplementedError as error:
            assert "npu::" in str(error)
            continue
        tried.append(kernel.name)
        vendors += asked
        if expected is not None:
            assert described(got) == described(expected), kernel.name
    if vendors:  # else no shape here is the vendor's word
        record_property("operator", case.operator)
        record_property("calls", ", ".join(sorted(set(vendors))))
    assert tried or case.operator.startswith("hash_"), "no kernel that takes the case could be run"
