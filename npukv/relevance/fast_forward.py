"""Reading batches of equal shape at the rate of their matrix products: fused, compiled decoder blocks.

The layers of a Llama-like model are run from its own weights: query, key and value projections as one product, gate
and up as one, and everything between two attentions as one compiled function, compiled once and used for all layers.
No logits but the needed ones; in the last layer, queries, projections and MLP at the needed positions alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention, silu

from npukv.errors import InputError, ModelError
from npukv.language_model import LanguageModel
from npukv.ops.attention import causal_attention
from npukv.relevance.eight_bit import Weight, linear, quantise_weight, usable
from npukv.relevance.experts import Experts, experts_of, mixture

FORWARDS = ("auto", "plain", "fused", "8bit")
#: Multiplications and additions from which on compiling is worth its half minute.
WORTHWHILE = 1e16
#: Model types whose decoder layers are what `_leave` and `_enter` compute; other checks are by structure.
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe")

_log = logging.getLogger("npukv")


def supports(model: Any) -> tuple[bool, str]:
    """Whether the fused layers compute what the model's own do, and why (not)."""
    config = model.config
    if config.model_type not in MODEL_TYPES:
        return False, f"{config.model_type} is none of {', '.join(MODEL_TYPES)}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return False, "its attention has a sliding window"
    if config.hidden_act != "silu":
        return False, f"its activation is {config.hidden_act}, not silu"
    for mlp in (layer.mlp for layer in model.model.layers):
        if experts_of(mlp) is not None:
            continue
        if any(getattr(mlp, name).bias is not None for name in ("gate_proj", "up_proj", "down_proj")):
            return False, "its MLP has biases"
    return True, "Llama-like decoder layers"


class Layer(NamedTuple):
    """One decoder layer's weights; `None` where the model has none."""

    norm: torch.Tensor
    qkv: Weight
    qkv_bias: torch.Tensor | None
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    out: Weight
    out_bias: torch.Tensor | None
    after_norm: torch.Tensor
    mlp: tuple[Weight, Weight] | Experts  # gate and up as one, and down


class Shape(NamedTuple):
    """What all layers share: heads, KV heads, width of a head, epsilon of the norms."""

    heads: int
    kv_heads: int
    width: int
    epsilon: float


class FastForward:
    """A forward pass for batches of one shape; called as `measure_batch` calls the model.

    Args:
        lm: a model that `supports` accepts.
        eight_bit: 8-bit matrix products in all layers but for the head and the experts' router; a torch dtype, or True
            for the device's fastest.
        compiled: compile the blocks; if the compiler fails, they run as they are, and a warning says so.

    Raises:
        ModelError: the model is not supported; DeviceError: no 8-bit products on this device.
    """

    def __init__(self, lm: LanguageModel, eight_bit: bool | torch.dtype = False, compiled: bool = True) -> None:
        ok, reason = supports(lm.model)
        if not ok:
            raise ModelError(
                f"{lm.name}: cannot be read by fused blocks ({reason}); take --forward plain and --mode exact"
            )
        self.lm = lm
        self.compiled = compiled
        kind = usable(lm.device.torch_device)[0] if eight_bit is True else eight_bit or None
        self.kind = kind
        self.layers = [_fuse(layer, kind) for layer in lm.model.model.layers]
        attention = lm.model.model.layers[0].self_attn
        kv_heads = attention.k_proj.out_features // attention.head_dim
        heads = attention.q_proj.out_features // attention.head_dim
        self.shape = Shape(heads, kv_heads, attention.head_dim, lm.model.config.rms_norm_eps)
        self.scale = attention.scaling
        self.backend: SDPBackend | None = None
        self.name = "fused" if kind is None else f"fused {kind}"
        self._cross: Callable[..., Any] = torch.compile(_cross, dynamic=False) if compiled else _cross

    @torch.inference_mode()
    def __call__(self, ids: torch.Tensor, cache: Any, keep: int) -> torch.Tensor:
        """Logits [B, keep, V] at the last positions of ids [B, S], read after what the cache holds.

        Args:
            cache: of npukv's full kind (`lm.new_cache`), or None to keep nothing.
        """
        inner = self.lm.model.model
        past = 0 if cache is None else cache.get_seq_length()
        positions = torch.arange(past, past + ids.shape[1], device=ids.device)[None]
        hidden = inner.embed_tokens(ids)
        turn = inner.rotary_emb(hidden, positions)
        attended, last = None, len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            before = self.layers[i - 1] if i else None
            needed = keep if i == last else ids.shape[1]
            hidden, query, key, value = self._run(attended, hidden, before, layer, turn, needed, self.shape)
            if cache is not None:
                key, value = cache.layers[i].update(key, value)
            attended = self._attend(query, key, value)
        hidden, *_ = self._run(attended, hidden, self.layers[-1], None, turn, keep, self.shape)
        return self.lm.model.lm_head(inner.norm(hidden))

    @torch.inference_mode()
    def keys(self, ids: torch.Tensor, layer: int) -> torch.Tensor:
        """Keys of a layer as its projection gives them, [B, S, Hkv, D], of ids [B, S]; later layers are not run."""
        inner, shape = self.lm.model.model, self.shape
        hidden = inner.embed_tokens(ids)
        turn = inner.rotary_emb(hidden, torch.arange(ids.shape[1], device=ids.device)[None])
        attended = before = None
        for one in self.layers[:layer]:
            hidden, query, key, value = self._run(attended, hidden, before, one, turn, ids.shape[1], shape)
            attended, before = self._attend(query, key, value), one
        hidden, *_ = self._run(attended, hidden, before, None, turn, ids.shape[1], shape)
        wanted, first = self.layers[layer], shape.heads * shape.width
        last = first + shape.kv_heads * shape.width
        bias = None if wanted.qkv_bias is None else wanted.qkv_bias[first:last]
        entering = _norm(hidden, wanted.norm, shape.epsilon)
        return _linear(entering, wanted.qkv.rows(first, last), bias).unflatten(-1, (-1, shape.width))

    def kernel(self, rows: int, tokens: int) -> str:
        """The name of the attention kernel that is fastest for a batch of that shape; "" where there is no choice."""
        place = self.lm.device.torch_device
        if place.type == "cpu":
            return ""
        if self.backend is None:
            sizes = [(rows, heads, tokens, self.shape.width) for heads in (self.shape.heads, self.shape.kv_heads)]
            query, key, value = (torch.randn(sizes[i], device=place, dtype=self.lm.model.dtype) for i in (0, 1, 1))
            self.backend = fastest_attention(self.lm, query, key, value, self.scale)
        return self.backend.name

    def settle(self, kernel: str) -> None:
        """Take the attention kernel of that name, as all ranks do; "" leaves it open."""
        if kernel:
            self.backend = SDPBackend.__members__[kernel]

    def _run(self, attended: Any, hidden: torch.Tensor, before: Layer | None, after: Layer | None, *rest: Any) -> Any:
        """One crossing between two attentions; single tokens, and the ends, are not worth compiling for."""
        rest = (before, after, *rest)
        if hidden.shape[1] == 1 or before is None or after is None or self._cross is _cross:
            return _cross(attended, hidden, *rest)
        from torch._dynamo import config
        from torch._dynamo.exc import TorchDynamoException

        try:
            with config.patch(recompile_limit=64):  # of all models and batch shapes a process meets
                return self._cross(attended, hidden, *rest)
        except TorchDynamoException as error:
            _log.warning("the blocks cannot be compiled here, so they run as they are: %s", str(error).splitlines()[0])
            self._cross = _cross
            return _cross(attended, hidden, *rest)

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """[B, H, S, D] -> [B, S, H * D], by the backend that was fastest at the first call of the first shape."""
        if query.device.type == "cpu" or query.shape[2] != key.shape[2]:
            out = causal_attention(query, key, value, self.scale)
        else:
            if self.backend is None:
                self.backend = fastest_attention(self.lm, query, key, value, self.scale)
            with sdpa_kernel([self.backend, SDPBackend.MATH], set_priority=True):
                out = _causal(query, key, value, self.scale)
        return out.transpose(1, 2).flatten(2)


def choose_forward(lm: LanguageModel, wanted: str | FastForward, tokens: int) -> FastForward | None:
    """The forward pass of a name for reading so many tokens; None = the model's own.

    "auto" takes the fused one for long work on a card; its blocks are compiled where enough work pays for it.

    Raises:
        InputError: an unknown name; ModelError, DeviceError: the model or the device cannot do what is asked for.
    """
    if isinstance(wanted, FastForward):
        return wanted
    if wanted not in FORWARDS:
        raise InputError(f"got forward {wanted!r}, expected one of: {', '.join(FORWARDS)}")
    long = 2.0 * tokens * sum(weight.numel() for weight in lm.model.parameters()) >= WORTHWHILE
    if wanted == "auto":
        fused = lm.device.torch_device.type != "cpu" and long and supports(lm.model)[0]
        return FastForward(lm) if fused else None
    if wanted == "8bit":
        return eight_bit_forward(lm, long)
    return None if wanted == "plain" else FastForward(lm, compiled=long)


def eight_bit_forward(lm: LanguageModel, compiled: bool) -> FastForward:
    """The model's forward pass in 8 bits; its weights, half the bytes of 16-bit ones, are kept for later questions."""
    kept: FastForward | None = lm.eight_bit
    if kept is None or (compiled and not kept.compiled):
        kept = lm.eight_bit = FastForward(lm, eight_bit=True, compiled=compiled)
    return kept


def fastest_attention(
    lm: LanguageModel, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> SDPBackend:
    """Of torch's attention kernels the one that is fastest for these tensors, measured."""
    best, fastest = SDPBackend.MATH, float("inf")
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        try:
            with sdpa_kernel(backend):
                _causal(query, key, value, scale)
                lm.device.synchronize()
                started = time.perf_counter()
                for _ in range(3):
                    _causal(query, key, value, scale)
                lm.device.synchronize()
        except RuntimeError as error:
            _log.info("attention kernel %s does not serve here: %s", backend.name, str(error).splitlines()[0])
            continue
        seconds = time.perf_counter() - started
        if seconds < fastest:
            best, fastest = backend, seconds
    _log.info("attention kernel: %s", best.name)
    return best


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    # some kernels refuse grouped heads, so they are only asked for where there are any
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)


def _fuse(layer: Any, kind: torch.dtype | None) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp

    def fused(*modules: Any) -> Weight:
        weight = torch.cat([module.weight.detach() for module in modules])
        if kind is not None:
            return quantise_weight(weight, kind)
        for module, part in zip(modules, weight.split([module.out_features for module in modules]), strict=True):
            module.weight.data = part  # no second copy: the model's own weights become views of the fused one
        return Weight(weight)

    experts = experts_of(mlp)
    if experts is not None and kind is not None:
        gate_up, down = (quantise_weight(weight.codes, kind) for weight in (experts.gate_up, experts.down))
        experts = experts._replace(gate_up=gate_up, down=down)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    biases = [module.bias for module in projections]
    return Layer(
        layer.input_layernorm.weight.detach(),
        fused(*projections),
        None if biases[0] is None else torch.cat(biases).detach(),
        attention.q_norm.weight.detach() if hasattr(attention, "q_norm") else None,
        attention.k_norm.weight.detach() if hasattr(attention, "k_norm") else None,
        fused(attention.o_proj),
        None if attention.o_proj.bias is None else attention.o_proj.bias.detach(),
        layer.post_attention_layernorm.weight.detach(),
        experts or (fused(mlp.gate_proj, mlp.up_proj), fused(mlp.down_proj)),
    )


def _norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def _rotate(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """RoPE on [B, S, H, D] with cos, sin [1, S, D]."""
    cos, sin = (part[:, -x.shape[1] :, None] for part in turn)
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


def _linear(x: torch.Tensor, weight: Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """[B, S, K] -> [B, S, N]."""
    out = linear(x.flatten(0, 1), weight).unflatten(0, x.shape[:2])
    return out if bias is None else out + bias


def _mlp(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    """[B, S, hidden] -> [B, S, hidden]."""
    if isinstance(layer.mlp, Experts):
        return mixture(x.flatten(0, 1), layer.mlp).view(x.shape)
    gate_up, down = layer.mlp
    gate, up = _linear(x, gate_up).chunk(2, dim=-1)
    return _linear(silu(gate) * up, down)


def _cross(
    attended: torch.Tensor | None,
    hidden: torch.Tensor,
    before: Layer | None,
    after: Layer | None,
    turn: tuple[torch.Tensor, torch.Tensor],
    needed: int,
    shape: Shape,
) -> tuple[torch.Tensor, ...]:
    """From one layer's attention to the next one's queries, keys and values.

    Args:
        attended: [B, S', Hq * D]; None before the first layer.
        hidden: [B, S, hidden], the residual stream; S' = S, but at the end, where S' = `needed`.
        before, after: the layers left and entered; None at the ends.
        needed: positions, the last ones, whose queries are wanted.

    Returns:
        hidden; and query [B, Hq, needed, D], key and value [B, Hkv, S, D].
    """
    if before is not None and attended is not None:
        hidden = hidden[:, -attended.shape[1] :] + _linear(attended, before.out, before.out_bias)
        hidden = hidden + _mlp(_norm(hidden, before.after_norm, shape.epsilon), before)
    if after is None:
        return (hidden,)
    entering = _norm(hidden, after.norm, shape.epsilon)
    queries, keys = shape.heads * shape.width, shape.kv_heads * shape.width
    if needed == hidden.shape[1]:
        query, key, value = _linear(entering, after.qkv, after.qkv_bias).split([queries, keys, keys], dim=-1)
    else:
        bias = after.qkv_bias
        total = queries + 2 * keys
        rest = _linear(entering, after.qkv.rows(queries, total), None if bias is None else bias[queries:])
        key, value = rest.split([keys, keys], dim=-1)
        query = _linear(entering[:, -needed:], after.qkv.rows(0, queries), None if bias is None else bias[:queries])
    query, key, value = (part.unflatten(-1, (-1, shape.width)) for part in (query, key, value))
    if after.query_norm is not None and after.key_norm is not None:
        query, key = _norm(query, after.query_norm, shape.epsilon), _norm(key, after.key_norm, shape.epsilon)
    query, key = _rotate(query, turn), _rotate(key, turn)
    return hidden, query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
