"""Blocks of keys straight from codes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npukv.ops.hashing import hamming_blocks
from npukv.ops.hashing.reference import BLOCK


def codes(*shape: int, seed: int) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**31), 2**31 - 1, shape, generator=made, dtype=torch.int32)


@settings(max_examples=20)
@given(data=st.data())
def test_the_nearest_blocks_are_selected(data: st.DataObject) -> None:
    """By bits counted one at a time in Python."""
    keys, words = data.draw(st.integers(1, 700)), data.draw(st.sampled_from([1, 4]))
    length = data.draw(st.integers(1, keys))
    query, held = codes(1, 2, 1, words, seed=keys), codes(1, 1, keys, words, seed=length)
    wanted = data.draw(st.integers(2, 5))
    got = hamming_blocks(query, held, torch.tensor([length], dtype=torch.int32), wanted, 1, 1)[0, 0].tolist()
    asked, stored = (x.reshape(-1, words).tolist() for x in (query, held[:, :, :length]))
    scores = [
        sum(bin((a ^ b) & 0xFFFFFFFF).count("1") for one in asked for a, b in zip(one, key, strict=True))
        for key in stored
    ]
    lowest = [min(scores[start : start + BLOCK]) for start in range(0, length, BLOCK)]
    last = len(lowest) - 1
    order = sorted(range(len(lowest)), key=lambda i: (i not in (0, last), lowest[i], -i))
    expected = sorted(order[:wanted])
    assert got == expected + [-1] * (wanted - len(expected))


@pytest.mark.parametrize("group", [1, 3])
def test_opcheck(group: int) -> None:
    length = torch.tensor([300, 17], dtype=torch.int32)
    arguments = (codes(2, 2 * group, 1, 4, seed=1), codes(2, 2, 300, 4, seed=2), length, 3, 1, 1)
    torch.library.opcheck(hamming_blocks.overload, arguments)
