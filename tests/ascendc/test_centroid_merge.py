"""Rung 5: CentroidMerge against the package's reference, by rules that a card has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from npukv.ops.clustering import plan, reference
from tests.ascendc import card
from tests.ascendc.card import Chip, Operator, Refused
from tests.ascendc.mutation import Mismatch, Mutation, unnoticed

pytestmark = pytest.mark.skipif(bool(card.missing()), reason=card.missing() or "g++ is there")

SPEC = card.MERGE

#: Half a unit in the last place of each type, and a little for the sums in float.
ROUNDING = {torch.float16: 2**-11 * 1.01, torch.bfloat16: 2**-8 * 1.01, torch.float32: 2**-20}


def places_of(rows: int, tokens: int, chunks: int, chunk: int, merges: int, one_target: bool) -> torch.Tensor:
    """[rows, tokens]: random even tokens of every chunk merge into random odd ones, as many as `plan.shares` says."""
    before = plan.shares(chunks, merges)
    places = torch.empty(rows, tokens, dtype=torch.int32)
    for row in places:
        into = torch.arange(tokens)
        for i in range(chunks):
            sources = i * chunk + torch.randperm(chunk // 2)[: before[i + 1] - before[i]] * 2
            into[sources] = i * chunk + torch.randint(0, 1 if one_target else chunk // 2, sources.shape) * 2 + 1
        stays = into == torch.arange(tokens)
        row.copy_((stays.cumsum(0) - 1)[into])
    return places


def check(
    operator: Operator,
    batch: int,
    heads: int,
    tokens: int,
    chunks: int,
    chunk: int,
    merges: int,
    width: int,
    dtype: torch.dtype,
    spread: float = 1.0,
    one_target: bool = False,
    chip: Chip | None = None,
) -> None:
    keys, values = ((spread * torch.randn(batch, heads, tokens, width)).to(dtype) for _ in range(2))
    degrees = torch.randint(1, 200, keys.shape[:3]).float()
    places = places_of(batch * heads, tokens, chunks, chunk, merges, one_target).view(batch, heads, tokens)
    got = operator([keys, values, degrees, places], [chunks, chunk, merges], chip)
    for name, rows, out in (("keys", keys, got[0]), ("values", values, got[1])):
        expected = reference.merge_centroids(rows.double(), degrees, places, tokens - merges)
        out = out.double()
        error = ((out - expected).abs() / expected.abs().clamp_min(spread / 2))[out != expected]
        if error.isnan().any() or (error.numel() and float(error.max()) > ROUNDING[dtype]):
            raise Mismatch(f"{name}: off by {float(error.nan_to_num(1e9).max()):.3g}, allowed {ROUNDING[dtype]:.3g}")
    if not torch.equal(got[2], reference.merge_degrees(degrees, places, tokens - merges)):
        raise Mismatch("degrees")


HALF, BF16, FLOAT = torch.float16, torch.bfloat16, torch.float32
SMALL = Chip(132 * 1024)  # just enough for keys of 128 halves in one part
CASES = {
    "half of chunks of 64": functools.partial(
        check, batch=1, heads=2, tokens=128, chunks=2, chunk=64, merges=64, width=128, dtype=HALF, chip=SMALL
    ),
    "few, several texts, a rest": functools.partial(
        check, batch=2, heads=1, tokens=207, chunks=3, chunk=64, merges=16, width=64, dtype=HALF
    ),
    "bfloat16, chunks of 30, a long rest": functools.partial(
        check, batch=1, heads=1, tokens=225, chunks=5, chunk=30, merges=53, width=48, dtype=BF16
    ),
    "float, columns in parts": functools.partial(
        check, batch=1, heads=1, tokens=130, chunks=2, chunk=64, merges=41, width=328, dtype=FLOAT
    ),
    "all into one": functools.partial(
        check, batch=1, heads=1, tokens=33, chunks=2, chunk=16, merges=16, width=32, dtype=FLOAT, one_target=True
    ),
    "chunks as the caches make them": functools.partial(
        check, batch=1, heads=1, tokens=1100, chunks=2, chunk=512, merges=391, width=80, dtype=HALF
    ),
    "the longest chunk": functools.partial(
        check, batch=1, heads=1, tokens=1030, chunks=1, chunk=1024, merges=512, width=24, dtype=FLOAT, one_target=True
    ),
    "small numbers": functools.partial(
        check, batch=1, heads=1, tokens=70, chunks=7, chunk=10, merges=24, width=16, dtype=HALF, spread=0.02
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
    Mutation("copy-in before scalar", "        Order<HardEvent::S_MTE2>();  // all is read: the next may come\n", ""),
    Mutation("no barrier between sums into one place", "if (before == settled) {", "if (false) {"),
    Mutation(
        "a barrier left out",
        "Widen(row, taken, rows * some);\n            Settle();",
        "Widen(row, taken, rows * some);",
    ),
    Mutation(
        "a tile over the one before",
        "            Settle();  // the next tile is widened where this one lies; the means are read below\n",
        "",
    ),
    Mutation(
        "means begun anew in every tile",
        "            ++settled;\n            for",
        "            touched.SetValue(0, 0);\n            for",
    ),
    Mutation("targets of the first tile", "target.GetValue(start + token)", "target.GetValue(token)"),
    Mutation("weights of the first tile", "weight.GetValue(start + token)", "weight.GetValue(token)"),
    Mutation("the first rows again", "in[static_cast<uint64_t>(start) * width]", "in[0]"),
    Mutation("written over the first rows", "out[static_cast<uint64_t>(start) * width]", "out[0]"),
    Mutation(
        "the first means again", "Narrow(narrow, mean[start * some], rows * some)", "Narrow(narrow, mean, rows * some)"
    ),
    Mutation("a whole tile at the end", "rows = Smaller(count - start, tile)", "rows = tile"),
    Mutation("a whole tile out", "rows = Smaller(left - start, tile)", "rows = tile"),
    Mutation("room for a tile of targets", "targets, chunk * sizeof(uint32_t)", "targets, tile * sizeof(uint32_t)"),
    Mutation(
        "rows not queued", "            loaded.EnQue(taken);\n            taken = loaded.template DeQue<T>();\n", ""
    ),
    Mutation(
        "results not queued",
        "            stored.EnQue(narrow);\n            narrow = stored.template DeQue<T>();\n",
        "",
    ),
    Mutation("EnQue left out", "        placesQueue.EnQue(places);\n", ""),
    Mutation("rows not given back", "            loaded.FreeTensor(taken);\n", ""),
    Mutation("results not given back", "            stored.FreeTensor(narrow);\n", ""),
    Mutation("places not given back", "        placesQueue.FreeTensor(places);\n", ""),
    Mutation("room for halves", "means, chunk * columns * sizeof(float)", "means, chunk * columns * sizeof(half)"),
    Mutation(
        "too much unified buffer", "wide, tile * columns * sizeof(float)", "wide, 2 * tile * columns * sizeof(float)"
    ),
    Mutation(
        "a copy of any length",
        "DataCopyPad(mergedDegreesGm[into], total, out)",
        "DataCopy(mergedDegreesGm[into], total, left)",
    ),
    Mutation("past the last chunk", " && item < items;", ";"),
    Mutation("past the last token", "end = Smaller(start + chunk, tokens)", "end = start + chunk"),
    Mutation(
        "stride on the way in",
        "static_cast<uint16_t>(rows), bytes, rest, 0, 0}",
        "static_cast<uint16_t>(rows), bytes, 0, 0, 0}",
    ),
    Mutation(
        "stride on the way out",
        "static_cast<uint16_t>(rows), bytes, 0, rest, 0}",
        "static_cast<uint16_t>(rows), bytes, 0, 0, 0}",
    ),
    Mutation("the last columns as wide as the first", "some = Smaller(width - column, columns)", "some = columns"),
    Mutation("values from the keys", "Merge(valuesGm[from * width + column]", "Merge(keysGm[from * width + column]"),
    Mutation(
        "rescale dropped",
        "mean[place * some], row[token * some], share, some);\n                } else",
        "mean[place * some], row[token * some], 1.0f, some);\n                } else",
    ),
    Mutation("later ones overwrite", "if (before == 0) {", "if (before < 99) {"),
    Mutation("a mean without degrees", "token, degrees.GetValue(token) / total", "token, 1.0f / total"),
    Mutation("degrees not added", "total.GetValue(place) + degrees.GetValue(token)", "total.GetValue(place) + 1.0f"),
    Mutation("shares rounded up", "merges) * part / chunks)", "merges) * part / chunks + (part > 0))"),
    Mutation("the rest stays where it was", "part < chunks ? end - Gone(part + 1) : end - merges", "end - Gone(part)"),
    Mutation(
        "the last token forgotten",
        "for (uint32_t token = 0; token < rows; ++token) {",
        "for (uint32_t token = 0; token + 1 < rows; ++token) {",
    ),
    Mutation(
        "cut for rounded",
        "Cast(dst, src, RoundMode::CAST_RINT, count);",
        "Cast(dst, src, RoundMode::CAST_NONE, count);",
    ),
)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_the_reference_computes(operator: Operator, name: str) -> None:
    torch.manual_seed(len(name))
    CASES[name](operator)


def test_random_shapes(operator: Operator, pick: Callable[[int, int], int]) -> None:
    for _ in range(15):
        chunk, chunks = 2 * pick(1, 90), pick(1, 4)
        dtype = (HALF, BF16, FLOAT)[pick(0, 2)]
        shape = {
            "batch": pick(1, 2),
            "heads": pick(1, 3),
            "width": 16 * pick(1, 16),
            "tokens": chunks * chunk + pick(0, 99),
        }
        merges = pick(0, chunks * chunk // 2)
        check(operator, **shape, chunks=chunks, chunk=chunk, merges=merges, dtype=dtype, chip=Chip(cores=pick(1, 30)))


def test_a_pass_of_soft_matching(operator: Operator) -> None:
    """The places as the package makes them, pass after pass, down to a quarter."""
    torch.manual_seed(3)
    keys, values, degrees = torch.randn(1, 2, 300, 32), torch.randn(1, 2, 300, 32), torch.ones(1, 2, 300)
    passes = plan.merge_plan(300, 75, 64)
    assert len(passes) > 6
    for at in range(0, len(passes), 3):
        chunks, chunk, merges = passes[at : at + 3]
        places = reference.soft_match(keys, torch.randn(1, 2, 32), chunks, chunk, merges)
        kept = keys.shape[2] - merges
        expected = [reference.merge_centroids(x, degrees, places, kept) for x in (keys, values)]
        expected.append(reference.merge_degrees(degrees, places, kept))
        keys, values, degrees = operator([keys, values, degrees, places], [chunks, chunk, merges])
        for got, right in zip((keys, values, degrees), expected, strict=True):
            torch.testing.assert_close(got, right, atol=1e-6, rtol=1e-6)
    assert degrees.sum(-1).tolist() == [[300.0, 300.0]]


def test_who_does_not_merge_leaves_as_it_came(operator: Operator) -> None:
    keys = torch.randn(1, 1, 16, 16).half()
    keys[0, 0, 3] = torch.tensor([float("inf"), -0.0, 6e-8, 65504] * 4)
    places = torch.tensor([0, 0, *range(1, 15)]).int().view(1, 1, 16)
    out, _, degrees = operator([keys, keys, torch.full((1, 1, 16), 3.0), places], [1, 16, 1])
    assert torch.equal(out[0, 0, 1:].view(torch.int16), keys[0, 0, 2:].view(torch.int16))
    assert degrees[0, 0].tolist() == [6.0] + [3.0] * 14


@pytest.mark.parametrize("wild", [-1, 99, 2**31 - 1, -(2**31)])
def test_a_wild_place_stays_inside(operator: Operator, wild: int) -> None:
    """Places lie on the device: nobody has checked them. The result is wrong, the memory is not."""
    places = torch.tensor([0, 0, *range(1, 15)]).int().view(1, 1, 16)
    places[0, 0, 4] = wild
    operator([torch.randn(1, 1, 16, 16), torch.randn(1, 1, 16, 16), torch.ones(1, 1, 16), places], [1, 16, 1])


def test_the_plan_follows_the_card(operator: Operator) -> None:
    def planned(width: int, dtype: torch.dtype, chip: Chip) -> tuple[int, list[int]]:
        keys = torch.zeros(1, 2, 260, width, dtype=dtype)
        cores, _, words = operator.plan(
            [keys, keys, torch.zeros(1, 2, 260), torch.zeros(1, 2, 260).int()], [4, 64, 65], chip
        )
        return cores, words[:9]

    assert planned(128, HALF, Chip(cores=40)) == (10, [2, 260, 128, 4, 64, 65, 128, 64, 5])
    assert planned(128, HALF, Chip(cores=3))[0] == 3
    assert planned(256, HALF, Chip())[1][6] == 128
    assert planned(128, FLOAT, Chip())[1][6] == 64
    assert planned(128, HALF, Chip(256 * 1024))[1][6] == 128
    check(operator, 1, 1, 130, 2, 64, 64, 128, FLOAT, chip=Chip(128 * 1024))
    assert 64 * 1024 < operator.most <= 126 * 1024


def test_what_the_host_refuses(operator: Operator, capfd: pytest.CaptureFixture[str]) -> None:
    for tokens, chunks, chunk, merges, width, words in (
        (100, 2, 64, 4, 16, "more tokens than there are"),
        (2000, 1, 1026, 4, 16, "2, 4, ... 1024 tokens"),
        (200, 1, 15, 4, 16, "2, 4, ... 1024 tokens"),
        (200, 2, 64, 65, 16, "at most half"),
        (200, 2, 64, 4, 20, "32 bytes"),
    ):
        keys, places = torch.zeros(1, 1, tokens, width).half(), torch.zeros(1, 1, tokens).int()
        with pytest.raises(Refused):
            operator([keys, keys, torch.ones(1, 1, tokens), places], [chunks, chunk, merges])
        assert words in capfd.readouterr().err


def test_planted_bugs_are_noticed(tmp_path: Path) -> None:
    assert len(MUTATIONS) >= 25
    assert not unnoticed(SPEC, MUTATIONS, list(CASES.values()), tmp_path)
