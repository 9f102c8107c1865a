"""Layers that find single tokens far back are told from those that do not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import npukv
from npukv.cache import profile
from npukv.errors import InputError


def finder(which: int) -> Any:
    """A model of two layers, one of which looks for the key that equals its query: the token's earlier place."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **{"vocab_size": 512, "hidden_size": 64, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 64},
        **{"num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 512},
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_()
        for index, layer in enumerate(model.model.layers):
            for weight in (*layer.self_attn.parameters(), *layer.mlp.parameters()):
                weight.zero_()
            if index == which:
                same = torch.zeros(64)
                same[24:32] = same[56:64] = 3.0  # the slowly turning numbers: they forget the distance
                layer.self_attn.q_proj.weight.copy_(torch.diag(same))
                layer.self_attn.k_proj.weight.copy_(torch.diag(same))
    return model


@pytest.mark.parametrize("which", [0, 1])
def test_the_layer_that_finds_needs_most(which: int) -> None:
    model = finder(which)
    before = model.config._attn_implementation
    needs = profile.layer_needs(model)
    assert needs[which] > 0.2
    assert needs[1 - which] < 0.01
    assert model.config._attn_implementation == before
    shares = profile.layer_shares(model, 0.25)
    assert shares[which] == pytest.approx(0.375, abs=1e-6)
    assert shares[1 - which] == pytest.approx(0.125, abs=1e-6)
    npukv.ClusteredCache(model.config, keep=shares)


def test_layers_that_slide_need_nothing(load_tiny: Callable[[str], Any]) -> None:
    with pytest.raises(InputError, match="expected more than 0"):
        profile.layer_shares(load_tiny("llama").model, 0.0)
    assert len(profile.layer_needs(load_tiny("llama").model)) == 2


@given(needs=st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=8), keep=st.floats(0.01, 1.0))
def test_shares_are_keep_on_average(needs: list[float], keep: float) -> None:
    shares = profile.spread(needs, keep)
    assert sum(shares) / len(shares) == pytest.approx(keep, abs=1e-4)
    assert all(0.5 * keep - 1e-9 <= share <= 1 for share in shares)
    ordered = sorted(zip(needs, shares, strict=True))
    assert all(one[1] <= other[1] + 1e-9 for one, other in pairwise(ordered))


def test_a_text_too_short_to_watch(load_tiny: Callable[[str], Any]) -> None:
    with pytest.raises(InputError, match="at least 256"):
        profile.layer_needs(load_tiny("llama").model, tokens=100)
