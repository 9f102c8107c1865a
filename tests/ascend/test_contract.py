"""Rung 0: every call of torch_npu binds against the schemas of real releases, and wrong ones do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from npukv.backends.ascend.legality import TYPES
from tests.ascend.binding import (
    CALLS,
    DEVICE,
    ROOT,
    SHARED,
    VERSIONS,
    Site,
    contract,
    custom_schemas,
    operator_schemas,
    package_files,
    sites,
    strays,
    violations,
)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def all_sites() -> list[Site]:
    return [site for path in package_files() for site in sites(path.read_text(encoding="utf-8"), named(path))]


def planted(source: str, file: str = CALLS, version: str = "2.13.0") -> list[str]:
    return [problem for site in sites(source, file) for problem in violations(site, version)]


def test_contracts_are_of_real_releases() -> None:
    assert any(version.startswith("2.9.") for version in VERSIONS)
    assert "2.13.0" in VERSIONS
    for version in VERSIONS:
        assert f"torch_npu-{version}-" in contract(version)["wheel"]
        assert len(operator_schemas(version)) > 350
        assert len(contract(version)["kernels"]) > 1000
        assert len(contract(version)["python"]) > 100


def test_the_pinned_release_is_the_one_that_matches_torch() -> None:
    pinned = (ROOT / "constraints.txt").read_text()
    assert "torch==2.13.0" in pinned, "extract the contract of the torch-npu that matches the new torch"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_call_binds(version: str) -> None:
    found = all_sites()
    problems = [problem for site in found for problem in violations(site, version)]
    assert not problems, "\n".join(problems)
    operators = {site.name for site in found if site.operator}
    assert {"npu_fused_infer_attention_score", "npu_fusion_attention", "npu_sign_bits_pack"} <= operators
    assert {site.file for site in found} == {CALLS, DEVICE, SHARED}
    assert len(found) >= 25


def test_no_call_is_anywhere_else() -> None:
    found = [stray for path in package_files() for stray in strays(path.read_text(encoding="utf-8"), named(path))]
    assert not found, "\n".join(found)


def test_every_operator_called_has_its_own_function() -> None:
    """calls.py is thin: one call of an operator per function, whose arguments are what it passes on."""
    import ast

    tree = ast.parse((ROOT / CALLS).read_text())
    for function in [node for node in tree.body if isinstance(node, ast.FunctionDef)]:
        calls = [
            node
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("torch.ops.npu")
        ]
        assert len(calls) <= 1, f"{function.name} calls {len(calls)} operators"


def test_every_operator_called_has_its_types() -> None:
    custom = {schema.partition("(")[0] for schema in custom_schemas()}
    assert len(custom) == 2
    assert {site.name for site in all_sites() if site.operator} == set(TYPES) | custom


HEAD = (
    "import torch\n"
    "def call(x: torch.Tensor, n: int, f: float, s: str, xs: list[torch.Tensor], m: torch.Tensor | None,"
    " t: torch.dtype):\n"
)

#: What a tired author might write, each with the word the report must hold.
WRONG: dict[str, tuple[str, str]] = {
    "misspelt operator": ("torch.ops.npu.npu_rmsnorm(x, x)", "no such operator"),
    "operator of a later release only": ("torch.ops.npu.npu_fused_attention(x)", "no such operator"),
    "misspelt keyword": ("torch.ops.npu.npu_rms_norm(x, x, eps=f)", "no argument 'eps'"),
    "keyword of the sister operator": (
        "torch.ops.npu.npu_fused_infer_attention_score(x, x, x, num_query_heads=n)",
        "no argument 'num_query_heads'",
    ),
    "the other spelling of tokens": ("torch.ops.npu.npu_fusion_attention(x, x, x, n, s, pre_tokens=n)", "'pre_tokens'"),
    "missing argument": ("torch.ops.npu.npu_sign_bits_pack(x)", "misses 'size'"),
    "too many positional": ("torch.ops.npu.npu_sign_bits_pack(x, n, n)", "takes 2 positional"),
    "keyword-only given by position": (
        "torch.ops.npu.npu_fused_infer_attention_score(x, x, x, x)",
        "takes 3 positional",
    ),
    "given twice": ("torch.ops.npu.npu_rms_norm(x, x, gamma=x)", "'gamma' twice"),
    "tensor for a number": ("torch.ops.npu.npu_sign_bits_pack(x, x)", "is torch.Tensor, expected int"),
    "float for an int": ("torch.ops.npu.npu_sign_bits_pack(x, 1.0)", "is float, expected int"),
    "string for a flag": (
        "torch.ops.npu.npu_fused_infer_attention_score(x, x, x, softmax_lse_flag='yes')",
        "is str, expected bool",
    ),
    "flag for an int": ("torch.ops.npu.npu_sign_bits_pack(x, True)", "is bool, expected int"),
    "one tensor for a list": ("torch.ops.npu.npu_attention_update(x, xs, 0)", "expected List[Tensor]"),
    "a tensor of lengths for a list": (
        "torch.ops.npu.npu_fused_infer_attention_score(x, x, x, actual_seq_lengths_kv=x)",
        "expected Optional[List[int]]",
    ),
    "a type for a number that is none": ("torch.ops.npu.npu_sign_bits_pack(x, t)", "is torch.dtype, expected int"),
    "the type by another name": ("torch.ops.npu.npu_quant_matmul(x, x, x, out_dtype=t)", "no argument 'out_dtype'"),
    "one scale for a list of them": (
        "torch.ops.npu.npu_grouped_matmul(xs, xs, scale=xs, per_token_scale=x)",
        "expected Optional[List[Tensor]]",
    ),
    "the scale's name without its line": (
        "torch.ops.npu.npu_grouped_matmul(xs, xs, scale=xs, pertoken_scale=xs)",
        "no argument 'pertoken_scale'",
    ),
    "a custom operator without its last argument": (
        "torch.ops.npukv_ascendc.hamming_blocks(x, x, x, n, n)",
        "misses 'recent_blocks'",
    ),
    "None where one is needed": ("torch.ops.npu.npu_rms_norm(x, m)", "expected Tensor"),
    "a word that is no layout": ("torch.ops.npu.npu_fusion_attention(x, x, x, n, 'BHSD')", "expected one of"),
    "an expression whose type is hidden": ("torch.ops.npu.npu_sign_bits_pack(x.flatten(), 1)", "cannot be seen"),
    "an operator passed around": ("map(torch.ops.npu.npu_rms_norm, xs)", "not called here"),
    "a runtime function that is not": ("torch.npu.free_memory()", "not defined"),
    "torch.cuda's spelling": ("torch.npu.get_arch_list()", "not defined"),
    "a runtime argument too many": ("torch.npu.is_available(0)", "too many positional"),
    "an unknown runtime keyword": ("torch.npu.mem_get_info(index=0)", "unexpected keyword"),
    "a graph made with an argument": ("torch.npu.graph()", "missing a required argument"),
    "a stream made wrongly": ("torch.npu.Event(True, True, True, True)", "too many positional"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_planted_violations_are_caught(kind: str) -> None:
    call, expected = WRONG[kind]
    problems = planted(f"{HEAD}    return {call}\n")
    assert len(problems) == 1, problems
    assert expected in problems[0], problems


def test_a_release_without_an_argument_refuses_it() -> None:
    source = f"{HEAD}    return torch.ops.npu.npu_rotary_mul(x, x, x, s, m)\n"
    assert not planted(source, version="2.13.0")
    assert planted(source, version="2.9.0")


@pytest.mark.parametrize(
    "source",
    [
        "import torch_npu",
        "from torch_npu.npu import graph",
        "def f(x):\n    import torch_npu\n    return torch_npu.npu_rms_norm(x, x)",
        "import torch\ntorch.npu.synchronize()",
        "import torch\ntorch.ops.npu.npu_rms_norm(1, 2)",
    ],
)
def test_strays_are_caught(source: str) -> None:
    assert strays(source, "ops/hashing/ascend.py")


def test_calls_of_shared_stream_code_are_seen() -> None:
    source = "class R:\n    def f(self, event):\n        self._runtime.replay_all()\n        event.sync()\n"
    assert len(planted(source, file=SHARED)) == 2
