"""Lets the tests of this folder import their helpers as `tests.ascendc.*`; what those of both operators start with."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)


@pytest.fixture(scope="module")
def operator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The operator that the file's SPEC names, built."""
    from tests.ascendc import card

    spec = request.module.SPEC
    return card.build(tmp_path_factory.mktemp(spec.name), spec)[0]


@pytest.fixture
def pick() -> Callable[[int, int], int]:
    """pick(low, high): a whole number, both ends included."""
    generator = torch.Generator().manual_seed(4)
    return lambda low, high: int(torch.randint(low, high + 1, (1,), generator=generator))
