"""A causal language model, its tokenizer and its device, ready to score and answer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npukv import attention
from npukv.backends import Device, DeviceUnavailable, select
from npukv.errors import DeviceError, InputError, ModelError

if TYPE_CHECKING:
    import torch
    from transformers import Cache

DTYPES = ("float32", "bfloat16", "float16")

#: Entries of a configuration that say nothing about what the model computes.
_UNIMPORTANT = {"_name_or_path", "transformers_version", "dtype", "architectures"}


@dataclass
class LanguageModel:
    """What `npukv.load` returns.

    Attributes:
        model: a transformers causal language model, in evaluation mode, on the device.
        tokenizer: its tokenizer.
        device: where it runs.
        name: the folder or hub id it was loaded from.
        fingerprint: changes when the weights, the tokenizer or the type of numbers do.
        eight_bit: its forward pass in 8 bits, once one was needed (`npukv.relevance.fast_forward.eight_bit_forward`).
    """

    model: Any
    tokenizer: Any
    device: Device
    name: str
    fingerprint: str
    eight_bit: Any = field(default=None, init=False, repr=False, compare=False)

    @cached_property
    def context(self) -> int:
        """Tokens the model can read at once."""
        config = self.model.config.get_text_config()
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
            value = getattr(config, name, None)
            if value:
                return int(value)
        raise ModelError(f"{self.name}: its config.json names no context length (max_position_embeddings); add it")

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer's first statement: they hold a period or a line end, or end the sequence."""
        texts = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
        ending = {i for i, text in enumerate(texts) if "." in text or "\n" in text}
        return tuple(sorted(ending | set(self.end_ids)))

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end the sequence."""
        configured = self.model.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        return tuple(sorted({i for i in [*listed, self.tokenizer.eos_token_id] if i is not None}))

    @cached_property
    def rewindable(self) -> bool:
        """Whether every layer keeps all it has seen, so that a cache can be cut back to an earlier token."""
        if not attention.supports(self.model.config)[0]:
            return False
        config = self.model.config.get_text_config()
        layer_types = getattr(config, "layer_types", None)
        if layer_types:
            return all(layer_type == "full_attention" for layer_type in layer_types)
        return getattr(config, "sliding_window", None) is None

    def new_cache(self, capacity: int) -> Cache:
        """A KV cache for sequences of at most `capacity` tokens."""
        if self.rewindable:
            from npukv.cache.preallocated import PreallocatedCache

            return PreallocatedCache(self.model.config.get_text_config().num_hidden_layers, capacity)
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def encode(self, text: str) -> list[int]:
        """Token ids of a short text, without special tokens."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]

    def decode(self, ids: Any) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def load(
    model: str | Path | None = None,
    device: str | Device = "auto",
    dtype: str | torch.dtype | None = None,
) -> LanguageModel:
    """Load a causal language model.

    Args:
        model: a folder with config.json, *.safetensors and a tokenizer, or a hub id; None = the bundled model.
        device: "auto" (the first available of npu, cuda, cpu), one of these names, or a Device.
        dtype: "float32", "bfloat16" or "float16"; None = what the device computes fastest.

    Raises:
        ModelError: no weights, weights that are not safetensors, no tokenizer, or an unknown architecture.
        DeviceError: the device is unknown or not usable here.

    >>> lm = npukv.load()
    >>> lm.context
    2048
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from npukv.bundled import model_folder

    if isinstance(device, str):
        try:
            device = select(device)
        except DeviceUnavailable as error:
            raise DeviceError(str(error)) from None
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise InputError(f"got dtype {dtype!r}, expected one of: {', '.join(DTYPES)}")
        dtype = getattr(torch, dtype)
    number_type: torch.dtype = dtype or device.default_dtype()  # type: ignore[assignment]
    name = str(model or model_folder())
    folder = Path(name)
    if folder.exists() or model is None:
        check_folder(folder)
    logging.disable_progress_bar()
    device.prepare()
    source = {"pretrained_model_name_or_path": name, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        attention.register()
        network, found = AutoModelForCausalLM.from_pretrained(
            **source, dtype=number_type, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{name}: cannot be loaded ({_first_line(error)}); expected a folder with config.json, *.safetensors and "
            "tokenizer.json, or the id of a model on a hub this machine reaches"
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:  # transformers fills them with random numbers
        raise ModelError(
            f"{name}: its weights lack {len(missing)} tensors ({', '.join(missing[:3])}...); expected all that its "
            "config.json describes: fetch or save the model again"
        )
    if not hasattr(network.config.get_text_config(), "num_attention_heads"):
        raise ModelError(f"{name}: is a {network.config.model_type} model, expected one whose layers are attention")
    if attention.supports(network.config)[0]:
        network.set_attn_implementation(attention.NAME)
    network = network.to(device.torch_device).eval()
    return LanguageModel(network, tokenizer, device, name, _fingerprint(network, tokenizer, number_type))


def check_folder(folder: Path) -> None:
    """Refuse a model folder that cannot be loaded safely, before anything heavy happens."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: is not a folder; expected one with config.json and *.safetensors")
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder}: has no config.json; expected a folder saved by transformers' save_pretrained")
    if list(folder.glob("*.safetensors")):
        return
    pickled = [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern)]
    if pickled:
        raise ModelError(
            f"{folder}: has only pickled weights ({', '.join(sorted(pickled))}), which can run code when loaded; "
            "expected *.safetensors: convert them with save_pretrained on a machine that trusts them"
        )
    raise ModelError(f"{folder}: has no weights; expected *.safetensors beside config.json")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _fingerprint(network: Any, tokenizer: Any, dtype: torch.dtype) -> str:
    """A hash of the configuration, the tokenizer, and a sample of every tensor.

    Reading all of a large model for a hash would take longer than many questions; 64 numbers of each tensor change
    with any training step.
    """
    import torch

    config = {key: value for key, value in network.config.to_dict().items() if key not in _UNIMPORTANT}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    digest.update(str(dtype).encode())
    digest.update(str(sorted(tokenizer.get_vocab().items())).encode())
    for name, tensor in network.state_dict().items():
        flat = tensor.detach().flatten()
        step = max(1, flat.numel() // 64)
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(flat[::step][:64].to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:32]
