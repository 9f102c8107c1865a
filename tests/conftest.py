"""Tiny models and a tokenizer, built here and now: no test reads weights from anywhere else."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported; transformers imports it too
os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes started here share the cores with the other workers

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=60)
settings.register_profile("thorough", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

#: Files that take longest: begun first, so that no worker is left with one when the others have ended.
LONG = ("test_readme.py",)

CONTEXT = 256
BOS, EOS = "<|bos|>", "<|eos|>"
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)

#: Grouped heads, biases, normed queries and keys, a sliding window, learned positions: what tells attentions apart.
_GROUPED = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": CONTEXT,
}
_EXPERTS = {"num_experts_per_tok": 2}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _GROUPED),
    "qwen2": ("Qwen2Config", {k: v for k, v in _GROUPED.items() if k != "head_dim"}),
    "qwen3": ("Qwen3Config", _GROUPED),
    "mistral": ("MistralConfig", _GROUPED | {"sliding_window": None}),
    "mistral-sliding": ("MistralConfig", _GROUPED | {"sliding_window": 24}),
    "mixtral": ("MixtralConfig", _GROUPED | _EXPERTS | {"num_local_experts": 5, "sliding_window": None}),
    "qwen3-moe": ("Qwen3MoeConfig", _GROUPED | _EXPERTS | {"num_experts": 6, "moe_intermediate_size": 40}),
    "granite": ("GraniteConfig", _GROUPED | {"attention_multiplier": 0.1}),  # scores scaled its own way
    "gpt2": ("GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def bible() -> str:
    """The whole bundled text."""
    from npukv.bundled import sample_text

    return sample_text()


@pytest.fixture(scope="session")
def text(bible: str) -> str:
    """Some 2,000 tokens of it: eight times the tiny models' context."""
    return bible[200_000:204_000]


@pytest.fixture(scope="session")
def tokenizer(bible: str) -> Any:
    """Byte-level BPE of 512 tokens, with a beginning and an end of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(bible[:40_000].splitlines(keepends=True), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=BOS, eos_token=EOS)


@pytest.fixture(scope="session")
def save_model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """save_model(architecture, seed=0, chat=False, **configuration) -> a folder with a random model, as a user has it.

    The weights are drawn wide, so that a wrong key, position or mask changes the logits visibly.
    """
    import transformers

    def save(architecture: str, seed: int = 0, chat: bool = False, **configuration: Any) -> Path:
        name, values = ARCHITECTURES[architecture]
        config = getattr(transformers, name)(
            **values
            | {
                "vocab_size": len(tokenizer),
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
            }
            | configuration
        )
        generator = torch.Generator().manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).to(config.dtype or torch.float32)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if weight.dim() > 1:
                    weight.normal_(0, 1.0 if "embed" in key else 0.2, generator=generator)
                elif key.endswith("bias"):
                    weight.normal_(0, 0.3, generator=generator)
            if not config.tie_word_embeddings:  # so that some looked-ahead answers end early, and others do not
                ends = tokenizer(".\n", add_special_tokens=False)["input_ids"]
                model.get_output_embeddings().weight[ends] *= 2
        folder = tmp_path_factory.mktemp(architecture)
        model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder, CHAT if chat else None)
        return folder

    return save


def save_tokenizer(tokenizer: Any, folder: Path, chat_template: str | None) -> None:
    tokenizer.save_pretrained(folder)
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)


@pytest.fixture(scope="session")
def load_tiny(save_model: Callable[..., Path]) -> Callable[[str], Any]:
    """load_tiny(architecture) -> the LanguageModel, float32 on the CPU, one per session. "chat" is a llama with one."""
    import npukv

    @cache
    def load(architecture: str) -> Any:
        folder = save_model("llama", seed=1, chat=True) if architecture == "chat" else save_model(architecture)
        return npukv.load(folder, device="cpu", dtype="float32")

    return load


@pytest.fixture(params=[*ARCHITECTURES, "chat"])
def lm(request: pytest.FixtureRequest, load_tiny: Callable[[str], Any]) -> Any:
    """Every architecture in turn."""
    return load_tiny(request.param)


@pytest.fixture
def llama(load_tiny: Callable[[str], Any]) -> Any:
    return load_tiny("llama")


@dataclass(frozen=True)
class Chains:
    """Makes models whose next token depends on the last one alone, with logits known in closed form."""

    tokenizer: Any
    folder: Callable[[], Path]

    def save(self, chains: Mapping[str, float], chat: bool = False) -> Path:
        """A model that says each given text, from its first token on, with that logit; all other logits are 0.

        The tokens after a text's last are up to the uniform distribution (argmax: token 0).
        """
        from transformers import LlamaConfig, LlamaForCausalLM

        size = len(self.tokenizer)
        width = (size + 15) // 16 * 16
        config = LlamaConfig(
            vocab_size=size,
            hidden_size=width,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=width // 16,
            num_key_value_heads=width // 16,
            max_position_embeddings=CONTEXT,
            rms_norm_eps=1e-12,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(1.0 if weight.dim() == 1 else 0.0)
            model.model.embed_tokens.weight.copy_(torch.eye(size, width))
            for said, logit in chains.items():
                ids = self.tokenizer(said, add_special_tokens=False)["input_ids"]
                for one, following in itertools.pairwise(ids):
                    model.lm_head.weight[following, one] = logit / width**0.5  # the norm scales a unit vector by this
        folder = self.folder()
        model.save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder, CHAT if chat else None)
        return folder

    def load(self, chains: Mapping[str, float], chat: bool = False) -> Any:
        import npukv

        return npukv.load(self.save(chains, chat), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def chains(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Chains:
    return Chains(tokenizer, lambda: tmp_path_factory.mktemp("chain"))


@pytest.fixture
def padded_batch(tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of 40, 33 and 1 tokens, padded on the left: ids and attention mask, [3, 40]."""
    draw = random.Random(5)
    ids = torch.tensor([[draw.randrange(2, len(tokenizer)) for _ in range(40)] for _ in range(3)])
    mask = torch.ones_like(ids)
    for row, padding in enumerate((0, 7, 39)):
        ids[row, :padding] = tokenizer.eos_token_id
        mask[row, :padding] = 0
    return ids, mask
