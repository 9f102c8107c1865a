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
    grouped_scaled_product,
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


@settings(max_examples=25)
@given(data=st.data())
def test_groups_of_rows_in_eight_bits(data: st.DataObject) -> None:
    """The kernel of this device and the reference, beside float64; groups may be empty, scales are each one's own."""
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any))
    kind = data.draw(st.sampled_from(KINDS))
    ends = torch.tensor(sizes).cumsum(0).int()
    codes, scale = quantise_rows(normal(int(ends[-1]), 24, seed=1), kind)
    flat, flat_scale = quantise_rows(
        normal(len(sizes) * 10, 24, seed=2) * torch.logspace(-2, 2, len(sizes) * 10)[:, None], kind
    )
    weight, weight_scale = flat.view(-1, 10, 24), flat_scale.view(-1, 10)
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    every = torch.einsum("tk,enk->ten", codes.double(), weight.double()) * weight_scale
    exact = every[torch.arange(len(group)), group] * scale[:, None]
    for function in (grouped_scaled_product, reference.grouped_scaled_product):
        found = function(codes, scale, weight, weight_scale, ends, torch.float32)
        assert found.dtype is torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_grouped_eight_bit_opcheck(kind: torch.dtype) -> None:
    tests = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    flat, flat_scale = quantise_rows(normal(24, 16), kind)
    arguments = (*quantise_rows(normal(5, 16), kind), flat.view(3, 8, 16), flat_scale.view(3, 8), ends, torch.bfloat16)
    # whether inputs were written to cannot be compared in float8
    torch.library.opcheck(operators.grouped_scaled_product.overload, arguments, test_utils=tests[kind != torch.int8 :])


def test_which_groups_go_in_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """float8 into bfloat16 on a card of capability 9.0; everything else is refused with a reason."""
    arguments = (
        *(torch.zeros(20, 32, dtype=torch.float8_e4m3fn), torch.ones(20)),
        *(torch.zeros(3, 16, 32, dtype=torch.float8_e4m3fn), torch.ones(3, 16), torch.tensor([0, 9, 20]).int()),
    )

    class Card:
        capability = (9, 0)

        def get_device_capability(self) -> tuple[int, int]:
            return self.capability

    monkeypatch.setattr(torch, "get_device_module", lambda device: Card())
    assert native.check_scaled_groups(*arguments, torch.bfloat16)[0]
    narrow = (arguments[0][:, :24].contiguous(), arguments[1], arguments[2][..., :24].contiguous(), *arguments[3:])
    whole = (arguments[0].to(torch.int8), arguments[1], arguments[2].to(torch.int8), *arguments[3:])
    for wrong, dtype, words in (
        (arguments, torch.float16, "into bfloat16"),
        (whole, torch.bfloat16, "float8_e4m3fn"),
        (narrow, torch.bfloat16, "multiples of 16"),
    ):
        ok, reason = native.check_scaled_groups(*wrong, dtype)
        assert not ok and words in reason
    monkeypatch.setattr(Card, "capability", (8, 9))
    ok, reason = native.check_scaled_groups(*arguments, torch.bfloat16)
    assert not ok and "9.0" in reason


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


needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")


@needs_card
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 16, 33, 300])
def test_on_a_card(kind: torch.dtype, rows: int) -> None:
    if kind != torch.int8 and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this card multiplies no float8")
    host = quantised(rows, 256, 64, kind, seed=rows)
    placed = [part.cuda() for part in host]
    assert explain("scaled_product", *placed, torch.bfloat16)[0].chosen
    exact = reference.scaled_product(host[0], host[1].double(), host[2], host[3].double(), torch.float64)
    for function in (scaled_product, torch.compile(scaled_product)):
        got = function(*placed, torch.bfloat16).cpu().double()
        assert ((got - exact).abs() <= 0.02 * exact.abs().max()).all()
    codes, scale = quantise_rows(normal(rows, 256, seed=rows).cuda(), kind)
    # a card divides by a constant as a product with its inverse, so that last bits of the scale differ
    torch.testing.assert_close(scale.cpu(), host[1], rtol=2.0**-22, atol=0.0)
    back = codes.cpu().double() * scale.cpu().double()[:, None]
    step = 1.0 if kind == torch.int8 else 32.0  # between neighbours, at the type's upper end
    other = host[0].double() * host[1].double()[:, None]
    assert ((back - other).abs() <= 1.001 * step * host[1].double()[:, None]).all()
    assert (codes.cpu().float() == host[0].float()).double().mean() > 0.999


@needs_card
def test_groups_on_a_card() -> None:
    ends = torch.tensor([0, 40, 41, 41, 200], dtype=torch.int32)
    x, weight = normal(200, 64, seed=1).bfloat16(), (normal(5, 96, 64, seed=2) / 8).bfloat16()
    assert explain("grouped_linear", x.cuda(), weight.cuda(), ends.cuda())[0].chosen
    exact = reference.grouped_linear(x.double(), weight.double(), ends)
    got = grouped_linear(x.cuda(), weight.cuda(), ends.cuda()).cpu().double()
    assert ((got - exact).abs() <= 0.02 * exact.abs().max()).all()


@needs_card
@pytest.mark.parametrize("kind", KINDS)
def test_groups_in_eight_bits_on_a_card(kind: torch.dtype) -> None:
    if kind != torch.int8 and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this card multiplies no float8")
    ends = torch.tensor([0, 40, 41, 41, 200], dtype=torch.int32)
    codes, scale = quantise_rows(normal(200, 64, seed=1), kind)
    flat, flat_scale = quantise_rows(normal(5 * 96, 64, seed=2) * torch.logspace(-1, 1, 480)[:, None], kind)
    arguments = (codes, scale, flat.view(5, 96, 64), flat_scale.view(5, 96), ends)
    placed = [part.cuda() for part in arguments]
    choices = explain("grouped_scaled_product", *placed, torch.bfloat16)
    hopper = torch.cuda.get_device_capability()[0] == 9
    wanted = "scaled_grouped_mm" if hopper and kind != torch.int8 else "group by group"
    assert [choice.kernel for choice in choices if choice.chosen] == [wanted]
    exact = reference.grouped_scaled_product(
        codes, scale.double(), *arguments[2:3], arguments[3].double(), ends, torch.float64
    )
    got = grouped_scaled_product(*placed, torch.bfloat16).cpu().double()
    assert ((got - exact).abs() <= 0.02 * exact.abs().max(dim=0).values).all()
