from __future__ import annotations

from typing import Any

import pytest

from npukv.evaluation.material import Material


@pytest.fixture(scope="session")
def material(bible: str, tokenizer: Any) -> Material:
    return Material(bible, tokenizer)
