"""Rung 5: HammingBlocks against the package's reference, by rules that a card has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from npukv.ops.hashing import reference
from tests.ascendc import card
from tests.ascendc.card import Chip, Operator, Refused, RuleBroken
from tests.ascendc.mutation import Mismatch, Mutation, unnoticed

pytestmark = pytest.mark.skipif(bool(card.missing()), reason=card.missing() or "g++ is there")

SPEC = card.HAMMING


def random_codes(*shape: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32)


def check(
    operator: Operator,
    batch: int,
    kv_heads: int,
    group: int,
    capacity: int,
    words: int,
    selection: tuple[int, int, int],
    length: list[int] | None = None,
    near: float = 0.0,
    near_at: slice | None = None,
    chip: Chip | None = None,
) -> None:
    """One run on random codes (of which some are near the query's: close scores, ties) against the reference."""
    query, keys = random_codes(batch, kv_heads * group, 1, words), random_codes(batch, kv_heads, capacity, words)
    close = torch.rand(batch, kv_heads, capacity) < near
    if near_at is not None:
        close[:, :, near_at] = True
    keys[close] = query.view(batch, kv_heads, group, words)[:, :, :1].expand_as(keys)[close] ^ 5
    held = torch.randint(1, capacity + 1, (batch,)) if length is None else torch.tensor(length)
    held = held.to(torch.int32)
    (got,) = operator([query, keys, held], list(selection), chip)
    valid = held.clamp(0, capacity)
    expected = reference.select_blocks(reference.hamming_scores(query, keys, valid), valid, *selection)
    if not torch.equal(got, expected):
        raise Mismatch(f"{int((got != expected).sum())} of {got.numel()} numbers differ")


CASES = {
    "one head, a tail": functools.partial(
        check, batch=1, kv_heads=1, group=1, capacity=1000, words=4, selection=(3, 1, 1)
    ),
    "batch, groups": functools.partial(
        check, batch=2, kv_heads=2, group=4, capacity=1500, words=4, selection=(6, 1, 2)
    ),
    "64 bits, nothing forced": functools.partial(
        check, batch=2, kv_heads=1, group=8, capacity=2500, words=2, selection=(5, 0, 0)
    ),
    "more wanted than there are": functools.partial(
        check, batch=1, kv_heads=1, group=2, capacity=700, words=1, selection=(70, 1, 1)
    ),
    "ties": functools.partial(
        check, batch=1, kv_heads=2, group=1, capacity=2400, words=4, selection=(7, 1, 1), length=[2304], near=0.01
    ),
    "all alike": functools.partial(
        check, batch=1, kv_heads=1, group=1, capacity=1300, words=4, selection=(4, 1, 1), length=[1281], near=1.0
    ),
    "lengths at the edges": functools.partial(
        check, batch=4, kv_heads=1, group=1, capacity=1024, words=4, selection=(4, 1, 2), length=[1, 128, 129, 1024]
    ),
    "empty, too long, negative": functools.partial(
        check, batch=3, kv_heads=1, group=1, capacity=300, words=4, selection=(2, 1, 1), length=[0, -5, 377]
    ),
    "the last token counts": functools.partial(
        check,
        batch=1,
        kv_heads=1,
        group=1,
        capacity=1300,
        words=4,
        selection=(1, 0, 0),
        length=[1281],
        near_at=slice(1280, 1281),
    ),
    "what lay after the last does not": functools.partial(
        check,
        batch=1,
        kv_heads=1,
        group=1,
        capacity=1300,
        words=4,
        selection=(1, 0, 0),
        length=[1281],
        near_at=slice(1281, None),
    ),
    "what an earlier tile left does not": functools.partial(
        check,
        batch=1,
        kv_heads=1,
        group=1,
        capacity=2300,
        words=4,
        selection=(1, 0, 0),
        length=[2050],
        near_at=slice(2, None, 1024),
        chip=Chip(cores=1),
    ),
    "one core for several rows": functools.partial(
        check, batch=2, kv_heads=3, group=2, capacity=1500, words=4, selection=(3, 0, 0), chip=Chip(cores=1)
    ),
    "a small card": functools.partial(
        check, batch=1, kv_heads=1, group=1, capacity=30000, words=1, selection=(9, 1, 4), chip=Chip(37 * 1024)
    ),
    "256 bits, odd group": functools.partial(
        check, batch=1, kv_heads=2, group=3, capacity=3000, words=8, selection=(9, 1, 4), length=[2790]
    ),
    "only forced blocks": functools.partial(
        check, batch=1, kv_heads=1, group=1, capacity=1400, words=4, selection=(5, 2, 3), length=[1400]
    ),
}

QUEUE = "minima = minimaQueue.DeQue<float>();\n            DataCopy"
MUTATIONS = (
    Mutation(
        "a copy of any length",
        "DataCopyPad(codes, keysGm[first], shape, {false, 0, 0, 0})",
        "DataCopy(codes, keysGm[first], tokens * words * 2)",
    ),
    Mutation("EnQue left out", "        codesQueue.EnQue(codes);\n", ""),
    Mutation("FreeTensor of codes left out", "        codesQueue.FreeTensor(codes);\n", ""),
    Mutation("FreeTensor of minima left out", "            minimaQueue.FreeTensor(minima);\n", ""),
    Mutation(
        "minima not queued",
        "            minimaQueue.EnQue(minima);\n            minima = minimaQueue.DeQue<float>();\n",
        "",
    ),
    Mutation("too much unified buffer", "scratch, 3 * count", "scratch, 10 * count"),
    Mutation("unified buffer not given back", "    pipe.Reset();\n", ""),
    Mutation("cores do not wait", "    SyncAll();  // every row's minima are written\n", ""),
    Mutation("pipes do not wait", "    PipeBarrier<PIPE_ALL>();\n", ""),
    Mutation(
        "scalar before vector",
        "        Order<HardEvent::V_S>();\n        const uint32_t sum",
        "        const uint32_t sum",
    ),
    Mutation(
        "vector before scalar",
        "        Order<HardEvent::S_V>();\n    }\n\n    __aicore__ inline void LoadCodes",
        "    }\n\n    __aicore__ inline void LoadCodes",
    ),
    Mutation(
        "a barrier left out",
        "ShiftRight(part, x, shift, count);\n            Settle();",
        "ShiftRight(part, x, shift, count);",
    ),
    Mutation(
        "part of a scratch area too small",
        "scratch.Get<uint16_t>()[2 * count];\n",
        "scratch.Get<uint16_t>()[2 * count + 16];\n",
    ),
    Mutation(
        "an address that is not aligned",
        "LocalTensor<float> from = scratch.Get<float>(), to = scratch.Get<float>()[count];",
        "LocalTensor<float> from = scratch.Get<float>(), to = scratch.Get<float>()[count + 4];",
    ),
    Mutation(
        "loads past the tail", "LoadCodes(row, start, Smaller(held - start, tile));", "LoadCodes(row, start, tile);"
    ),
    Mutation(
        "length not bounded",
        "length < 0 ? 0 : Smaller(static_cast<uint32_t>(length), capacity)",
        "length < 0 ? 0 : static_cast<uint32_t>(length)",
    ),
    Mutation("tail not masked", "if (valid < tile) {", "if (valid > tile) {"),
    Mutation("tail masked one early", "1.0f - static_cast<float>(valid)", "2.0f - static_cast<float>(valid)"),
    Mutation("tail masked one late", "1.0f - static_cast<float>(valid)", "0.0f - static_cast<float>(valid)"),
    Mutation("a bit in four not counted", "shift < 4;", "shift < 3;"),
    Mutation("a plane's weight", "-(2 << p)", "-(1 << p)"),
    Mutation(
        "the group forgotten",
        "AddCounts(codes, static_cast<int16_t>(group))",
        "AddCounts(codes, static_cast<int16_t>(1))",
    ),
    Mutation("query of the row before", "if (row != known) LoadQuery(row);", "if (known == rows) LoadQuery(row);"),
    Mutation("heads of another row", "(row * group + head) * words", "(row + head * rows) * words"),
    Mutation("other heads' carry", "carry = both;", "carry = 0;"),
    Mutation("half of a block", "Min(to, from, from[FLOATS], FLOATS", "Min(to, from, from, FLOATS"),
    Mutation("first of equal blocks", "if (Sum(step) >= wanted - below) {", "if (Sum(step) > wanted - below) {"),
    Mutation("recent blocks one late", "1.0f - static_cast<float>(late)", "0.0f - static_cast<float>(late)"),
    Mutation(
        "sink blocks forgotten",
        "Step(weight, place, -1.0f, static_cast<float>(sink), padded);",
        "Step(weight, place, -1.0f, 0.0f, padded);",
    ),
    Mutation(
        "forced beyond the end",
        "Step(step, place, -1.0f, static_cast<float>(held), padded);",
        "Step(step, place, -1.0f, static_cast<float>(padded), padded);",
    ),
    Mutation(
        "no -1 after the last",
        "Step(weight, place[done], -1.0f, static_cast<float>(wanted), length);",
        "Step(weight, place[done], -1.0f, static_cast<float>(blocks), length);",
    ),
)


@pytest.mark.parametrize("name", CASES)
def test_it_selects_what_the_reference_selects(operator: Operator, name: str) -> None:
    torch.manual_seed(len(name))
    CASES[name](operator)


def test_random_shapes(operator: Operator, pick: Callable[[int, int], int]) -> None:
    for _ in range(12):
        sink, recent = pick(0, 2), pick(0, 3)
        selection = (max(1, sink + recent + pick(0, 6)), sink, recent)
        shape = {"batch": pick(1, 2), "kv_heads": pick(1, 3), "group": pick(1, 9), "capacity": pick(1, 2600)}
        chip = Chip(cores=pick(1, 9))
        check(operator, **shape, words=2 ** pick(0, 3), selection=selection, near=0.003, chip=chip)


def test_the_plan_follows_the_card(operator: Operator) -> None:
    """Tiles fill the unified buffer that there is; what the kernel takes is what the plan foresaw, never more."""

    def tensors(capacity: int, words: int) -> list[torch.Tensor]:
        return [random_codes(1, 2, 1, words), random_codes(1, 2, capacity, words), torch.tensor([capacity]).int()]

    tile = {}
    for size in (128, 192, 256):
        _, workspace, words = operator.plan(tensors(20000, 4), [16, 1, 4], Chip(size * 1024))
        tile[size] = words[8]
        assert workspace == 2 * words[11] * 4
        assert words[11] % 64 == 0 and words[11] * 128 == words[10] * words[8] >= 20000
    assert tile == {128: 1024, 192: 1024, 256: 2048}
    check(operator, 1, 1, 2, 5000, 4, (6, 1, 1), chip=Chip(256 * 1024, cores=3))
    assert 192 * 1024 < operator.most <= 254 * 1024
    check(operator, 1, 1, 2, 5000, 8, (6, 1, 1), chip=Chip(192 * 1024, cores=48))
    assert operator.most <= 190 * 1024
    cores, _, _ = operator.plan(tensors(900, 4), [16, 1, 4], Chip(cores=40))
    assert cores == 16  # two rows of 64 blocks at least, in tiles of 8
    assert operator.plan(tensors(900, 4), [16, 1, 4], Chip(cores=3))[0] == 3


def test_what_the_host_refuses(operator: Operator, capfd: pytest.CaptureFixture[str]) -> None:
    length = torch.tensor([256], dtype=torch.int32)
    good = [random_codes(1, 4, 1, 4), random_codes(1, 2, 256, 4), length]
    for tensors, selection, chip, words in (
        ([random_codes(1, 3, 1, 4), *good[1:]], [2, 1, 1], Chip(), "multiple of the KV heads"),
        ([random_codes(1, 4, 1, 3), random_codes(1, 2, 256, 3), length], [2, 1, 1], Chip(), "32, 64, 128 or 256 bits"),
        ([random_codes(1, 128, 1, 4), *good[1:]], [2, 1, 1], Chip(), "at most 63"),
        (good, [2, 1, 2], Chip(), "sink and recent"),
        (good, [0, 0, 0], Chip(), "sink and recent"),
        (good, [2, 1, 1], Chip(32 * 1024), "too small for a tile"),
        (good, [40000, 1, 1], Chip(), "split the sequence"),
    ):
        with pytest.raises(Refused):
            operator(tensors, selection, chip)
        assert words in capfd.readouterr().err
    assert torch.equal(operator(good, [2, 1, 1])[0], torch.tensor([0, 1]).int().expand(1, 2, 2))


def test_planted_bugs_are_noticed(tmp_path: Path) -> None:
    assert len(MUTATIONS) >= 30
    assert not unnoticed(SPEC, MUTATIONS, list(CASES.values()), tmp_path)


def test_a_wild_length_stays_inside(operator: Operator) -> None:
    """The length lies on the device: nobody has checked it."""
    for length in (2**31 - 1, -(2**31)):
        try:
            check(operator, 1, 1, 1, 200, 4, (2, 1, 1), length=[length])
        except RuleBroken as broken:
            pytest.fail(str(broken))
