"""The bundled model's weights in training: float32, in files small enough to be carried about."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

SHARD_BYTES = 15 * 2**20
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
ADDS = "self_attn.o_proj.weight", "mlp.down_proj.weight"  # what a layer adds to the stream goes through these


def save_shards(model: LlamaForCausalLM, folder: Path) -> None:
    """Float32 weights in files of at most SHARD_BYTES."""
    folder.mkdir(parents=True, exist_ok=True)
    shard: dict[str, torch.Tensor] = {}
    shards = [shard]
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied to the embedding
            continue
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > SHARD_BYTES:
            shard = {}
            shards.append(shard)
        shard[name] = tensor.detach().float().cpu().contiguous()
    for number, part in enumerate(shards):
        temporary = folder / f"weights-{number}.part"
        save_file(part, temporary)
        os.replace(temporary, folder / f"weights-{number}.safetensors")


def load_shards(model: LlamaForCausalLM, folder: Path) -> None:
    """The folder's weights, of as many layers as the model has or of fewer (``grow``)."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        sys.exit(f"no *.safetensors in {folder}: name the folder of an earlier call's shards, or of a model")
    weights: dict[str, torch.Tensor] = {}
    for path in paths:
        weights.update(load_file(path))
    weights = grow(weights, model.config.num_hidden_layers)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        sys.exit(f"the shards in {folder} do not fit the model: missing {missing}, unexpected {unexpected}")
    model.tie_weights()


def grow(weights: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """The weights, by name, of a model of more ``layers`` that computes the same; ends the program where they are
    more than twice as many.

    New layers stand evenly among the old: copies of the ones before them that add nothing yet. Source: block
    expansion, LLaMA Pro (arXiv 2401.02415).
    """
    had = len({found[1] for name in weights if (found := LAYER.match(name))})
    if had == 0 or had >= layers:  # load_state_dict says what is wrong with none, or more
        return weights
    added = layers - had
    after = {-(-(i + 1) * had // (added + 1)) - 1 for i in range(added)}
    if len(after) < added:
        sys.exit(f"{had} layers grow to {2 * had} at most at a time, not to {layers}")
    grown: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        found = LAYER.match(name)
        if not found:
            grown[name] = tensor
            continue
        old, part = int(found[1]), found[2]
        place = old + sum(layer < old for layer in after)
        grown[f"model.layers.{place}.{part}"] = tensor
        if old in after:
            grown[f"model.layers.{place + 1}.{part}"] = torch.zeros_like(tensor) if part in ADDS else tensor.clone()
    return grown
