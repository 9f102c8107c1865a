"""The simulated device itself: placement, missing operators, memory, graphs; and random programs against the CPU."""

from __future__ import annotations

import gc
import inspect
import random

import pytest
import torch

from npukv.backends import select
from npukv.backends.ascend import calls, legality
from tests.ascend.binding import contract
from tests.ascend.shapes import described, examples, recorded
from tests.ascend.simulated import runtime
from tests.ascend.simulated.semantics import Refused

KIB = 1 << 10


def test_the_device_is_chosen_and_described() -> None:
    device = select("auto")
    assert device.name == "npu"
    assert device.description().startswith(runtime.NAME)
    assert torch.ones(2, device=device.torch_device).device == torch.device("npu:0")
    assert device.default_dtype() is torch.bfloat16


@pytest.mark.parametrize("name", runtime.PUBLIC)
def test_the_stand_in_has_torch_npus_signatures(name: str) -> None:
    """A stand-in that accepted more than torch_npu would hide wrong calls."""
    known, here = contract("2.13.0")["python"].get(name), getattr(torch.npu, name)
    if known is None:
        pytest.skip("torch_npu defines it in C++")
    if isinstance(known, str):
        assert str(inspect.signature(here)) == signature(known)
        return
    for method, arguments in known.items():
        if hasattr(here, method):
            assert str(inspect.signature(inspect.unwrap(getattr(here, method)))) == signature(arguments), method


def signature(text: str) -> str:
    namespace: dict = {}
    exec(f"def probe{text}: ...", namespace)
    return str(inspect.signature(namespace["probe"]))


def test_what_torch_npu_lacks_is_an_error_that_names_it() -> None:
    for call, name in (
        (lambda: torch.linalg.eigh(torch.eye(3, device="npu")), "_linalg_eigh"),
        (lambda: torch._int_mm(*[torch.ones(32, 32, dtype=torch.int8, device="npu")] * 2), "aten::_int_mm"),
    ):
        with pytest.raises(NotImplementedError, match=name):
            call()
    with pytest.raises(NotImplementedError, match="not emulated"):
        torch.ops.npu.npu_swiglu(torch.ones(2, 4, device="npu"))
    with pytest.raises(AttributeError):
        torch.npu.ipc_collect_all()
    with pytest.raises(AttributeError):
        torch.ops.npu.npu_no_such_operator(torch.ones(1, device="npu"))


def test_devices_are_not_mixed() -> None:
    here = torch.ones(3, device="npu")
    for call in (lambda: here + torch.ones(3), lambda: torch.cat([here, torch.ones(3)]), lambda: here @ torch.ones(3)):
        with pytest.raises(RuntimeError, match="same device"):
            call()
    with pytest.raises(Refused, match="a tensor on cpu"):
        torch.ops.npu.npu_rms_norm(torch.ones(2, 4, device="npu"), torch.ones(4))
    assert (here + torch.tensor(1.0)).tolist() == [2, 2, 2]
    assert here[torch.tensor([0, 1])].device.type == "npu"


def test_memory_is_counted_to_the_byte_and_given_back() -> None:
    gc.collect()
    before = torch.npu.memory_allocated()
    torch.npu.reset_peak_memory_stats()
    block = torch.empty(100 * KIB, dtype=torch.uint8, device="npu")
    part = block[: 10 * KIB]
    assert torch.npu.memory_allocated() == before + 100 * KIB
    twice = torch.cat([block, block])
    assert torch.npu.max_memory_allocated() >= before + 300 * KIB
    del block, twice
    assert torch.npu.memory_allocated() == before + 100 * KIB, "a view keeps its storage"
    del part
    assert torch.npu.memory_allocated() == before


def test_memory_ends_at_the_limit_and_the_device_says_so() -> None:
    device = select("npu")
    runtime.set_limit(torch.npu.memory_allocated() + 64 * KIB)
    try:
        assert device.free_memory() == 64 * KIB
        held = torch.empty(60 * KIB, dtype=torch.uint8, device="npu")
        with pytest.raises(RuntimeError) as error:
            torch.empty(8 * KIB, dtype=torch.uint8, device="npu")
        assert device.is_out_of_memory(error.value)
        del held
        assert torch.empty(60 * KIB, dtype=torch.uint8, device="npu").numel()
    finally:
        runtime.set_limit(None)


def test_generators_of_a_card_repeat_themselves() -> None:
    made = torch.Generator("npu").manual_seed(3)
    first = torch.randn(5, generator=made, device="npu")
    assert not torch.equal(first.cpu(), torch.randn(5, generator=made, device="npu").cpu())
    assert torch.equal(first.cpu(), torch.randn(5, generator=made.manual_seed(3), device="npu").cpu())
    torch.manual_seed(4)
    seeded = torch.randn(5, device="npu").cpu()
    torch.manual_seed(4)
    assert torch.equal(seeded, torch.randn(5, device="npu").cpu())


def test_the_device_contract_seeds_and_counts() -> None:
    device = select("npu")
    assert device.units() == {"cube cores": runtime.CORES, "vector cores": 2 * runtime.CORES}
    drawn = []
    for seed in (5, 6, 5):
        device.seed(seed)
        drawn.append(torch.randn(5, device="npu").cpu())
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


def test_cards_count_for_themselves() -> None:
    before = [torch.npu.memory_allocated(card) for card in range(2)]
    block = torch.empty(KIB, dtype=torch.uint8, device="npu:1")
    assert block.device.index == 1
    assert [torch.npu.memory_allocated(card) for card in range(2)] == [before[0], before[1] + KIB]
    with pytest.raises(RuntimeError, match="invalid device"):
        torch.empty(1, device="npu:7")


def test_a_captured_step_is_replayed_on_the_same_memory() -> None:
    device = select("npu")
    state, total, seen = (torch.zeros(4, device="npu") for _ in range(3))

    def step() -> None:
        state.add_(1)
        seen[1:3] = state[1:3] * 2
        total.add_(torch.nn.functional.softmax(state, 0).sum())

    replay = device.capture(step)
    for count in range(1, 8):
        replay()
        assert state.tolist() == [count] * 4
        assert seen.tolist() == [0, 2 * count, 2 * count, 0]
        assert total.tolist() == pytest.approx([count] * 4)


def test_an_operator_of_the_vendor_is_captured() -> None:
    x, weight = torch.tensor([[3.0, 4.0]], device="npu"), torch.ones(2, device="npu")
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        out, _ = calls.rms_norm(x, weight, 0.0)
    x.copy_(torch.tensor([[1.0, 1.0]]))
    graph.replay()
    assert out.tolist() == [[1, 1]]


@pytest.mark.parametrize("wait", [lambda x: x.sum().item(), lambda x: x.cpu(), lambda x: torch.npu.synchronize(), bool])
def test_waiting_while_capturing_is_refused(wait) -> None:
    x = torch.ones(1, device="npu")
    with pytest.raises(RuntimeError, match="captured"), torch.npu.graph(torch.npu.NPUGraph()):
        wait(x)
    assert not torch.npu.is_current_stream_capturing()


def test_the_default_stream_captures_nothing() -> None:
    with pytest.raises(RuntimeError, match="default stream"):
        torch.npu.NPUGraph().capture_begin()


def zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Zeros but where a call must be consistent: the fixed triangle, and where groups of 40 rows end."""
    if shape == (2048, 2048):
        return torch.ones(shape, dtype=dtype, device="npu").triu_(1)
    return torch.full(shape, 40 if dtype is torch.int64 else 0, dtype=dtype, device="npu")


@pytest.mark.parametrize("label", examples(torch.empty))
def test_emulated_operators_have_the_vendors_shapes(label: str) -> None:
    if recorded()[label] == "no Meta kernel":
        pytest.skip("the vendor has no Meta kernel for it")

    function, arguments = examples(zeros)[label]
    assert described(getattr(calls, function)(*arguments)) == recorded()[label]


#: An example call of every operator.
ONE_OF_EACH = {
    "npu_fused_infer_attention_score": "one query",
    "npu_fusion_attention": "training",
    "npu_attention_update": "merge",
    "npu_sign_bits_pack": "signs",
    "npu_rotary_mul": "rotation",
    "npu_rms_norm": "norm",
    "npu_dynamic_quant": "codes",
    "npu_quant_matmul": "product of codes",
    "npu_grouped_matmul": "groups",
}


@pytest.mark.parametrize("word", ["float16", "bfloat16", "float32", "float64", "int8", "int32"])
@pytest.mark.parametrize("operator", legality.TYPES)
def test_the_table_of_types_is_what_the_operators_take(operator: str, word: str) -> None:
    """The same call with all its numbers in another type."""
    own = {getattr(torch, one) for one in legality.TYPES[operator]}

    def make(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return zeros(*shape, dtype=getattr(torch, word) if dtype in own else dtype)

    function, arguments = examples(make)[ONE_OF_EACH[operator]]
    if word in legality.TYPES[operator]:
        getattr(calls, function)(*arguments)
    else:
        with pytest.raises(Refused):
            getattr(calls, function)(*arguments)


def program(seed: int, device: str) -> list[torch.Tensor]:
    """Some 10 random operations, many of them writes through views."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    x = torch.randn(6, 5, 4).to(device)
    made = []
    for _ in range(10):
        rows, columns = x.shape[0], x.shape[-1]
        kind = draw.randrange(18)
        y = x
        if kind == 0:
            y = x.transpose(draw.randrange(x.dim()), draw.randrange(x.dim()))
        elif kind == 1:
            x[draw.randrange(rows)] = draw.random()
        elif kind == 2:
            x[..., draw.randrange(columns)].add_(1.5)
        elif kind == 3 and rows > 2:
            y = x[1:]
        elif kind == 4:
            x.mul_(x.abs().mean())
        elif kind == 5 and x.dim() > 2:
            y = x.reshape(-1, columns)
        elif kind == 6:
            x.index_copy_(0, torch.tensor([0]).to(device), torch.ones(1, *x.shape[1:]).to(device))
        elif kind == 7:
            x[..., ::2] = x[..., ::2].flip(-1)
        elif kind == 8:
            x.clamp_(-1, 1)
        elif kind == 9:
            x.masked_fill_(x > 0.5, 0.25)
        elif kind == 10:
            x.select(0, draw.randrange(rows)).copy_(x.select(0, draw.randrange(rows)).clone())
        elif kind == 11:
            index = torch.randint(0, rows, (1, *x.shape[1:]), generator=torch.Generator().manual_seed(seed))
            x.scatter_(0, index.to(device), 0.5)
        elif kind == 12:
            torch.add(x, 1, out=x)
        elif kind == 13:
            y = x.unsqueeze(0).expand(2, *x.shape)[1]
        elif kind == 14:
            x.flatten()[:: draw.randrange(1, 4)].neg_()
        elif kind == 15:
            y = torch.cat([x, x[:1]]) if rows < 8 else x.narrow(0, 1, rows - 2)
        elif kind == 16:
            x.view(-1)[:3].zero_() if x.is_contiguous() else x.t_() if x.dim() == 2 else x.unfold(0, 2, 1).sum(-1)
        elif kind == 17:
            x[x[..., 0] > 0] = -0.5
        x = y
        made.append(x.clone())
        made.append(x)
    return made


@pytest.mark.parametrize("block", range(4))
def test_random_programs_equal_the_cpus(block: int, record_property) -> None:
    """Bit for bit, strides included: 800 programs."""
    for seed in range(200 * block, 200 * (block + 1)):
        for step, (expected, got) in enumerate(zip(program(seed, "cpu"), program(seed, "npu"), strict=True)):
            assert got.device.type == "npu"
            assert expected.stride() == got.stride(), (seed, step)
            assert torch.equal(expected, got.cpu()), (seed, step)
    record_property("programs", "200")
