"""Rung 5: CentroidMerge against weighted means in float64, by rules that a card has."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from tests.ascendc import card
from tests.ascendc.card import Chip, Operator, Refused
from tests.ascendc.mutation import Mismatch, Mutation, noticed

pytestmark = pytest.mark.skipif(bool(card.missing()), reason=card.missing() or "g++ is there")

#: Half a unit in the last place of each type, and a little for the sums in float.
ROUNDING = {torch.float16: 2**-11 * 1.01, torch.bfloat16: 2**-8 * 1.01, torch.float32: 2**-20}


def merged(rows: torch.Tensor, degrees: torch.Tensor, source: list[int], target: list[int]) -> torch.Tensor:
    """One chunk: rows [c, D] float64 -> [c - r, D]; a mean of whoever merged, weighted by degree."""
    clusters = {place: [place] for place in range(len(rows)) if place not in source}
    for one, into in zip(source, target, strict=True):
        clusters[into].append(one)
    weight = degrees.double()
    means = [(weight[m, None] * rows[m]).sum(0) / weight[m].sum() for m in clusters.values()]
    return torch.stack([rows[m[0]] if len(m) == 1 else mean for m, mean in zip(clusters.values(), means, strict=True)])


def check(
    operator: Operator,
    batch: int,
    heads: int,
    chunks: int,
    chunk: int,
    merges: int,
    width: int,
    dtype: torch.dtype,
    spread: float = 1.0,
    one_target: bool = False,
    chip: Chip | None = None,
) -> None:
    keys, values = ((spread * torch.randn(batch, heads, chunks * chunk, width)).to(dtype) for _ in range(2))
    degrees = torch.randint(1, 200, keys.shape[:3]).float()
    source = torch.stack([torch.randperm(chunk // 2)[:merges] * 2 for _ in range(batch * heads * chunks)])
    target = torch.randint(0, 1 if one_target else chunk // 2, source.shape) * 2 + 1
    shape = (batch, heads, chunks, merges)
    source, target = source.view(shape).int(), target.view(shape).int()
    got = operator([keys, values, degrees, source, target], [], chip)
    pairs = list(zip(source.view(-1, merges).tolist(), target.view(-1, merges).tolist(), strict=True))
    weights = degrees.view(-1, chunk)
    for name, rows, out in (("keys", keys, got[0]), ("values", values, got[1])):
        flat = rows.double().view(-1, chunk, width)
        expected = torch.stack([merged(flat[i], weights[i], *pairs[i]) for i in range(len(pairs))])
        out = out.double().view(expected.shape)
        error = ((out - expected).abs() / expected.abs().clamp_min(spread / 2))[out != expected]
        if error.isnan().any() or (error.numel() and float(error.max()) > ROUNDING[dtype]):
            raise Mismatch(f"{name}: off by {float(error.nan_to_num(1e9).max()):.3g}, allowed {ROUNDING[dtype]:.3g}")
    for (one, into), before, after in zip(pairs, weights, got[2].view(-1, chunk - merges), strict=True):
        total = before.index_add(0, torch.tensor(into), before[one])
        if not torch.equal(after, total[[place for place in range(chunk) if place not in one]]):
            raise Mismatch("degrees")


CASES = {
    "half of a chunk of 64": functools.partial(
        check, batch=1, heads=2, chunks=2, chunk=64, merges=32, width=128, dtype=torch.float16
    ),
    "few of 64, several texts": functools.partial(
        check, batch=2, heads=1, chunks=3, chunk=64, merges=5, width=64, dtype=torch.float16
    ),
    "bfloat16, 32": functools.partial(
        check, batch=1, heads=1, chunks=5, chunk=32, merges=11, width=48, dtype=torch.bfloat16
    ),
    "float, columns in parts": functools.partial(
        check, batch=1, heads=1, chunks=2, chunk=64, merges=20, width=328, dtype=torch.float32
    ),
    "all into one": functools.partial(
        check, batch=1, heads=1, chunks=2, chunk=16, merges=8, width=32, dtype=torch.float32, one_target=True
    ),
    "small numbers": functools.partial(
        check, batch=1, heads=1, chunks=7, chunk=8, merges=3, width=16, dtype=torch.float16, spread=0.02
    ),
}

MUTATIONS = (
    Mutation("scalar before copy-in", "        Order<HardEvent::MTE2_S>();\n", ""),
    Mutation(
        "scalar before copy-out",
        "        Order<HardEvent::MTE3_S>();  // those of the chunk before are on their way out\n",
        "",
    ),
    Mutation("copy-out before scalar", "        Order<HardEvent::S_MTE3>();\n", ""),
    Mutation(
        "copy-in before scalar",
        "        Order<HardEvent::S_MTE2>();  // the pairs are read: the next ones may come\n",
        "",
    ),
    Mutation("barrier between sums into one token", "if (touched >> into[p] & 1) {", "if (touched >> 63 & 1 & 0) {"),
    Mutation("means overwritten while read", "        Settle();  // the means are read: the next ones may come\n", ""),
    Mutation("EnQue of rows left out", "        loaded.EnQue(rows);\n        rows = loaded.template DeQue<T>();\n", ""),
    Mutation(
        "EnQue of results left out", "        stored.EnQue(narrow);\n        narrow = stored.template DeQue<T>();\n", ""
    ),
    Mutation("rows not given back", "        loaded.FreeTensor(rows);\n", ""),
    Mutation("results not given back", "        stored.FreeTensor(narrow);\n", ""),
    Mutation("pairs not given back", "        pairsQueue.FreeTensor(target);\n", ""),
    Mutation(
        "given back twice", "        pairsQueue.FreeTensor(target);\n", "        pairsQueue.FreeTensor(source);\n"
    ),
    Mutation("room for halves", "wide, chunk * columns * sizeof(float)", "wide, chunk * columns * sizeof(half)"),
    Mutation(
        "a copy of any length",
        "DataCopyPad(mergedDegreesGm[static_cast<uint64_t>(i) * left], merged, out)",
        "DataCopy(mergedDegreesGm[static_cast<uint64_t>(i) * left], merged, left)",
    ),
    Mutation("past the last chunk", " && i < chunks;", ";"),
    Mutation(
        "stride of columns on the way in",
        "static_cast<uint16_t>(chunk), bytes, rest, 0, 0}",
        "static_cast<uint16_t>(chunk), bytes, 0, 0, 0}",
    ),
    Mutation(
        "stride of columns on the way out",
        "static_cast<uint16_t>(left), bytes, 0, rest, 0}",
        "static_cast<uint16_t>(left), bytes, 0, 0, 0}",
    ),
    Mutation(
        "the last columns as wide as the first",
        "const uint32_t part = width - column < columns ? width - column : columns;",
        "const uint32_t part = columns;",
    ),
    Mutation("values with the keys' results", "Merge(valuesGm, mergedValuesGm", "Merge(keysGm, mergedValuesGm"),
    Mutation("rescale dropped", "mean[into[p] * part], stays[p], part);", "mean[into[p] * part], 1.0f, part);"),
    Mutation("rescale for every pair", "            if (scaled >> into[p] & 1) continue;\n", ""),
    Mutation(
        "mean without degrees",
        "moved[p] = degrees.GetValue(from[p]) / total[into[p]]",
        "moved[p] = 1.0f / total[into[p]]",
    ),
    Mutation("degrees not added", "total[into[p]] += degrees.GetValue(from[p]);", "total[into[p]] += 1.0f;"),
    Mutation("merged tokens stay", "alive &= ~(1ull << from[p]);", "alive &= ~(1ull << (63 - p));"),
    Mutation(
        "one pair forgotten",
        "for (uint32_t p = 0; p < merges; ++p) {\n            if (touched",
        "for (uint32_t p = 1; p < merges; ++p) {\n            if (touched",
    ),
    Mutation(
        "cut for rounded",
        "Cast(dst, src, RoundMode::CAST_RINT, count);",
        "Cast(dst, src, RoundMode::CAST_NONE, count);",
    ),
)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return card.build(tmp_path_factory.mktemp("merge"), card.MERGE)[0]


@pytest.mark.parametrize("name", CASES)
def test_it_computes_weighted_means(operator: Operator, name: str) -> None:
    torch.manual_seed(len(name))
    CASES[name](operator)


def test_random_shapes(operator: Operator) -> None:
    generator = torch.Generator().manual_seed(5)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    for _ in range(12):
        chunk = 8 * pick(1, 8)
        dtype = (torch.float16, torch.bfloat16, torch.float32)[pick(0, 2)]
        shape = {"batch": pick(1, 2), "heads": pick(1, 3), "chunks": pick(1, 4), "width": 16 * pick(1, 16)}
        check(operator, **shape, chunk=chunk, merges=pick(1, chunk // 2), dtype=dtype, chip=Chip(cores=pick(1, 30)))


def test_who_does_not_merge_leaves_as_it_came(operator: Operator) -> None:
    keys = torch.randn(1, 1, 16, 16).half()
    keys[0, 0, 3] = torch.tensor([float("inf"), -0.0, 6e-8, 65504] * 4)
    source, target = torch.tensor([[[[0]]]]).int(), torch.tensor([[[[1]]]]).int()
    out, _, degrees = operator([keys, keys, torch.full((1, 1, 16), 3.0), source, target], [])
    assert torch.equal(out[0, 0, 1:].view(torch.int16), keys[0, 0, 2:].view(torch.int16))
    assert degrees[0, 0].tolist() == [6.0] + [3.0] * 14


def test_the_plan_follows_the_card(operator: Operator) -> None:
    def plan(width: int, dtype: torch.dtype, chip: Chip) -> tuple[int, list[int]]:
        keys = torch.zeros(1, 2, 256, width, dtype=dtype)
        pairs = torch.zeros(1, 2, 4, 32, dtype=torch.int32)
        cores, _, words = operator.plan([keys, keys, torch.zeros(1, 2, 256), pairs, pairs], [], chip)
        return cores, words[:5]

    assert plan(128, torch.float16, Chip(cores=40)) == (8, [8, 64, 32, 128, 128])
    assert plan(128, torch.float16, Chip(cores=3))[0] == 3
    assert plan(256, torch.float16, Chip())[1][4] == 128
    assert plan(128, torch.float32, Chip())[1][4] == 128
    assert plan(128, torch.float32, Chip(128 * 1024))[1][4] == 64
    check(operator, 1, 1, 1, 64, 32, 128, torch.float32, chip=Chip(128 * 1024))
    assert 64 * 1024 < operator.most <= 126 * 1024


def test_what_the_host_refuses(operator: Operator, capfd: pytest.CaptureFixture[str]) -> None:
    for tokens, chunks, merges, width, words in (
        (100, 3, 4, 16, "whole chunks"),
        (128, 1, 4, 16, "8, 16, ... 64 tokens"),
        (24, 2, 4, 16, "8, 16, ... 64 tokens"),
        (64, 1, 33, 16, "at most half"),
        (64, 1, 4, 20, "32 bytes"),
    ):
        keys, pairs = torch.zeros(1, 1, tokens, width).half(), torch.zeros(1, 1, chunks, merges, dtype=torch.int32)
        with pytest.raises(Refused):
            operator([keys, keys, torch.ones(1, 1, tokens), pairs, pairs], [])
        assert words in capfd.readouterr().err


def test_planted_bugs_are_noticed(tmp_path: Path) -> None:
    source = card.kernel_of(card.MERGE)
    versions = card.build(tmp_path, card.MERGE, [mutation.plant(source) for mutation in MUTATIONS])
    quiet = []
    for mutation, version in zip(MUTATIONS, versions, strict=True):
        torch.manual_seed(1)
        if not noticed(version, list(CASES.values())):
            quiet.append(mutation.name)
    assert not quiet
    assert len(versions) >= 25
