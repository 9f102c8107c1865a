"""Learned codes of a hashed cache: kept, used, and refused where they are another model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from npukv import attention
from npukv.cache.hash_weights import HashWeights, identity
from npukv.cache.hashed import HashedCache
from npukv.errors import InputError
from npukv.ops.hashing import hash_encode


def learned(llama: Any) -> HashWeights:
    return HashWeights(64, 3, {1: torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(1))})


def test_learned_weights_are_kept_and_used(llama: Any, tmp_path: Path) -> None:
    weights = learned(llama)
    weights.save(tmp_path / "codes.safetensors", llama.model.config, {"method": "test"})
    cache = HashedCache(llama.model.config, 24, weights=tmp_path / "codes.safetensors", dense_layers=0)
    ids = torch.randint(2, len(llama.tokenizer), (1, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        llama.model(ids, past_key_values=cache)
    layer = cache.layers[1]
    keys = layer.keys[:, :, :60]
    projected = keys @ weights.learned[1]
    clear = (projected.abs() > 1e-2).all(-1)  # float16 may turn the sign of what is close to 0
    assert clear.float().mean() > 0.3
    assert torch.equal(layer.codes[:, :, :60][clear], hash_encode(keys, weights.learned[1])[clear])
    assert cache.weights.seed == 3
    assert torch.equal(cache.layers[0].weights, HashWeights(64, 3).layer(0, 2, 16))  # not learned: random


def test_weights_of_another_model_are_refused(llama: Any, save_model: Any, tmp_path: Path) -> None:
    import npukv

    path = tmp_path / "codes.safetensors"
    learned(llama).save(path, llama.model.config, {})
    other = npukv.load(save_model("llama", seed=9), device="cpu", dtype="float32")
    with pytest.raises(InputError, match="learned from another model \\(its checkpoint differ"):
        HashedCache(other.model.config, weights=path)
    wider = npukv.load(save_model("llama", intermediate_size=80), device="cpu", dtype="float32")
    with pytest.raises(InputError, match="its shape, checkpoint differ"):
        HashedCache(wider.model.config, weights=path)
    half = npukv.load(llama.name, device="cpu", dtype="bfloat16")
    assert HashedCache(half.model.config, weights=path).weights.bits == 64


def test_other_files_are_refused(llama: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="has format None"):
        HashedCache(llama.model.config, weights=tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="not a safetensors file"):
        HashedCache(llama.model.config, weights=tmp_path / "y.safetensors")


def test_a_model_is_itself_whatever_attention_it_uses(llama: Any) -> None:
    config = llama.model.config
    before = identity(config)
    attention.register()
    HashedCache(config)
    assert identity(config) == before
    assert before["checkpoint"]


def test_codes_may_lie_beside_the_model(llama: Any, save_model: Any) -> None:
    import npukv

    folder = save_model("llama", seed=2)
    lm = npukv.load(folder, device="cpu", dtype="float32")
    learned(llama).save(folder / "codes.safetensors", lm.model.config, {})
    assert HashedCache(lm.model.config, weights=folder / "codes.safetensors").weights.bits == 64
