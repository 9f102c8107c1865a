"""The registry: dispatch, explanation, strictness, and what torch itself checks about custom operators."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from npukv import ops
from npukv.ops import registry
from npukv.ops.registry import Choice, OperatorError, define, explain, strict

SCALED = "npukv::test_scaled(Tensor x, Tensor? shift=None, *, float factor=2.0) -> Tensor"
APPEND = "npukv::test_append(Tensor x, Tensor(a!) store, int at) -> ()"


def scaled(x: torch.Tensor, shift: torch.Tensor | None = None, factor: float = 2.0) -> torch.Tensor:
    return x * factor if shift is None else x * factor + shift


def scaled_fake(x: torch.Tensor, shift: torch.Tensor | None = None, factor: float = 2.0) -> torch.Tensor:
    return torch.empty_like(x)


def append(x: torch.Tensor, store: torch.Tensor, at: int) -> None:
    store[:, at : at + x.shape[1]] = x


def append_fake(x: torch.Tensor, store: torch.Tensor, at: int) -> None:
    return None


@pytest.fixture
def operator() -> Iterator[registry.Operator]:
    yield define(SCALED, reference=scaled, fake=scaled_fake)
    registry._operators.pop("test_scaled")._library._destroy()


@pytest.fixture
def appending() -> Iterator[registry.Operator]:
    yield define(APPEND, reference=append, fake=append_fake)
    registry._operators.pop("test_append")._library._destroy()


def even(x: torch.Tensor, *rest: Any, **options: Any) -> tuple[bool, str]:
    return x.shape[-1] % 2 == 0, f"the last dimension is {x.shape[-1]}"


def test_without_kernels_the_reference_serves(operator: registry.Operator) -> None:
    x, shift = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.equal(operator(x), x * 2)
    assert torch.equal(operator(x, shift, factor=3.0), x * 3 + shift)
    assert torch.equal(torch.ops.npukv.test_scaled(x, shift), x * 2 + shift)
    with strict():  # no tuned kernel is registered for the device, so none is missed
        operator(x)


def test_the_first_kernel_that_accepts_serves(operator: registry.Operator) -> None:
    served: list[str] = []

    @operator.kernel("cpu", "pairs", check=even)
    def pairs(x: torch.Tensor, shift: torch.Tensor | None = None, factor: float = 2.0) -> torch.Tensor:
        served.append("pairs")
        return scaled(x, shift, factor)

    @operator.kernel("cpu", "any")
    def anything(x: torch.Tensor, shift: torch.Tensor | None = None, factor: float = 2.0) -> torch.Tensor:
        served.append("any")
        return scaled(x, shift, factor)

    for width, kernel in ((4, "pairs"), (3, "any"), (4, "pairs"), (5, "any")):  # shapes are looked at in every call
        operator(torch.ones(2, width))
        assert served.pop() == kernel
        chosen = [choice.kernel for choice in explain("test_scaled", torch.ones(2, width)) if choice.chosen]
        assert chosen == [kernel]
    assert registry.operators()["test_scaled"] == {"cpu": ["pairs", "any"]}
    assert explain("test_scaled", torch.ones(2, 3)) == [
        Choice("pairs", False, "the last dimension is 3", False),
        Choice("any", True, "serves all shapes and types", True),
        Choice("reference", True, "plain torch runs on every device", False),
    ]


def test_a_refusal_is_logged_once_with_its_reason(
    operator: registry.Operator, caplog: pytest.LogCaptureFixture
) -> None:
    operator.kernel("cpu", "pairs", check=even)(scaled)
    registry._refused.clear()
    with caplog.at_level(logging.WARNING, "npukv"):
        for _ in range(3):
            operator(torch.ones(7))
        operator(torch.ones(8))
    assert [record.getMessage() for record in caplog.records] == [
        "test_scaled on cpu: the pairs kernel cannot serve: the last dimension is 7"
    ]


def test_strict_mode_refuses_the_reference(operator: registry.Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    operator.kernel("cpu", "pairs", check=even)(scaled)
    with strict():
        operator(torch.ones(8))
        with pytest.raises(OperatorError, match="pairs: the last dimension is 7"):
            operator(torch.ones(7))
    operator(torch.ones(7))
    monkeypatch.setenv("NPUKV_STRICT", "1")
    with pytest.raises(OperatorError, match="strict mode"):
        operator(torch.ones(7))


def test_torch_accepts_the_operators(operator: registry.Operator, appending: registry.Operator) -> None:
    torch.library.opcheck(operator.overload, (torch.randn(3, 4),))
    torch.library.opcheck(operator.overload, (torch.randn(3, 4), torch.randn(3, 4)), {"factor": 0.5})
    torch.library.opcheck(appending.overload, (torch.randn(2, 3), torch.zeros(2, 10), 4))


def test_a_kernel_may_take_its_arguments_by_name(operator: registry.Operator) -> None:
    @operator.kernel_by_name("cpu", "small", lambda a: (a.shift is None, f"got {a.shift}"))
    def small(a: Any) -> torch.Tensor:
        return a.x * a.factor + 100

    one = torch.ones(2)
    assert operator(one).tolist() == [102, 102]
    assert operator(one, factor=3.0).tolist() == [103, 103]
    assert operator(x=one, shift=one, factor=4.0).tolist() == [5, 5]
    served, refused = (operator.explain(one, shift)[0] for shift in (None, "much"))
    assert served.ok and not refused.ok and refused.reason == "got much"


def test_opcheck_sees_a_kernel_that_writes_where_the_schema_says_it_does_not() -> None:
    def wrong(x: torch.Tensor, shift: torch.Tensor | None = None, factor: float = 2.0) -> torch.Tensor:
        return x.mul_(factor).clone()

    operator = define(SCALED, reference=wrong, fake=scaled_fake)
    with pytest.raises(Exception, match="mutat"):
        torch.library.opcheck(operator.overload, (torch.randn(3, 4),))
    registry._operators.pop("test_scaled")._library._destroy()


def test_it_compiles_in_one_graph(operator: registry.Operator, appending: registry.Operator) -> None:
    def step(x: torch.Tensor, store: torch.Tensor) -> torch.Tensor:
        appending(operator(x), store, 2)
        return store.sum() + operator(x, factor=1.0).sum()

    x = torch.randn(2, 3)
    expected = step(x, eager := torch.zeros(2, 8))
    out = torch.compile(step, fullgraph=True, backend="aot_eager")(x, compiled := torch.zeros(2, 8))
    assert torch.equal(out, expected)
    assert torch.equal(compiled, eager)
    assert eager[:, 2:5].abs().min() > 0


def test_functions_must_know_the_schemas_defaults(operator: registry.Operator) -> None:
    def forgot(x: torch.Tensor, shift: torch.Tensor | None = None, factor: float = 1.0) -> torch.Tensor:
        return x * factor

    with pytest.raises(OperatorError, match="forgot"):
        operator.kernel("cpu", "forgot")(forgot)
    with pytest.raises(OperatorError, match="namespace 'other'"):
        define("other::f(Tensor x) -> Tensor", reference=scaled, fake=scaled)
    with pytest.raises(OperatorError, match="expected one of"):
        explain("nothing", torch.ones(1))


def test_defining_again_replaces(operator: registry.Operator) -> None:
    operator.kernel("cpu", "pairs", check=even)(scaled)
    again = define(SCALED, reference=lambda x, shift=None, factor=2.0: x + 1, fake=scaled_fake)
    assert torch.equal(again(torch.zeros(2)), torch.ones(2))
    assert torch.equal(torch.ops.npukv.test_scaled(torch.zeros(2)), torch.ones(2))
    assert again.kernels == {}


def test_importing_again_replaces() -> None:
    """In a process of its own: a reload gives the module new classes, which other tests would not know."""
    program = """
import importlib, torch
from npukv.ops import registry
schema = "npukv::test_again(Tensor x) -> Tensor"
registry.define(schema, reference=lambda x: x + 1, fake=lambda x: torch.empty_like(x))
importlib.reload(registry)
operator = registry.define(schema, reference=lambda x: x + 2, fake=lambda x: torch.empty_like(x))
print(operator(torch.zeros(1)).item(), torch.ops.npukv.test_again(torch.zeros(1)).item())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2.0", "2.0"]


def test_every_operator_is_listed() -> None:
    listed = ops.operators()
    assert all(hasattr(torch.ops.npukv, name) for name in listed)
