"""The custom operators as a project: definitions that agree, a binding that calls them, a build that says its needs."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from tests.ascendc import card
from tests.ascendc.card import Operator, Spec

pytestmark = pytest.mark.skipif(bool(card.missing()), reason=card.missing() or "g++ is there")

#: Names of types in operators.json, as numbers of ge::DataType.
NAMES = {"float": 0, "float16": 1, "int32": 3, "bf16": 27}


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Operator]:
    folder = tmp_path_factory.mktemp("project")
    return {spec.name: card.build(folder, spec)[0] for spec in (card.HAMMING, card.MERGE)}


def test_the_project_is_generated_with_the_operators_that_are_defined(operators: dict[str, Operator]) -> None:
    described = []
    for operator in json.loads((card.SOURCES / "operators.json").read_text()):
        lines = [["op", operator["op"]]]
        for kind in ("input", "output"):
            for entry in operator[f"{kind}_desc"]:
                assert entry["param_type"] == "required" and len(entry["format"]) == len(entry["type"])
                lines.append([kind, entry["name"], *(str(NAMES[name]) for name in entry["type"])])
        lines += [["attr", entry["name"]] for entry in operator["attr"]]
        described.append(lines)
    chips = [["chip", "ascend910b"], ["chip", "ascend910_93"]]
    assert [operator.definition() for operator in operators.values()] == [lines + chips for lines in described]


@pytest.fixture(scope="module")
def binding(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The binding, compiled against stand-ins for CANN's and torch_npu's headers, for tensors on the CPU."""
    library, shim = tmp_path_factory.mktemp("binding") / "binding.so", card.SHIM / "binding"
    command = ["g++", "-std=c++20", "-O0", "-fPIC", "-shared", f"-I{shim}"]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"]
    command += [f"-isystem{path}" for path in cpp_extension.include_paths()]
    command += [f'-DBINDING="{card.SOURCES}/binding/binding.cpp"', str(shim / "calls.cpp"), "-o", str(library)]
    command += [part for path in cpp_extension.library_paths() for part in (f"-L{path}", f"-Wl,-rpath,{path}")]
    done = subprocess.run([*command, "-lc10", "-ltorch_cpu"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    torch.ops.load_library(str(library))
    calls = ctypes.CDLL(str(library))
    calls.last_call.restype = ctypes.c_char_p
    return calls


def merge_arguments(device: str, dtype: torch.dtype = torch.float16) -> list[torch.Tensor]:
    keys = torch.zeros(2, 3, 100, 32, dtype=dtype, device=device)
    return [keys, keys, torch.ones(2, 3, 100, device=device), torch.zeros(2, 3, 100, dtype=torch.int32, device=device)]


def test_the_binding_describes_shapes(binding: ctypes.CDLL, operators: dict[str, Operator]) -> None:
    """Meta tensors have the shapes and types that the host infers."""
    codes = [torch.zeros(size, dtype=torch.int32) for size in ((2, 8, 1, 4), (2, 4, 300, 4), (2,))]
    for spec, tensors, attributes in (
        (card.HAMMING, codes, [5, 1, 2]),
        (card.MERGE, merge_arguments("cpu"), [3, 32, 17]),
        (card.MERGE, merge_arguments("cpu", torch.bfloat16), [1, 2, 0]),
    ):
        function = getattr(torch.ops.npukv_ascendc, spec.name)
        result = function(*(tensor.to("meta") for tensor in tensors), *attributes)
        results = result if isinstance(result, tuple) else (result,)
        assert operators[spec.name].infer(tensors, attributes) == [(list(r.shape), r.dtype) for r in results]


def test_the_binding_calls_in_two_steps(binding: ctypes.CDLL) -> None:
    keys = torch.zeros(2, 300, 4, 4, dtype=torch.int32).transpose(1, 2)  # not contiguous
    query, length = torch.zeros(2, 8, 1, 4, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    assert torch.ops.npukv_ascendc.hamming_blocks(query, keys, length, 5, 1, 2).shape == (2, 4, 5)
    assert binding.last_call().decode() == "HammingBlocks 3[2,8,1,4,] 3[2,4,300,4,] 3[2,] 3[2,4,5,] 5 1 2"
    torch.ops.npukv_ascendc.centroid_merge(*merge_arguments("cpu", torch.bfloat16), 3, 32, 17)
    rows, degrees = "27[2,3,100,32,]", "0[2,3,100,]"
    merged = "27[2,3,83,32,] 27[2,3,83,32,] 0[2,3,83,]"
    assert binding.last_call().decode() == f"CentroidMerge {rows} {rows} {degrees} 3[2,3,100,] {merged} 3 32 17"
    assert binding.tensors_alive() == 0


def test_the_binding_refuses(binding: ctypes.CDLL) -> None:
    hamming, merge = torch.ops.npukv_ascendc.hamming_blocks, torch.ops.npukv_ascendc.centroid_merge
    query, keys = torch.zeros(2, 8, 1, 4, dtype=torch.int32), torch.zeros(2, 4, 300, 4, dtype=torch.int32)
    length = torch.zeros(2, dtype=torch.int32)
    for arguments, words in (
        ((query, keys[..., :2], length, 5, 1, 2), "differ in B or w"),
        ((query, keys, length.long(), 5, 1, 2), "must be int32"),
        ((query, keys, length[None], 5, 1, 2), "expected"),
        ((query, keys, length, 2, 1, 2), "expected at least both"),
        ((query, keys, length, 77, 1, 2), "aclnnHammingBlocks failed with status 161002: told by the stand-in"),
    ):
        with pytest.raises(RuntimeError, match=words):
            hamming(*arguments)
    rows, values, degrees, places = merge_arguments("cpu")
    for bad, words in (
        ((rows, values.float(), degrees, places, 3, 32, 17), "of one type"),
        ((rows, values, degrees.half(), places, 3, 32, 17), "expected float32"),
        ((rows, values, degrees, places[:, :1], 3, 32, 17), "expected int32"),
        ((rows, values, degrees, places, 4, 32, 17), "at most half"),
        ((rows.double(), values.double(), degrees, places, 3, 32, 17), "expected float32, float16"),
    ):
        with pytest.raises(RuntimeError, match=words):
            merge(*bad)
    assert binding.tensors_alive() == 0


def test_the_build_says_what_is_missing(tmp_path: Path) -> None:
    """Without CANN it names every missing piece at once and changes nothing."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    script = card.SOURCES / "build.sh"
    done = subprocess.run(["bash", str(script), "--check"], capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        pytest.skip("CANN is here")
    assert done.returncode == 1
    assert all(line.startswith("missing: ") for line in done.stderr.splitlines())
    assert "set_env.sh" in done.stderr and "torch_npu" in done.stderr
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


def test_every_operator_has_a_spec() -> None:
    names = {path.stem for path in (card.SOURCES / "op_kernel").glob("*.cpp")}
    specs = {spec.name for spec in vars(card).values() if isinstance(spec, Spec)}
    assert names == specs == {path.stem for path in (card.SOURCES / "op_host").glob("*.cpp")}
