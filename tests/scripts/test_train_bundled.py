"""Training of the bundled model at toy size: optimizer, resuming, means, checks."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

SCRIPTS = Path(__file__).parents[2] / "scripts"
if not (SCRIPTS / "train_bundled.py").exists():
    pytest.skip("needs the checkout's scripts folder", allow_module_level=True)
sys.path.insert(0, str(SCRIPTS))

import bundled_batches  # noqa: E402
import bundled_check  # noqa: E402
import bundled_sequences  # noqa: E402
import bundled_shards  # noqa: E402
import train_bundled  # noqa: E402
from bundled_data import works  # noqa: E402
from bundled_optimizer import Muon, orthogonalize  # noqa: E402

from npukv.errors import InputError  # noqa: E402
from npukv.evaluation.sample import Sample  # noqa: E402
from npukv.evaluation.words import split_words  # noqa: E402


def options(data: Path, out: Path, *more: str):  # type: ignore[no-untyped-def]
    small = "--width 32 --layers 1 --heads 2 --feed-forward 48 --length 2048 --tokens 2048 --workers 0 --device cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train", "--data", str(data), "--out", str(out), *small.split(), *more])
        return train_bundled.settings()


def test_forward_is_that_of_transformers(data: Path, tmp_path: Path) -> None:
    model = train_bundled.build_model(options(data, tmp_path))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(0, 300, (2, 50))
    with torch.no_grad():
        got, expected = train_bundled.hidden_states(model, ids), model.model(ids).last_hidden_state
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_orthogonalize_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((2, 24, 60), (2, 60, 24)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)).float())
        assert values.min() > 0.5 and values.max() < 1.3


def test_muon_lowers_a_loss() -> None:
    torch.manual_seed(0)
    target, weight = torch.randn(16, 24), torch.nn.Parameter(torch.zeros(16, 24))
    optimizer = Muon([weight], lr=0.1)
    losses = []
    for _ in range(200):
        loss = (weight - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_a_training_cut_in_two_ends_as_one_in_a_piece(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_bundled, "finish", lambda *_: None)
    train_bundled.train(options(data, tmp_path / "whole", "--steps", "4"))
    # A budget of no time ends a call after its first step.
    train_bundled.train(options(data, tmp_path / "parts", "--steps", "4", "--minutes", "0"))
    assert train_bundled.last_step(tmp_path / "parts") == 1
    train_bundled.train(options(data, tmp_path / "parts", "--steps", "4"))
    whole, parts = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 4
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, parts["model"][name]), name


def test_shards_alone_are_enough_to_go_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_bundled, "finish", lambda *_: None)
    monkeypatch.setattr(bundled_shards, "SHARD_BYTES", 2**16)
    train_bundled.train(options(data, tmp_path / "first", "--steps", "3", "--minutes", "0"))
    shards = sorted((tmp_path / "first").glob("weights-*.safetensors"))
    assert len(shards) > 1
    other = train_bundled.build_model(options(data, tmp_path, "--seed", "5"))
    bundled_shards.load_shards(other, tmp_path / "first")
    state = torch.load(tmp_path / "first" / "state.pt", weights_only=True)
    assert all(torch.equal(tensor, state["model"][name]) for name, tensor in other.state_dict().items())
    train_bundled.train(options(data, tmp_path / "second", "--steps", "3", "--resume", str(tmp_path / "first")))
    assert train_bundled.last_step(tmp_path / "second") == 3
    shards[0].unlink()
    with pytest.raises(SystemExit, match="missing"):
        bundled_shards.load_shards(other, tmp_path / "first")


def test_the_mean_of_trainings(data: Path, tmp_path: Path) -> None:
    models = []
    for name in ("one", "two", "three"):
        model = train_bundled.build_model(options(data, tmp_path))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        bundled_shards.save_shards(model, tmp_path / name)
        models.append(model)
    (tmp_path / "one" / "training.jsonl").write_text("{}\n")
    folders = ["--resume", str(tmp_path / "one"), "--mean-with", str(tmp_path / "two"), str(tmp_path / "three")]
    train_bundled.write_model(options(data, tmp_path, *folders, "--write-model", str(tmp_path / "mean")))
    mean = AutoModelForCausalLM.from_pretrained(tmp_path / "mean", dtype=torch.float32)
    for one, two, three, got in zip(*(model.parameters() for model in (*models, mean)), strict=True):
        torch.testing.assert_close(got, (one + two + three) / 3, atol=1e-6, rtol=2**-8)  # written in bfloat16


@pytest.mark.parametrize("given, told", [(["--mean-with", "A"], "--write-model"), (["--write-model", "A"], "--resume")])
def test_what_a_model_is_written_from_is_asked_for(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], told: str
) -> None:
    with pytest.raises(SystemExit):
        options(data, tmp_path, *given)
    assert told in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "given, told", [(["--only", "nonsense"], "two facts"), (["--length", "99999"], "1 to 2048, the model's")]
)
def test_a_check_refuses_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str], told: str
) -> None:
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 2048}')
    monkeypatch.setattr(sys, "argv", ["check", str(tmp_path), "--valid", "none", *given])
    with pytest.raises(SystemExit):
        bundled_check.main()
    assert told in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("layers", [4, 5, 6])
def test_a_grown_model_computes_the_same(data: Path, tmp_path: Path, layers: int) -> None:
    small = train_bundled.build_model(options(data, tmp_path, "--layers", "3"))
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    bundled_shards.save_shards(small, tmp_path)
    large = train_bundled.build_model(options(data, tmp_path, "--layers", str(layers)))
    bundled_shards.load_shards(large, tmp_path)
    ids = torch.arange(2, 40)[None]
    with torch.inference_mode():
        assert torch.equal(small(ids).logits, large(ids).logits)
    loss, _ = train_bundled.loss_and_parts(large, ids, torch.full_like(ids, 8))
    loss.backward()
    assert all(layer.mlp.down_proj.weight.grad.any() for layer in large.model.layers)
    with pytest.raises(SystemExit, match="grow to 6 at most"):
        bundled_shards.load_shards(train_bundled.build_model(options(data, tmp_path, "--layers", "7")), tmp_path)
    with pytest.raises(SystemExit, match="do not fit"):
        bundled_shards.load_shards(train_bundled.build_model(options(data, tmp_path, "--layers", "2")), tmp_path)
    with pytest.raises(SystemExit, match=r"no \*\.safetensors in .*nothing"):
        bundled_shards.load_shards(large, tmp_path / "nothing")


def test_two_ranks_train_one_model(data: Path, tmp_path: Path) -> None:
    """They see different rows, keep the same weights, and end together; one rank's run is another."""
    small = "--width 32 --layers 1 --heads 2 --feed-forward 48 --tokens 2048 --workers 0 --device cpu --steps 9"
    command = [str(SCRIPTS / "train_bundled.py"), "--data", str(data), *small.split(), "--minutes", "0"]
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*ranks, *command, "--out", str(tmp_path / "two")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "differ" not in done.stderr
    subprocess.run([sys.executable, *command, "--out", str(tmp_path / "one")], check=True, capture_output=True)
    assert train_bundled.last_step(tmp_path / "two") == train_bundled.last_step(tmp_path / "one") == 1
    two, one = (torch.load(tmp_path / name / "state.pt", weights_only=True)["model"] for name in ("two", "one"))
    assert any(not torch.equal(tensor, one[name]) for name, tensor in two.items())


def test_rate_warms_up_stays_and_falls_to_zero() -> None:
    rates = [train_bundled.rate(step, 10_000, 4500, step) for step in range(10_001)]
    assert rates[0] < 0.01 and rates[1000] == rates[5000] == 1.0 and rates[10_000] == 0.0
    assert rates[9000] < rates[8000] < rates[6000]
    assert train_bundled.rate(3000, 10_000, 4500, 0) < 0.02


def test_checks_tell_a_model_that_knows_from_one_that_guesses(data: Path) -> None:
    tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    samples = [([5, 6, 7], [8, 9], [10 + i, 11, 12]) for i in range(5)]

    def knows(ids: torch.Tensor) -> torch.Tensor:  # the next token, always
        return torch.nn.functional.one_hot(ids.roll(-1, 1), size).float()

    def uniform(ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*ids.shape, size)

    assert bundled_check.accuracy(knows, samples, "cpu", batch=2) == 1.0
    assert bundled_check.accuracy(uniform, samples, "cpu") == 0.0
    text = "Some words of no import, and 12 more.\n" * 40
    tokens = len(tokenizer.encode(text).ids)
    bits = bundled_check.bits_per_byte(uniform, [text], tokenizer, "cpu", length=64)
    assert bits == pytest.approx(np.log2(size) * tokens / len(text), rel=1e-4)
    assert bundled_check.beats([1.0, 2.0], [3.0, 2.0]) == 0.875
    sample = Sample("task", "Some text.", "Which?", ("oak",), ())
    (context, *rest), (plain, *same) = (bundled_check.encode(tokenizer, sample, ahead) for ahead in (True, False))
    assert (
        tokenizer.decode(context) == "Question: Which?\nSome text." and rest == same and context[-len(plain) :] == plain
    )
    novels = list(works(data / "valid.jsonl.xz"))
    few = {"n": 2, "length": 512, "say": lambda _: None}
    figures = bundled_check.check(knows, tokenizer, novels, only=["number, 1 fact", "two facts"], **few)
    assert figures == {"number, 1 fact": 1.0, "two facts": 1.0}
    with pytest.raises(InputError, match="nonsense"):
        bundled_check.check(knows, tokenizer, novels, only=["nonsense"], **few)


def test_timed_rate_warms_up_and_ends_at_zero() -> None:
    assert train_bundled.timed_rate(0.5, 0, 100, 0) < 0.01
    assert train_bundled.timed_rate(0.5, 50, 100, 5000) == 0.25
    assert train_bundled.timed_rate(0.5, 100, 100, 5000) == train_bundled.timed_rate(0.5, 130, 100, 9) == 0.0


def test_a_row_that_cannot_be_made_costs_no_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options(data, tmp_path, "--mix", "wide")
    array = bundled_batches.unpack_tokens(data, tmp_path)
    words = split_words((data / "words.txt").read_text().split(), "train")
    batches = bundled_batches.Batches(array, data / "tokenizer.json", words, chosen)
    whole = bundled_sequences.Sequences.row
    calls: list[int] = []

    def sometimes(self, rng: random.Random, length: int):  # type: ignore[no-untyped-def]
        calls.append(length)
        if len(calls) == 1:
            raise IndexError("made to fail")
        return whole(self, rng, length)

    monkeypatch.setattr(bundled_sequences.Sequences, "row", sometimes)
    ids, weights = batches[0]
    assert ids.shape == weights.shape and batches.skipped == 1 and len(calls) == len(ids) + 1
