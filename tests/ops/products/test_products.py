"""Products in 8 bits: the reference beside exact arithmetic, kernels beside the reference, the form compilers see."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npukv.ops import products
from npukv.ops.products import (
    KINDS,
    bare_product,
    grouped_linear,
    native,
    operators,
    quantise_rows,
    reference,
    scaled_product,
)
from npukv.ops.registry import explain


def normal(*shape: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def quantised(rows: int, width: int, columns: int, kind: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, ...]:
    return (*quantise_rows(normal(rows, width, seed=seed), kind), *quantise_rows(normal(columns, width, seed=9), kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_codes_times_scale_is_the_number(kind: torch.dtype, dtype: torch.dtype, scale: float) -> None:
    x = normal(7, 65, seed=1, scale=scale, dtype=dtype)
    x[3] *= 50  # rows have scales of their own
    codes, found = quantise_rows(x, kind)
    assert (codes.dtype, codes.shape, found.dtype, found.shape) == (kind, x.shape, torch.float32, (7,))
    assert (codes.float().abs().amax(1) == reference.largest(kind)).all(), "the whole range is used"
    step = found[:, None] * 0.501 if kind == torch.int8 else x.float().abs() * 2**-4 + found[:, None] * 2**-9
    assert ((codes.float() * found[:, None] - x.float()).abs() <= step).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_stays_one(kind: torch.dtype) -> None:
    x = normal(3, 32)
    x[1] = 0
    codes, scale = quantise_rows(x, kind)
    assert (scaled_product(codes, scale, codes, scale, torch.float32)[1] == 0).all()
    assert scale[1] < 1e-13


@settings(max_examples=30)
@given(data=st.data())
def test_kernels_of_this_device(data: st.DataObject) -> None:
    """Any shape, one row and odd widths included, in float32 beside the reference in float64."""
    rows, width, columns = (data.draw(st.integers(1, most)) for most in (40, 1300, 30))
    kind = data.draw(st.sampled_from(KINDS))
    codes, scale, weight, weight_scale = quantised(rows, width, columns, kind, seed=rows)
    exact = reference.scaled_product(codes, scale.double(), weight, weight_scale.double(), torch.float64)
    size = codes.double().norm(dim=1)[:, None] * weight.double().norm(dim=1) * scale[:, None] * weight_scale
    for function in (scaled_product, reference.scaled_product, torch.compile(scaled_product, backend="eager")):
        found = function(codes, scale, weight, weight_scale, torch.float32)
        assert ((found - exact).abs() <= 1e-6 * size).all()


def test_sums_of_int8_are_exact() -> None:
    """Where float32 would round: 127 * 127 * 4000 is above 2^24."""
    codes = torch.full((2, 4001), 127, dtype=torch.int8)
    codes[1, 0] = 1
    assert bare_product(codes, *[torch.ones(2)], codes, torch.ones(2), torch.float32)[0, 1] == 127**2 * 4000 + 127


@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(kind: torch.dtype) -> None:
    tests = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    tests = tests[kind != torch.int8 :]  # whether inputs were written to cannot be compared in float8
    torch.library.opcheck(operators.quantise_rows.overload, (normal(5, 32), kind), test_utils=tests[:3])
    arguments = (*quantised(5, 32, 16, kind), torch.bfloat16)
    torch.library.opcheck(operators.scaled_product.overload, arguments, test_utils=tests)


@pytest.mark.parametrize("kind", KINDS)
def test_the_compiler_sees_the_kernels_steps(kind: torch.dtype) -> None:
    """No opaque call stands between a product and what surrounds it; it computes what the operator does."""
    seen: list[str] = []

    def backend(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        seen.extend(str(node.target) for node in module.graph.nodes if node.op == "call_function")
        return module

    def step(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return scaled_product(*products.quantise_rows(x, kind), weight, scale, torch.float32).relu()

    arguments = (normal(5, 32), *quantise_rows(normal(16, 32), kind))
    expected = step(*arguments)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(step, backend=backend)(*arguments), expected)
    assert seen and not any("npukv" in name for name in seen)


def test_few_rows_are_filled_up_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch._int_mm takes 17 rows and more there; the CPU's takes any, so what it is given is looked at."""
    given_: list[int] = []

    class Tensor(torch.Tensor):
        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device("cuda")

    real = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: given_.append(a.shape[0]) or real(a, b))
    codes = torch.randint(-127, 128, (3, 16), dtype=torch.int8)
    found = native._int8(codes.as_subclass(Tensor), codes)
    assert given_ == [17]
    assert torch.equal(found.as_subclass(torch.Tensor), (codes.int() @ codes.int().t()))


@settings(max_examples=25)
@given(data=st.data())
def test_groups_of_rows(data: st.DataObject) -> None:
    """Beside a mask per group, in float64; groups may be empty."""
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any))
    ends = torch.tensor(sizes).cumsum(0).int()
    x, weight = normal(int(ends[-1]), 24, seed=1), normal(len(sizes), 10, 24, seed=2)
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    every = torch.einsum("tk,enk->ten", x.double(), weight.double())
    torch.testing.assert_close(
        grouped_linear(x, weight, ends).double(), every[torch.arange(len(group)), group], rtol=1e-5, atol=1e-5
    )


def test_grouped_opcheck() -> None:
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    torch.library.opcheck(grouped_linear.overload, (normal(5, 16), normal(3, 8, 16), ends))


def test_torchs_grouped_product_is_the_reference() -> None:
    """What serves CUDA cards, by torch's own stand-in on the CPU."""
    x, weight, ends = normal(9, 16).bfloat16(), normal(3, 8, 16).bfloat16(), torch.tensor([4, 4, 9], dtype=torch.int32)
    assert native.check_grouped(x, weight, ends)[0]
    expected = reference.grouped_linear(x.double(), weight.double(), ends)
    torch.testing.assert_close(native.grouped_linear(x, weight, ends).double(), expected, rtol=2e-2, atol=2e-2)
    for wrong, words in (((x.float(), weight.float()), "bfloat16"), ((x[:, :9], weight[:, :, :9]), "multiples of 8")):
        ok, reason = native.check_grouped(*wrong, ends)
        assert not ok and words in reason


def test_what_a_card_refuses_has_a_reason() -> None:
    codes = torch.zeros(20, 12, dtype=torch.int8)
    ok, reason = native.check_cuda(codes, torch.ones(20), codes, torch.ones(20), torch.bfloat16)
    assert not ok and "multiples of 8" in reason
    assert explain("scaled_product", codes, torch.ones(20), codes, torch.ones(20), torch.bfloat16)[0].chosen
