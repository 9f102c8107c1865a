"""Loading models: what is refused, and what a loaded one knows about itself."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DynamicCache

import npukv
from npukv.backends.cpu import Cpu
from npukv.cache.preallocated import PreallocatedCache
from npukv.errors import DeviceError, InputError, ModelError


@pytest.fixture
def folder(save_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A model's folder that a test may spoil."""
    return shutil.copytree(save_model("llama"), tmp_path / "model")


def load(folder: Path | str, **options: Any) -> Any:
    return npukv.load(folder, **{"device": "cpu", "dtype": "float32"} | options)


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_loaded_as_asked(folder: Path) -> None:
    lm = load(str(folder), dtype="bfloat16")
    assert lm.model.dtype is torch.bfloat16
    assert (lm.device.name, lm.name) == ("cpu", str(folder))
    assert not lm.model.training
    assert load(folder, dtype=torch.float16).model.dtype is torch.float16
    assert load(folder, dtype=None).model.dtype is Cpu().default_dtype()
    device = Cpu()
    assert load(folder, device=device).device is device


def test_unknown_type_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="got dtype 'int8', expected one of: float32, bfloat16, float16"):
        load(folder, dtype="int8")


def test_unknown_device_is_refused(folder: Path) -> None:
    with pytest.raises(DeviceError, match="got device 'gpu', expected one of: auto, npu, cuda, cpu"):
        load(folder, device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA card is here")
def test_unavailable_device_is_refused(folder: Path) -> None:
    with pytest.raises(DeviceError, match=r"'cuda' cannot be used here: .*--device auto"):
        load(folder, device="cuda")


def test_a_file_is_no_model(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"is not a folder; expected one with config\.json"):
        load(folder / "config.json")


def test_unknown_name_is_refused_offline(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nobody/nothing: cannot be loaded .*expected a folder"):
        load("nobody/nothing")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(tmp_path / "nothing")


def test_folder_without_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json; expected"):
        load(folder)


def test_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights; expected \*\.safetensors"):
        load(folder)


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt"])
def test_pickled_weights_are_refused_unread(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(Trap(str(folder / "sprung")), folder / name)
    with pytest.raises(ModelError, match=rf"only pickled weights \({name}\).*save_pretrained") as error:
        load(folder)
    assert "can run code" in str(error.value)
    assert not (folder / "sprung").exists()


def test_pickled_weights_beside_safe_ones_are_left_alone(folder: Path) -> None:
    torch.save(Trap(str(folder / "sprung")), folder / "pytorch_model.bin")
    assert load(folder).fingerprint
    assert not (folder / "sprung").exists()


def test_code_beside_the_weights_never_runs(folder: Path) -> None:
    (folder / "code.py").write_text(f"import os\nos.mkdir({str(folder / 'sprung')!r})\n")
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)
    assert not (folder / "sprung").exists()


def spoil_json(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


def unknown_architecture(folder: Path) -> None:
    edit_config(folder, model_type="nonsense")


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def not_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 3)


def other_shape(folder: Path) -> None:
    edit_config(folder, intermediate_size=80)


def missing_layer(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))


@pytest.mark.parametrize(
    "spoil",
    [spoil_json, unknown_architecture, no_tokenizer, cut_weights, not_weights, other_shape, missing_layer],
)
def test_spoilt_folder_is_a_model_error(folder: Path, spoil: Callable[[Path], None]) -> None:
    """None of these may be answered with a stack trace, nor with weights drawn at random."""
    spoil(folder)
    with pytest.raises(ModelError, match=str(folder)):
        load(folder)


def test_fingerprint_is_the_models_not_the_places(folder: Path, tmp_path: Path) -> None:
    once = load(folder).fingerprint
    assert load(folder).fingerprint == once
    assert load(shutil.copytree(folder, tmp_path / "elsewhere")).fingerprint == once


def retrain(folder: Path) -> None:
    def step(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.self_attn.q_proj.weight"] *= 1.001

    edit_weights(folder, step)


def reorder_layers(folder: Path) -> None:
    def swap(tensors: dict[str, torch.Tensor]) -> None:
        one, other = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
        tensors[one], tensors[other] = tensors[other].clone(), tensors[one].clone()

    edit_weights(folder, swap)


def rescale_positions(folder: Path) -> None:
    edit_config(folder, rope_parameters={"rope_type": "default", "rope_theta": 5000.0})


def swap_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    made = json.loads(path.read_text())
    vocabulary = made["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    path.write_text(json.dumps(made))


@pytest.mark.parametrize("change", [retrain, reorder_layers, rescale_positions, swap_tokens])
def test_fingerprint_changes_with_what_the_model_computes(folder: Path, change: Callable[[Path], None]) -> None:
    before = load(folder).fingerprint
    change(folder)
    assert load(folder).fingerprint != before


def test_fingerprint_changes_with_the_type_of_numbers(folder: Path) -> None:
    """Even where every weight is the same number in all of them."""

    def halves(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor.fill_(0.5)

    edit_weights(folder, halves)
    assert len({load(folder, dtype=dtype).fingerprint for dtype in ("float32", "bfloat16", "float16")}) == 3


def test_context_is_the_configurations(lm: Any) -> None:
    assert lm.context == 256


def test_unnamed_context_is_a_model_error(llama: Any, tokenizer: Any) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=1, n_head=2))
    lm = npukv.LanguageModel(model, tokenizer, llama.device, "bloom", "")
    with pytest.raises(ModelError, match=r"bloom: its config\.json names no context length"):
        _ = lm.context


def test_stop_ids_are_the_tokens_that_hold_a_period_or_line_end(llama: Any, tokenizer: Any) -> None:
    expected = {i for i in range(len(tokenizer)) if any(c in tokenizer.decode([i]) for c in ".\n")}
    assert expected >= set(llama.encode(".") + llama.encode("\n"))
    assert not expected & set(llama.encode(", and"))
    assert set(llama.stop_ids) == expected | {tokenizer.eos_token_id}


def test_end_ids_are_the_tokenizers_and_the_configurations(folder: Path) -> None:
    assert load(folder).end_ids == (1,)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 3]}))
    assert load(folder).end_ids == (1, 3, 7)


def test_only_full_attention_can_be_rewound(load_tiny: Callable[[str], Any]) -> None:
    for name in ("llama", "qwen2", "qwen3", "mistral", "gpt2"):
        assert load_tiny(name).rewindable
        assert isinstance(load_tiny(name).new_cache(8), PreallocatedCache)
    sliding = load_tiny("mistral-sliding")
    assert not sliding.rewindable
    assert isinstance(sliding.new_cache(8), DynamicCache)


def test_encode_adds_no_special_tokens_and_decode_drops_them(llama: Any) -> None:
    ids = llama.encode("And God said")
    assert llama.decode([0, *ids, 1]) == "And God said"
