"""Rung 4: Triton kernels, lowered by triton-ascend, computed on the CPU against their references."""

from __future__ import annotations

import ctypes
import types
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels' files import triton")

import torch

from npukv.ops import hashing  # noqa: F401 - its operators register themselves
from npukv.ops.registry import operators
from tests.lowering import launch, toolchain
from tests.lowering.suite import Mutation, Suite, catch, kernels, try_cases
from tests.lowering.suites import suites

SUITES = suites()
ROOT = Path(__file__).parents[2]
needs_tools = pytest.mark.skipif(bool(toolchain.missing()), reason=toolchain.missing() or "the tools are there")


@needs_tools
@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES.keys())
def test_lowered_kernels_compute_what_the_reference_does(suite: Suite) -> None:
    outcome = try_cases(suite, seed=1)
    assert not outcome.failed
    assert not outcome.refused
    assert set(outcome.launches) == set(kernels(suite)), "a kernel that no case launches"
    assert outcome.passed >= 3


@needs_tools
@pytest.mark.parametrize(
    ("suite", "mutation"),
    [pytest.param(s, m, id=f"{s.name}: {m.name}") for s in SUITES.values() for m in s.mutations],
)
def test_a_planted_bug_is_noticed(suite: Suite, mutation: Mutation) -> None:
    assert catch(suite, mutation)


def test_every_kernel_of_the_package_is_in_a_suite() -> None:
    """So that no operator has a kernel that only CUDA takes: what a suite holds must lower, and is launched.

    But for `hash_decode`, which is made of two operators where these are not, and what CUDA alone can wait for.
    """
    held = {Path(str(module.__file__)) for suite in SUITES.values() for module in suite.modules}
    files = [path for path in sorted((ROOT / "ops").rglob("*.py")) if launch.jit_functions(path.read_text("utf-8"))]
    assert len(files) >= 9
    decode = [f"triton_decode_{launch}.py" for launch in ("attend", "begin", "merge", "sift")]
    assert [path.name for path in files if path not in held] == decode
    assert operators()["hash_decode"]["npu"] == ["step, then attend"]


@needs_tools
def test_the_interpreter_asked_for_here_is_not_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    source = "import triton\nimport triton.language as tl\n@triton.jit\ndef k(x):\n    tl.store(x, 1.0)\n"
    lowerer = toolchain.Lowerer()
    assert "func.func @k" in lowerer(source=source, name="k", signature={"x": "*fp32"}, constants={})


def test_a_fence_stops_what_leaves_a_tensor() -> None:
    whole = torch.arange(6.0)
    tensor = whole.view(2, 3)[:, :2]  # from its first element to its last: 5 floats
    for at_end, outside in ((True, 20), (False, -4)):
        fence = launch.Fenced(tensor, at_end)
        assert fence.bytes == 20
        assert ctypes.string_at(fence.address, 20) == whole[:5].numpy().tobytes()
        with pytest.raises(launch.OutOfBounds, match="SIGSEGV"):
            launch.in_fork(lambda fence=fence, outside=outside: ctypes.string_at(fence.address + outside, 1))
        launch.in_fork(lambda fence=fence: ctypes.memset(fence.address + 4, 0, 4))
        fence.take_back()
        assert whole.tolist() == [0.0, 0.0, 2.0, 3.0, 4.0, 5.0]
        whole[1] = 1.0
        ctypes.memset(fence.slack_address, 1, 1)
        with pytest.raises(launch.OutOfBounds, match="beside"):
            fence.take_back()
        fence.free()


def test_a_launch_is_specialised_as_triton_does(monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "import triton\nWIDE = tl.constexpr(8)\nOTHER = 9\n"
        "@triton.jit(do_not_specialize=VARYING)\n"
        "def k(x, n, one, always, none, f, b, big, size: tl.constexpr, more: tl.constexpr = 4):\n"
        "    '''text'''\n    tl.store(x, WIDE)\n"
    )
    asked: list[tuple[object, ...]] = []

    class Stop(Exception): ...

    def kernel(*request: object) -> None:
        asked.append(request)
        raise Stop

    monkeypatch.setattr(toolchain, "kernel", kernel)
    module = types.ModuleType("kernels")
    module.VARYING = ("always",)  # type: ignore[attr-defined]
    lowered = launch.Lowered("k", module, source, {})
    with pytest.raises(Stop):
        lowered[lambda bound: (bound["size"],)](torch.zeros(2), 7, 1, 1, None, 0.5, True, 2**40, size=16, num_warps=4)
    text, name, signature, constants = asked[0]
    assert name == "k"
    assert signature == {"x": "*fp32", "n": "i32", "always": "i32", "f": "fp32", "b": "i1", "big": "i64"}
    assert constants == {"one": 1, "none": None, "size": 16, "more": 4}
    assert "WIDE" in str(text) and "OTHER" not in str(text) and "VARYING" not in str(text)
    with pytest.raises(TypeError, match="missing"):
        lowered[(1,)](torch.zeros(2), 7)


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPUKV_TRITON_ASCEND", "/nowhere/python")
    assert "no such file" in toolchain.missing.__wrapped__()
    monkeypatch.delenv("NPUKV_TRITON_ASCEND")
    assert "NPUKV_TRITON_ASCEND" in toolchain.missing.__wrapped__()
