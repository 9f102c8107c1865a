"""Hash codes are learned from a model's own attention, measured honestly, and belong to that model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
if not (SCRIPTS / "train_hash.py").exists():
    pytest.skip("needs the checkout's scripts folder", allow_module_level=True)
sys.path.insert(0, str(SCRIPTS))

import train_hash  # noqa: E402

import npukv  # noqa: E402
from npukv.cache.hash_weights import HashWeights  # noqa: E402
from npukv.cache.hashed import HashedCache  # noqa: E402
from npukv.errors import InputError  # noqa: E402
from npukv.ops.hashing import random_orthogonal  # noqa: E402

CPU = torch.device("cpu")


def planted(count: int, seed: int = 0) -> list[dict[int, train_hash.Attended]]:
    """Attention in which two dimensions of sixteen decide, and the others are large and say nothing."""
    generator = torch.Generator().manual_seed(seed)
    contexts = []
    for _ in range(count):
        keys, queries = torch.randn(2, 300, 16, generator=generator), torch.randn(2, 2, 40, 16, generator=generator)
        keys[..., 2:] *= 4
        queries[..., 2:] *= 0.01
        queries[..., :2] *= 6
        contexts.append({0: train_hash.Attended(queries, keys, 1.0)})
    return contexts


def test_kl_training_finds_the_dimensions_that_decide() -> None:
    learned, losses = train_hash.learn(planted(4), "kl", 32, 120, 0, CPU)
    held_out = planted(3, seed=9)
    exact = train_hash.captured(held_out, None, CPU)
    random = train_hash.captured(held_out, HashWeights(32, 0), CPU)
    kl = train_hash.captured(held_out, learned, CPU)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    for most, good, poor in zip(exact, kl, random, strict=True):
        assert most >= good > poor + 0.1


@pytest.mark.parametrize("bits", [8, 32])
def test_the_papers_loss_is_equation_9(bits: int) -> None:
    """Written out pair by pair, with its labels, for the first step; averaged over pairs and keys."""
    generator = torch.Generator().manual_seed(2)
    keys, queries = torch.randn(1, 20, 16, generator=generator), torch.randn(1, 1, 6, 16, generator=generator)
    start = random_orthogonal(1, 16, bits, seed=1) * 3
    seen = train_hash.Attended(queries, keys, 1.0)
    learned, losses = train_hash.train_paper([seen], start, 3, 0)
    assert not torch.equal(learned, start)

    def relaxed(x: torch.Tensor) -> torch.Tensor:
        return 2 * torch.sigmoid(0.1 * (x @ start[0])) - 1

    similar = 0.0
    for query in queries[0, 0]:
        order = (keys[0] @ query).argsort(descending=True).tolist()
        for i, key in enumerate(keys[0]):
            label = {order[0]: 20.0, order[1]: 1.0}.get(i, -1.0)  # the top tenth of 20 keys
            similar += label * float((relaxed(query) - relaxed(key)).square().sum())
    balance = float(relaxed(keys[0]).mean(0).norm())
    gram = start[0].T @ start[0] - torch.eye(8) if bits == 8 else start[0] @ start[0].T - 2 * torch.eye(16)
    expected = 0.01 * similar / (6 * 20) + 2 * balance + float(gram.norm())
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[2] < losses[0]  # far from orthonormal, it comes nearer


def test_mass_is_that_of_the_selected_keys() -> None:
    """Two keys of four, by hand: the codes' order, and the exact one."""
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]]).repeat(1, 25, 1)  # 100 keys
    queries = torch.tensor([[[[2.0, 0.5]]]])
    contexts = [{0: train_hash.Attended(queries, keys, 1.0)}]
    softmax = (queries[0, 0, 0] @ keys[0].T).softmax(-1)
    expected = [float(softmax.sort(descending=True).values[:n].sum()) for n in (3, 6, 12)]
    assert train_hash.captured(contexts, None, CPU) == pytest.approx(expected)
    first = torch.zeros(1, 2, 32)
    first[:, 1] = 1  # codes that see the second coordinate alone: keys with 1 there are the nearest
    expected = [float(softmax[keys[0, :, 1] > 0][:n].sum()) for n in (3, 6, 12)]
    assert train_hash.captured(contexts, HashWeights(32, 0, {0: first}), CPU) == pytest.approx(expected)


@pytest.fixture(scope="module")
def book(bible: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "book.txt"
    path.write_text(bible[:120_000])
    return path


def test_queries_and_keys_are_the_models(llama: Any, bible: str) -> None:
    """Softmax over the keys collected and the later ones is the model's own attention: compare with eager's weights."""
    from transformers import AutoModelForCausalLM

    contexts = train_hash.collect(llama, bible[:50_000], 1, 128, 0, "train")
    seen = contexts[0][1]
    assert seen.keys.shape == (2, 112, 16)
    assert seen.queries.shape == (2, 2, 16, 16)
    ids = train_hash.context(llama, bible[:50_000], 128, __import__("random").Random("train 0 0"), "train", 0)
    eager = AutoModelForCausalLM.from_pretrained(llama.name, attn_implementation="eager").eval()
    with torch.no_grad():
        weights = eager(torch.tensor([ids]), output_attentions=True).attentions[1][0]  # [Hq, S, S]
    mine = (seen.queries @ seen.keys[:, None].transpose(-1, -2) * seen.scale).softmax(-1).flatten(0, 1)
    theirs = weights[:, -16:, :112]
    theirs = theirs / theirs.sum(-1, keepdim=True)
    assert torch.allclose(mine, theirs, atol=1e-4)
    assert llama.model.config._attn_implementation == "npukv"


def test_every_other_context_asks_for_facts(llama: Any, bible: str) -> None:
    import random

    ids = train_hash.context(llama, bible[:300_000], 1200, random.Random(3), "train", 4)
    text = llama.decode(ids)
    assert len(ids) == 1200
    assert text.count("\nQuestion: ") == 4
    first = text.split("\nAnswer: ")[1].split("\n")[0]
    value = first.rstrip(".").split()[-1]
    assert text.count(value) >= 2  # told, and asked for
    with pytest.raises(InputError, match="larger --length"):
        train_hash.context(llama, bible[:300_000], 250, random.Random(3), "train", 8)


def test_from_command_to_cache(
    save_model: Any, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_hash, "FACTS", 1)
    folder = save_model("llama", seed=4)
    out = tmp_path / "codes.safetensors"
    command = ["--model", str(folder), "--text", str(book), "--out", str(out), "--device", "cpu", "--dtype", "float32"]
    command += ["--contexts", "2", "--measured", "2", "--length", "384", "--steps", "30", "--bits", "64"]
    train_hash.main(command)
    assert "kl, 64 bits" in capsys.readouterr().out
    lm = npukv.load(folder, device="cpu", dtype="float32")
    cache = HashedCache(lm.model.config, 24, weights=out, sink=2, recent=4, dense_layers=1)
    assert sorted(cache.weights.learned) == [0, 1]
    said = lm.model.generate(torch.arange(2, 102)[None], past_key_values=cache, max_new_tokens=4, do_sample=False)
    assert said.shape[1] > 100
    from safetensors import safe_open

    with safe_open(out, framework="pt") as file:
        training = json.loads(file.metadata()["training"])
    assert training["method"] == "kl"
    assert training["fingerprint"] == lm.fingerprint
    assert training["loss"][-1] < training["loss"][0]
    other = npukv.load(save_model("llama", seed=5), device="cpu", dtype="float32")
    with pytest.raises(InputError, match="another model"):
        HashedCache(other.model.config, weights=out)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--out", "x", "--text", "nowhere.txt"], "no such file"),
        (["--out", "x", "--bits", "40"], "40 bits"),
    ],
)
def test_what_cannot_work_is_refused(command: list[str], message: str, llama: Any) -> None:
    with pytest.raises(SystemExit, match=message):
        train_hash.main([*command, "--model", llama.name, "--device", "cpu"])


def test_a_place_to_write_is_asked_for() -> None:
    for command in ([], ["--bundled", "--out", "x"], ["--bundled", "--model", "x"]):
        with pytest.raises(SystemExit):
            train_hash.main(command)


def test_the_bundled_codes_are_the_bundled_models() -> None:
    """They load by themselves for that model, and for no other; trained anew, it goes without until they are, too."""
    from transformers import AutoConfig

    from npukv.bundled import model_folder
    from npukv.cache.hash_weights import bundled, bundled_path

    if not bundled_path().is_file():
        pytest.skip("no codes are bundled")
    config = AutoConfig.from_pretrained(model_folder())
    assert bundled(config, 256) is None
    mine = bundled(config, 128)
    if mine is None:
        pytest.fail("the bundled codes are another model's: run scripts/train_hash.py --bundled")
    assert HashedCache(config).weights.learned
    config.max_position_embeddings *= 2  # changes no key
    assert bundled(config, 128) is not None
    config._name_or_path = "somebody/else"
    assert bundled(config, 128) is None
    assert not HashedCache(config).weights.learned
