"""Caches by name: what is refused, what is made, and how their size is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from npukv.cache.named import CacheChoice, figures, parse_amount, report_of
from npukv.errors import InputError


@pytest.mark.parametrize(("text", "amount"), [("0.25", 0.25), ("1.0", 1.0), ("2048", 2048), (".5", 0.5)])
def test_amounts(text: str, amount: float) -> None:
    found = parse_amount(text)
    assert found == amount and type(found) is type(amount)


@pytest.mark.parametrize("text", ["", "a", "25%", "-", "0.2.5"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(InputError, match=r"expected a share such as 0\.25"):
        parse_amount(text)


@pytest.mark.parametrize(
    ("name", "amount", "message"),
    [
        ("small", None, "expected one of: full, clustered, hashed"),
        ("full", 0.5, "leave it out"),
        ("clustered", 1.5, "at most 1"),
        ("clustered", 0.0, "more than 0"),
        ("clustered", float("nan"), "more than 0"),
        ("hashed", 0, "at least 1"),
    ],
)
def test_choices_that_make_no_sense(name: str, amount: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CacheChoice(name, amount)


def test_size_of_a_full_cache(llama: Any) -> None:
    ids = torch.arange(20, 60)[None]
    config = llama.model.config
    size = config.num_hidden_layers * 2 * config.num_key_value_heads * 40 * config.head_dim * 4
    for cache in (DynamicCache(config=config), CacheChoice("full").make(llama, 40)):
        assert set(figures(report_of(cache)).values()) == {0}
        with torch.no_grad():
            llama.model(ids, past_key_values=cache)
        assert list(figures(report_of(cache)).values()) == [40, 40, 40, size, size]


def test_attended_keys(llama: Any) -> None:
    cache = CacheChoice("hashed", 30).make(llama, 40)
    with torch.no_grad():
        llama.model(torch.arange(20, 60)[None], past_key_values=cache)
    found = figures(report_of(cache))
    assert (found["physical_tokens"], found["attended_tokens"]) == (40, 30)
    assert found["physical_bytes"] > found["logical_bytes"]  # the codes
