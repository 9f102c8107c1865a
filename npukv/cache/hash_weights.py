"""Projections for hash codes: random ones for any model, learned ones for the very model they were learned from."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from npukv.errors import InputError
from npukv.ops.hashing import random_orthogonal

_log = logging.getLogger("npukv")
FORMAT = "npukv hash weights 1"

#: What a configuration says of the shape of keys and of what computes them.
_SHAPE = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)


class HashWeights:
    """Projections [Hkv, D, bits] per layer.

    Args:
        bits: of a code, a multiple of 32.
        seed: of the random orthogonal projections for layers that have no learned ones.
        learned: float [Hkv, D, bits] by layer.
    """

    def __init__(self, bits: int = 128, seed: int = 0, learned: Mapping[int, torch.Tensor] | None = None) -> None:
        if bits < 32 or bits % 32:
            raise InputError(f"got {bits} bits per code, expected a multiple of 32: 128, or 256 for a closer match")
        self.bits = bits
        self.seed = seed
        self.learned = dict(learned or {})

    def layer(self, index: int, heads: int, width: int) -> torch.Tensor:
        """[heads, width, bits], float32 on the CPU."""
        if index not in self.learned:
            return random_orthogonal(heads, width, self.bits, seed=self.seed * 10_007 + index)
        weights = self.learned[index]
        if weights.shape != (heads, width, self.bits):
            raise InputError(
                f"the hash weights of layer {index} are for {tuple(weights.shape)} (KV heads, width, bits), got a "
                f"model with {(heads, width, self.bits)}: train them on this model with scripts/train_hash.py"
            )
        return weights.float()

    @classmethod
    def load(cls, path: str | Path, config: Any) -> HashWeights:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, another format, or weights learned from another model.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected hash weights that scripts/train_hash.py wrote")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except SafetensorError as error:
            raise InputError(f"{path}: is not a safetensors file ({error}); expected hash weights") from error
        if metadata.get("format") != FORMAT:
            raise InputError(
                f"{path}: has format {metadata.get('format')!r}, expected {FORMAT!r}: write it with "
                "scripts/train_hash.py"
            )
        theirs, mine = json.loads(metadata["model"]), identity(config)
        different = [name for name in mine if mine[name] and theirs.get(name) and mine[name] != theirs[name]]
        if different:
            raise InputError(
                f"{path}: was learned from another model (its {', '.join(different)} differ), and would select the "
                "wrong keys for this one: train it on this model with scripts/train_hash.py, or leave weights out for "
                "random projections"
            )
        learned = {int(name.removeprefix("layers.")): tensor for name, tensor in tensors.items()}
        return cls(int(metadata["bits"]), int(metadata["seed"]), learned)

    def save(self, path: str | Path, config: Any, training: Mapping[str, Any]) -> None:
        """Write the learned projections, whose they are, and how they came about (`training`, JSON-ready).

        Columns are scaled to norm 1 and stored in float16: only signs of projections count.
        """
        from safetensors.torch import save_file

        tensors = {
            f"layers.{index}": torch.nn.functional.normalize(weights.float(), dim=1).half().contiguous()
            for index, weights in self.learned.items()
        }
        metadata = {
            "format": FORMAT,
            "bits": str(self.bits),
            "seed": str(self.seed),
            "model": json.dumps(identity(config)),
            "training": json.dumps(dict(training)),
        }
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)


def bundled_path() -> Path:
    """Where the learned projections of the bundled model are, if they are."""
    from npukv.bundled import model_folder

    return model_folder().parent / "hash_weights.safetensors"


def bundled(config: Any, bits: int) -> HashWeights | None:
    """The learned projections that ship with npukv, if `config` is of the bundled model and they fit it."""
    from npukv.bundled import model_folder

    path = bundled_path()
    name = getattr(config, "_name_or_path", "") or ""
    if not path.is_file() or not name or Path(name).resolve() != model_folder().resolve():
        return None
    try:
        weights = HashWeights.load(path, config)
    except InputError as error:  # the model was trained anew and its codes were not: random ones serve it
        _log.warning("%s; taking random projections", error)
        return None
    return weights if weights.bits == bits else None


def identity(config: Any) -> dict[str, str]:
    """What tells a model from others: {"shape": of its configuration, "checkpoint": of its files, "" where unknown}."""
    config = config.get_text_config()
    shape = {name: getattr(config, name, None) for name in _SHAPE}
    folder = Path(getattr(config, "_name_or_path", "") or "/nowhere")
    # by the name transformers gives its files, so that codes kept beside them do not count
    files = sorted([*folder.glob("model*.safetensors")] or folder.glob("*.safetensors")) if folder.is_dir() else []
    stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return {
        "shape": hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16],
        "checkpoint": _sampled(stamps) if stamps else "",
    }


@lru_cache(maxsize=8)
def _sampled(stamps: tuple[tuple[str, int, int], ...]) -> str:
    """A hash of 64 stretches of 4 KB of each file: any training step changes them, and reading all would take long."""
    digest = hashlib.sha256()
    for name, size, _ in stamps:
        digest.update(f"{Path(name).name} {size}".encode())
        with open(name, "rb") as file:
            for part in range(64):
                file.seek(size * part // 64)
                digest.update(file.read(4096))
    return digest.hexdigest()[:16]
