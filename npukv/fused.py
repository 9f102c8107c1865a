"""The decode step of Llama-like models in seven launches per block, over the model's own weights.

A block's modules cost some 25 small launches beside its matrix products; even in a captured graph they take as long as
a third of the bytes at 32K context. Here the norms, the rotation, the gate and the residuals are done by the launches
that move the weights. The model is read, never changed.
"""

from __future__ import annotations

from typing import Any

import torch

from npukv.cache.clustered_layer import ClusteredLayer
from npukv.cache.layer import AttendingLayer
from npukv.cache.preallocated import PreallocatedLayer
from npukv.ops.decode import gated, project, rotate_append

#: Models whose blocks are: RMSNorm, attention with rotated halves, RMSNorm, SwiGLU, each onto the residual.
MODELS = ("llama", "mistral", "qwen2", "qwen3")

#: Sequences decoded together; more are worth the matrix library.
MOST_ROWS = 16


def serves(network: Any, cache: Any, rows: int) -> tuple[bool, str]:
    """Whether `logits` computes what the model's own forward does and is the faster way, and why (not)."""
    config = network.config
    if config.model_type not in MODELS:
        return False, f"{config.model_type} is not one of {', '.join(MODELS)}"
    if type(network).__module__ != f"transformers.models.{config.model_type}.modeling_{config.model_type}":
        return False, f"{type(network).__name__} is not transformers' own"
    if rows > MOST_ROWS:
        return False, f"{rows} rows are worth the matrix library, up to {MOST_ROWS} are not"
    if config.hidden_act != "silu":
        return False, f"its gate is {config.hidden_act}, not silu"
    if network.device.type == "cpu":
        return False, "launches cost nothing on the CPU"
    weights = {(weight.dtype, weight.device) for weight in network.parameters()}
    if len(weights) != 1:
        return False, "its weights are of several types or on several devices"
    for name, module in network.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return False, f"{name} has hooks"
        if name.endswith("_proj") and type(module) is not torch.nn.Linear:
            return False, f"{name} is a {type(module).__name__}, not a plain linear layer"
    for block in network.model.layers:
        if any(layer.bias is not None for layer in (block.mlp.gate_proj, block.mlp.up_proj)):
            return False, "its gate has biases"
    if not all(isinstance(layer, AttendingLayer) for layer in cache.layers):
        return False, "the cache's layers do not attend by themselves"
    return True, "blocks of norm, rotated attention, norm and SwiGLU"


def logits(network: Any, cache: Any, token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """One frozen step: token and position [B, 1] -> logits [B, V]."""
    model = network.model
    x = model.embed_tokens(token)[:, 0]  # [B, E]
    cos, sin = (turn[:, 0].contiguous() for turn in model.rotary_emb(x, position))  # [B, D]
    for block, layer in zip(model.layers, cache.layers, strict=True):
        x = _block(block, layer, x, cos, sin)
    head = network.lm_head
    return project(
        x, [head.weight], [] if head.bias is None else [head.bias], model.norm.weight, model.norm.variance_epsilon
    )


def _block(block: Any, layer: AttendingLayer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x: [B, E], before and after."""
    attention, norm, mlp = block.self_attn, block.input_layernorm, block.mlp
    linears = (attention.q_proj, attention.k_proj, attention.v_proj)
    biases = [linear.bias for linear in linears if linear.bias is not None]
    projected = project(x, [linear.weight for linear in linears], biases, norm.weight, norm.variance_epsilon)
    rotation: tuple[Any, ...] = ()
    if hasattr(attention, "q_norm"):
        rotation = (attention.q_norm.weight, attention.k_norm.weight, attention.q_norm.variance_epsilon)
    if isinstance(layer, PreallocatedLayer | ClusteredLayer):
        keys, values, slot = layer.slots()
        query = rotate_append(projected, cos, sin, keys, values, slot, *rotation)
    else:
        kv_heads = attention.k_proj.out_features // attention.head_dim
        keys, values = projected.new_empty(2, x.shape[0], kv_heads, 1, attention.head_dim)
        slot = torch.zeros(x.shape[0], dtype=torch.int32, device=x.device)
        query = rotate_append(projected, cos, sin, keys, values, slot, *rotation)
        layer.update(keys, values)
    attended = layer.attend(query, attention.scaling, None).reshape(x.shape[0], -1)
    output = attention.o_proj
    x = project(attended, [output.weight], [] if output.bias is None else [output.bias], residual=x)
    norm = block.post_attention_layernorm
    hidden = gated(x, mlp.gate_proj.weight, mlp.up_proj.weight, norm.weight, norm.variance_epsilon)
    down = mlp.down_proj
    return project(hidden, [down.weight], [] if down.bias is None else [down.bias], residual=x)
