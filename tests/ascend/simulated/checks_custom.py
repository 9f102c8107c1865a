"""The custom operators of ops/ascendc where they are loaded: their own sources, run by the stand-in for Ascend C.

The binding's schemas are defined for the simulated cards; behind them, tensors are brought to the host, tiled and
computed by the sources of ops/ascendc.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from npukv import ops
from npukv.backends.ascend import custom
from npukv.ops import registry
from npukv.ops.registry import strict
from tests.ascend.binding import custom_schemas
from tests.ascend.cases import Case, cases, coarsest, difference, exactly, flat, on
from tests.ascendc import card

OPERATORS = ops.operators()
CASES = [case for case in cases() if "custom" in OPERATORS[case.operator].get("npu", [])]

pytestmark = pytest.mark.skipif(bool(card.missing()), reason=card.missing() or "g++ is there")


def test_without_them_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ok, reason = custom.loaded()
    assert not ok and "bash ops/ascendc/build.sh" in reason and custom.VARIABLE in reason
    choices = registry.explain(CASES[0].operator, *on(CASES[0], "npu"))
    assert [choice.kernel for choice in choices if choice.chosen] == ["composed"]
    monkeypatch.setenv(custom.VARIABLE, "/nowhere/npukv_ascendc.so")
    ok, reason = custom.loaded()
    assert not ok and "/nowhere/npukv_ascendc.so" in reason


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, card.Operator]:
    folder = tmp_path_factory.mktemp("custom")
    return {spec.name: card.build(folder, spec)[0] for spec in (card.HAMMING, card.MERGE)}


@pytest.fixture(scope="module")
def calls(built: dict[str, card.Operator]) -> Iterator[list[str]]:
    """The operators, defined as the binding does; the names of those called, as they are called."""
    made: list[str] = []
    library = torch.library.Library(custom.NAMESPACE, "DEF")
    for schema in custom_schemas():
        library.define(schema)
        name = schema.partition("(")[0]

        def run(*arguments: Any, operator: card.Operator = built[name]) -> Any:
            made.append(operator.spec.name)
            inputs = operator.spec.inputs
            assert all(part.device.type == "npu" for part in arguments[:inputs])
            host = [part.cpu() for part in arguments[:inputs]]
            results = tuple(part.to("npu") for part in operator(host, list(arguments[inputs:])))
            return results if len(results) > 1 else results[0]

        library.impl(name, run, "PrivateUse1")
    yield made
    library._destroy()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parity(case: Case, calls: list[str], record_property: Any) -> None:
    operator = registry._operators[case.operator]
    results, _ = exactly(case, operator.reference)
    arguments = on(case, "npu")
    record_property("operator", case.operator)
    assert next(choice.kernel for choice in operator.explain(*arguments) if choice.chosen) == "custom"
    calls.clear()
    with strict():
        got = flat(operator(*arguments))
    assert len(calls) == 1
    problems = [difference(a, b, coarsest(case)) for a, b in zip(got, results, strict=True)]
    assert not any(problems), problems


REFUSED = {
    "bits": ("hamming_blocks", lambda a: (a[0][..., :3], a[1][..., :3], *a[2:]), "32, 64, 128 or 256 bits"),
    "tokens": ("hamming_blocks", lambda a: (a[0], a[1][:, :, :1].expand(-1, -1, 1 << 21, -1), *a[2:]), "tokens"),
    "chunks": ("merge_pass", lambda a: (*a[:5], 1026, a[6]), "chunks of 2, 4, ... 1024"),
    "width": ("merge_pass", lambda a: (a[0][..., :5], a[1][..., :5], *a[2:]), "blocks of 32 bytes"),
    "types": ("merge_pass", lambda a: (a[0].double(), *a[1:]), "both alike"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_they_do_not_take(what: str, calls: list[str]) -> None:
    name, change, words = REFUSED[what]
    case = next(case for case in CASES if case.operator == name)
    choice = registry.explain(name, *change(on(case, "npu")))[0]
    assert choice.kernel == "custom" and not choice.ok
    assert words in choice.reason


def test_the_largest_allowed_fits_the_buffer(built: dict[str, card.Operator]) -> None:
    """The check's limits are within the host's own, for cards with 192 KB."""
    tokens = 128 * custom.SCORED_BLOCKS
    codes = [torch.zeros(1, 1, 1, 8, dtype=torch.int32), torch.zeros(1, 1, 1, 8, dtype=torch.int32)]
    codes[1] = codes[1].expand(-1, -1, tokens, -1)
    length = torch.zeros(1, dtype=torch.int32)
    assert custom.hamming_blocks(*codes, custom.SELECTED_BLOCKS)[0]
    built["hamming_blocks"].plan([*codes, length], [custom.SELECTED_BLOCKS, 1, 1], card.Chip())
    for width, dtype in ((8, torch.float32), (16, torch.bfloat16), (128, torch.float16), (512, torch.float32)):
        keys, degrees = torch.zeros(1, 1, 1200, width, dtype=dtype), torch.zeros(1, 1, 1200)
        assert custom.centroid_merge(keys, keys, degrees, custom.MERGED_TOKENS)[0]
        built["centroid_merge"].plan([keys, keys, degrees, degrees.int()], [1, custom.MERGED_TOKENS, 300], card.Chip())
