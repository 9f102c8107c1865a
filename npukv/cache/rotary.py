"""Keys as they were before their rotary embedding, from the keys and where they stood."""

from __future__ import annotations

from typing import Any

import torch

#: Models that rotate neighbouring numbers as pairs; all others rotate the halves of a head against each other.
INTERLEAVED = {
    "codegen", "cohere", "cohere2", "cohere2_moe", "ernie4_5", "ernie4_5_moe", "glm", "glm4", "glm4_moe", "gptj",
    "helium",
}  # fmt: skip


class Rotary:
    """The rotary embedding of one layer of a model.

    Only angles between keys of one row matter to whoever asks for them, so a constant error of the positions, or of the
    scale (yarn's), changes nothing.

    Args:
        config: a transformers configuration; one without rotary embedding gives keys back as they are.
        layer: the layer's index.
    """

    def __init__(self, config: Any, layer: int) -> None:
        self._config = config = config.get_text_config(decoder=True)
        self._kind: str | None = None  # of layer, for models with an embedding per kind
        parameters = getattr(config, "rope_parameters", None) or {}
        if parameters and all(isinstance(value, dict) for value in parameters.values()):
            self._kind = config.layer_types[layer]
            parameters = parameters.get(self._kind) or {}
        plain = getattr(config, "no_rope_layers", None)
        self._parameters: dict[str, Any] = {} if plain and not plain[layer] else parameters
        self._interleaved = config.model_type in INTERLEAVED
        self._made: dict[tuple[int, torch.device], torch.Tensor] = {}

    def undo(self, keys: torch.Tensor, positions: torch.Tensor, seen: int) -> torch.Tensor:
        """Turn keys back.

        Args:
            keys: [B, H, L, D].
            positions: [L] or [B, H, L], of each key in its row.
            seen: tokens of the row so far; embeddings that change with the length are taken at this one.

        Returns:
            [B, H, L, D], in the type of the keys.
        """
        frequencies = self.frequencies(keys.shape[-1], seen, keys.device)
        if frequencies is None:
            return keys
        turned = 2 * len(frequencies)
        cos, sin = _table(frequencies, positions, keys.dtype)
        out = torch.empty_like(keys)
        if self._interleaved:
            one, other = slice(0, turned, 2), slice(1, turned, 2)
        else:
            one, other = slice(0, turned // 2), slice(turned // 2, turned)
        torch.mul(keys[..., one], cos, out=out[..., one])
        out[..., one].addcmul_(keys[..., other], sin)
        torch.mul(keys[..., other], cos, out=out[..., other])
        out[..., other].addcmul_(keys[..., one], sin, value=-1)
        out[..., turned:] = keys[..., turned:]
        return out

    def halves(self, keys: torch.Tensor, positions: torch.Tensor, seen: int) -> tuple[torch.Tensor, ...]:
        """What an operator needs to turn keys back itself as it reads them; arguments as those of `undo`.

        Returns:
            The keys, and where their halves are turned against each other, cos and sin, [..., L, D / 2]; else the keys
            turned back, alone.
        """
        frequencies = self.frequencies(keys.shape[-1], seen, keys.device)
        if frequencies is None or self._interleaved or 2 * len(frequencies) != keys.shape[-1]:
            return (self.undo(keys, positions, seen),)
        return keys, *_table(frequencies, positions, keys.dtype)

    def frequencies(self, width: int, seen: int, device: torch.device) -> torch.Tensor | None:
        """Radians per position of each pair, float32; None without rotary embedding."""
        if not self._parameters:
            return None
        kind = self._parameters.get("rope_type", "default")
        changing = kind in ("dynamic", "longrope")
        place = (seen if changing else 0, device)
        if place not in self._made:
            if kind == "default":
                share = self._parameters.get("partial_rotary_factor") or 1.0
                turned = int(width * share)
                steps = torch.arange(0, turned, 2, dtype=torch.float32, device=device) / turned
                found = 1.0 / self._parameters["rope_theta"] ** steps
            else:
                from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

                named = {} if self._kind is None else {"layer_type": self._kind}
                length = {"seq_len": max(seen, self._config.max_position_embeddings)} if changing else {}
                found, _ = ROPE_INIT_FUNCTIONS[kind](self._config, device, **length, **named)
            self._made = {place: found}
        return self._made[place]


def _table(frequencies: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the angles at positions, rounded as the model itself rounds them."""
    angles = positions[..., None].float() * frequencies
    return angles.cos().to(dtype), angles.sin().to(dtype)
