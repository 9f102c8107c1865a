"""The one attention function npukv registers with transformers."""

from __future__ import annotations

from typing import Any

import torch

from npukv.errors import ModelError
from npukv.ops.attention import causal_attention

NAME = "npukv"


def register() -> None:
    """Make `NAME` known to transformers, with the mask function that goes with it. Calling again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask)


def supports(config: Any) -> tuple[bool, str]:
    """Whether a model's attention is the plain softmax that `attend` computes, and why (not)."""
    config = config.get_text_config()
    for name in ("attn_logit_softcapping", "attention_sinks"):
        if getattr(config, name, None):
            return False, f"the model's attention has {name}"
    if config.model_type in {"gpt_oss", "t5", "mt5", "bloom", "falcon", "mpt"}:
        return False, f"{config.model_type} changes the scores inside its attention"
    return True, "plain causal softmax attention"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention contract: query [B, Hq, S, D]; key, value [B, Hkv, L, D]; returns [B, S, Hq, D].

    No mask means bottom-right causal, for any S <= L. A mask [B, L] is boolean, True where a key is no padding, and
    causal as well; a mask [B, 1, S, L] is boolean, True where to attend.

    Keys that come from an `npukv.cache.layer.AttendingLayer` carry it: then the layer attends over what it holds.
    """
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ModelError(
                f"this model's attention uses {name}, expected plain softmax attention: set its attention back to "
                "transformers' own with model.set_attn_implementation('eager')"
            )
    layer = getattr(key, "npukv_layer", None)
    if layer is not None:
        out = layer.attend(query, scaling, attention_mask)
    elif attention_mask is None:
        out = causal_attention(query, key, value, scaling)
    else:
        group = query.shape[1] // key.shape[1]
        out = torch.nn.functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(group, dim=1),
            value.repeat_interleave(group, dim=1),
            attn_mask=_queries_by_keys(attention_mask, query.shape[2]) if attention_mask.dim() == 2 else attention_mask,
            scale=scaling,
        )
    return out.transpose(1, 2).contiguous(), None


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor | None:
    """None where attention is plain causal without padding, [B, L] where it is causal and rows are padded on the left,
    else transformers' own mask [B, 1, S, L]. The L of [B, L] counts all tokens seen, also those no longer held.

    A mask of queries by keys costs S x L booleans, 8 GB for a chunk of 8K over 1M keys: made only where it must be.
    """
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    aligned = kv_offset + kv_length == q_offset + q_length  # the last query is the last key
    if mask_function is causal_mask_function and aligned:
        if attention_mask is None or bool(attention_mask.all()):
            return None
        tokens = attention_mask[:, : kv_offset + kv_length].bool()
        if tokens.shape[1] == kv_offset + kv_length and bool((tokens[:, :-1] <= tokens[:, 1:]).all()):
            return tokens
    # what None means to transformers' own attention functions, it does not mean to `attend`
    kwargs["allow_is_causal_skip"] = kwargs["allow_is_bidirectional_skip"] = False
    return sdpa_mask(
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask=attention_mask, **kwargs
    )


def _queries_by_keys(tokens: torch.Tensor, queries: int) -> torch.Tensor:
    """The mask [B, 1, S, L] that "causal, and these keys are tokens" stands for; the layers of one pass share it."""
    made = getattr(tokens, "npukv_made", None)
    if made is None:
        keys = tokens.shape[1]
        causal = torch.ones(queries, keys, dtype=torch.bool, device=tokens.device).tril(keys - queries)
        made = tokens.npukv_made = causal & tokens[:, None, None, :]  # type: ignore[attr-defined]
    return made
