"""Training of the bundled model at toy size: data, sequences, optimizer, resuming, checks."""

from __future__ import annotations

import json
import lzma
import random
import subprocess
import sys
from dataclasses import replace
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
import bundled_documents  # noqa: E402
import bundled_misses  # noqa: E402
import bundled_mixes  # noqa: E402
import bundled_sequences  # noqa: E402
import bundled_shards  # noqa: E402
import bundled_variety  # noqa: E402
import bundled_wording  # noqa: E402
import train_bundled  # noqa: E402
from bundled_data import works  # noqa: E402
from bundled_optimizer import Muon, orthogonalize  # noqa: E402

from npukv.errors import InputError  # noqa: E402
from npukv.evaluation import templates  # noqa: E402
from npukv.evaluation.facts import KINDS, Fact, draw_fact  # noqa: E402
from npukv.evaluation.sample import Sample  # noqa: E402
from npukv.evaluation.words import held_out, split_words  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder made by bundled_data.py from made-up works."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randint(4, 8))) for _ in range(400)]
    source = tmp_path_factory.mktemp("classics")
    for name, n in (("train_00", 4), ("valid", 1)):
        with lzma.open(source / f"{name}.jsonl.xz", "wt", encoding="utf-8") as file:
            for _ in range(n):
                sentences = (" ".join(rng.choices(words, k=9)) + "." for _ in range(500))
                file.write(json.dumps({"text": "\n\n".join(s.capitalize() + " " + s for s in sentences)}) + "\n")
    out = tmp_path_factory.mktemp("data")
    command = [sys.executable, str(SCRIPTS / "bundled_data.py"), "--classics", str(source), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def sequences(data: Path, tmp_path_factory: pytest.TempPathFactory) -> bundled_sequences.Sequences:
    array = bundled_batches.unpack_tokens(data, tmp_path_factory.mktemp("array"))
    words = split_words((data / "words.txt").read_text().split(), "train")
    return bundled_sequences.Sequences(np.load(array), Tokenizer.from_file(str(data / "tokenizer.json")), words)


def options(data: Path, out: Path, *more: str):  # type: ignore[no-untyped-def]
    small = "--width 32 --layers 1 --heads 2 --feed-forward 48 --length 2048 --tokens 2048 --workers 0 --device cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train", "--data", str(data), "--out", str(out), *small.split(), *more])
        return train_bundled.settings()


def test_tokens_are_the_works_and_each_is_closed(data: Path, sequences: bundled_sequences.Sequences) -> None:
    ends = np.flatnonzero(sequences.tokens == 1)
    assert len(ends) == 4 and ends[-1] == len(sequences.tokens) - 1
    assert not (sequences.tokens == 0).any()
    tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
    assert len(tokenizer.encode("12345").ids) == 5
    assert tokenizer.decode(tokenizer.encode("It's 3 o'clock.\n\nÉté").ids) == "It's 3 o'clock.\n\nÉté"


@pytest.mark.parametrize("length", [512, 2048])
def test_rows_have_their_length_and_follow_from_the_seed(sequences: bundled_sequences.Sequences, length: int) -> None:
    for seed in range(40):
        ids, weights = sequences.row(random.Random(seed), length)
        assert ids.shape == weights.shape == (length + 1,)
        assert ids[0] == 0
        for at in np.flatnonzero(weights == 0):  # the beginning of an answer, and nothing else
            before = sequences.tokenizer.decode(ids[max(0, at - 200) : at].tolist())
            assert before.rpartition("\n")[2].startswith("Answer:")
        again, _ = sequences.row(random.Random(seed), length)
        assert (ids == again).all()


def test_the_heaviest_tokens_are_the_answers(sequences: bundled_sequences.Sequences) -> None:
    found = 0
    for seed in range(60):
        ids, weights = sequences.row(random.Random(seed), 512)
        text = sequences.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        heavy = weights > bundled_documents.PLAIN
        starts = np.flatnonzero(heavy & ~np.roll(heavy, 1))
        stops = np.flatnonzero(heavy & ~np.roll(heavy, -1)) + 1
        for start, stop in zip(starts, stops, strict=True):
            answer = sequences.tokenizer.decode(ids[start:stop].tolist())
            before = sequences.tokenizer.decode(ids[max(0, start - 200) : start].tolist())
            assert answer.startswith(" ") and answer.endswith(".")
            assert "\nAnswer:" in before and "\n" not in before.rpartition("\nAnswer:")[2]
            found += 1
        assert ("\nQuestion:" in text) == bool(heavy.any())
    assert found > 50


def test_beginnings_of_answers_are_given_and_not_learnt(sequences: bundled_sequences.Sequences) -> None:
    """A model that had learnt them began its answers so wherever it was unsure, and asked for nothing but the value."""
    asked = [bundled_documents.Asked("Which?", "It is the", "oak"), bundled_documents.Asked("And where?", "", "hall")]
    ids, weights = sequences._tail(asked)
    text = sequences.tokenizer.decode(ids, skip_special_tokens=False)
    assert text == "\nQuestion: Which?\nAnswer: It is the oak.\nQuestion: And where?\nAnswer: hall.<|eos|>"
    learnt = [i for i, weight in zip(ids, weights, strict=True) if weight]
    assert sequences.tokenizer.decode(learnt) == text.replace(" It is the", "").replace("<|eos|>", "")


def test_training_never_shows_held_out_forms_or_words(sequences: bundled_sequences.Sequences) -> None:
    held_attributes = {name for group in templates.ATTRIBUTES.values() for name in group["held-out"]}
    held_verbs = {verb[0] for verb in templates.VERBS["held-out"]}
    rng = random.Random(1)
    for _ in range(400):
        fact = sequences._fact(rng, rng.choice(KINDS))
        if fact.kind != "place":
            assert fact.attribute not in held_attributes
        if fact.verb:
            assert fact.verb[0] not in held_verbs
        for word in (*fact.key.split("-"), fact.value):
            assert not (word.isalpha() and held_out(word))
    own = {form for name in dir(bundled_variety) if name.isupper() for form in getattr(bundled_variety, name)}
    for name in ("STATEMENTS", "QUESTIONS", "LONE_STATEMENTS", "LONE_QUESTIONS", "PLACE_STATEMENTS", "PLACE_QUESTIONS"):
        assert not own & set(getattr(templates, name)["held-out"])


@pytest.mark.parametrize("kind", KINDS)
def test_variations_keep_the_fact(sequences: bundled_sequences.Sequences, kind: str) -> None:
    rng = random.Random(2)
    for _ in range(300):
        fact = draw_fact(rng, kind, sequences.words, "train", key="oak-river")
        varied = bundled_wording.reword(rng, fact, sequences.words)
        assert varied.value in varied.statement and "oak-river" in varied.statement.lower()
        assert "oak-river" in varied.question.lower() and fact.attribute in varied.question.lower()
        assert "{" not in varied.statement + varied.question + varied.prefix


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


@pytest.mark.parametrize("mix", ["wide", "written", "grafted", "coined", "fresh", "spliced", "ahead", "absent"])
def test_wide_rows_keep_the_fact_and_show_no_held_out_form(sequences: bundled_sequences.Sequences, mix: str) -> None:
    wide = bundled_sequences.Sequences(sequences.tokens, sequences.tokenizer, sequences.words, bundled_mixes.MIXES[mix])
    held_attributes = {name for group in templates.ATTRIBUTES.values() for name in group["held-out"]}
    rng = random.Random(3)
    for i in range(600):
        fact = wide._fact(rng, KINDS[i % 4])
        assert fact.value in fact.statement and fact.key.lower() in fact.statement.lower()
        assert fact.key.lower() in fact.question.lower() and fact.attribute in fact.question.lower()
        assert "{" not in fact.statement + fact.question + fact.prefix
        group = "PLACE_" if fact.kind == "place" else "" if fact.key else "LONE_"
        for name, text in (("STATEMENTS", fact.statement), ("QUESTIONS", fact.question), ("PREFIXES", fact.prefix)):
            for form in getattr(templates, group + name)["held-out"]:
                assert fact.fill(form).lower() not in text.lower()
        assert fact.kind == "place" or fact.attribute not in held_attributes
        assert fact.verb is None or fact.verb not in templates.VERBS["held-out"]
        assert not any(word.isalpha() and held_out(word) for word in (*fact.key.split("-"), fact.value))
    for seed in range(30):
        ids, _ = wide.row(random.Random(seed), 512)
        assert len(ids) == 513


def test_coined_words_begin_with_any_token_and_none_is_held_out(sequences: bundled_sequences.Sequences) -> None:
    """A model never shown a token as an answer took it for none: "afternoon" for a held-out "morning"."""
    tokenizer = sequences.tokenizer
    begins = {
        t[1:] for t in tokenizer.get_vocab() if t[0] == "Ġ" and t[1:].isascii() and t[1:].isalpha() and len(t) > 3
    }
    assert bundled_wording.beginnings(tokenizer) == sorted(b for b in begins if b.islower())
    begins = set(bundled_wording.beginnings(tokenizer))
    made = bundled_wording.coin(random.Random(0), tokenizer, sorted(begins), sequences.words, 4 * len(begins))
    shown = {tokenizer.encode(f" {word}").tokens[0][1:] for word in made}
    whole = {begin for begin in begins if held_out(begin)}
    assert shown <= begins and len(shown) > 0.8 * len(begins) and len(shown & whole) > 0.8 * len(whole) > 0
    assert not any(held_out(word) for word in made)
    assert bundled_wording.coin(random.Random(0), tokenizer, sorted(begins), sequences.words, 0) == []


def test_fresh_coined_words_are_a_rows_own(sequences: bundled_sequences.Sequences) -> None:
    """Of the same coined words all the time a model learns how each goes on; a row still follows from its seed."""
    made = []
    for _ in range(2):
        fresh = bundled_sequences.Sequences(
            sequences.tokens, sequences.tokenizer, sequences.words, bundled_mixes.MIXES["fresh"]
        )
        fixed, count = fresh.words[: fresh.given], len(fresh.words)
        rows, coined = [], []
        for seed in (5, 6) if not made else (6,):
            rows.append(fresh.row(random.Random(seed), 512)[0].tolist())
            coined.append(set(fresh.words[fresh.given :]))
        assert fresh.words[: fresh.given] == fixed and len(fresh.words) == count
        assert not any(held_out(word) for word in fresh.words)
        made.append((rows[-1], coined))
    assert made[0][0] == made[1][0]
    first, second = made[0][1]
    assert len(first) > 10 and len(first & second) < len(first) / 2


def test_questions_ahead_are_the_first_asked_behind_and_nothing_else_changes(
    sequences: bundled_sequences.Sequences,
) -> None:
    asked = [bundled_documents.Asked(f"Which {name}?", "It is", name) for name in ("oak", "elm", "ash")]
    plain, weights = sequences._join([5, 6, 7], asked)
    sequences.ahead = 2
    ids, heavy = sequences._join([5, 6, 7], asked)
    sequences.ahead = 0
    added = len(ids) - len(plain)
    assert sequences.tokenizer.decode(ids[1 : 1 + added]) == "Question: Which oak?\nQuestion: Which elm?\n"
    assert [ids[0], *ids[1 + added :]] == plain
    assert heavy == [weights[0], *[0] * added, *weights[1:]]


def test_rows_with_questions_ahead_have_their_length_and_learn_no_question_twice(
    sequences: bundled_sequences.Sequences,
) -> None:
    mix = replace(bundled_mixes.MIXES["ahead"], ahead=1.0, plain_rows=0.0)
    made = bundled_sequences.Sequences(sequences.tokens, sequences.tokenizer, sequences.words, mix)
    found = 0
    for seed in range(30):
        ids, weights = made.row(random.Random(seed), 1024)
        assert ids.shape == weights.shape == (1025,)
        text = made.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        for document in text.split("<|bos|>"):
            if document.startswith("Question: ") and document.endswith("<|eos|>"):
                first = document[len("Question: ") :].partition("\n")[0]
                assert document.count(f"\nQuestion: {first}\nAnswer:") >= 1
                assert document.index(f"\nQuestion: {first}\nAnswer:") == document.index("\nAnswer:") - len(
                    f"\nQuestion: {first}"
                )
                found += 1
    assert found > 20


@pytest.mark.parametrize("alone", [0.0, 1.0])
def test_beside_an_absent_fact_other_keys_have_what_is_asked_for(
    sequences: bundled_sequences.Sequences, alone: float
) -> None:
    """Where they seldom did, a model gave the one value of an attribute for any key, with certainty."""
    mix = replace(
        bundled_mixes.MIXES["absent"], absent=1.0, alone=alone, ahead=0.0, misses=0.0, kinds=("number",), facts=(1,)
    )
    made = bundled_sequences.Sequences(sequences.tokens, sequences.tokenizer, sequences.words, mix)
    beside = 0
    for seed in range(60):
        rng, seen = random.Random(seed), []

        def fact(*given: object, seen: list[Fact] = seen, **more: object) -> Fact:
            seen.append(bundled_sequences.Sequences._fact(made, *given, **more))
            return seen[-1]

        made._fact = fact
        context, _, answers = made.tokenizer.decode(made._facts(rng, 400)[0]).partition("\nQuestion: ")
        asked, *others = seen
        assert asked.value not in context and f"{asked.value}." in answers
        assert len(others) <= 3 * alone and asked.key not in [other.key for other in others]
        assert all(other.attribute == asked.attribute and other.value in context for other in others)
        beside += bool(others)
    assert beside > 50 if alone else beside == 0


def test_swapped_attributes_are_those_of_other_kinds() -> None:
    """Where a kind has names of its own, a name the model does not know is answered by its sound, not by the text."""
    held = {name for group in templates.ATTRIBUTES.values() for name in group["held-out"]}
    rng = random.Random(0)
    own = {bundled_wording.attribute(rng, "word", ["oak"]) for _ in range(2000)} - {None}
    names = {bundled_wording.attribute(rng, "word", ["oak"], 1.0) for _ in range(2000)} - {None}
    numbers = {name for name in names if name.rpartition(" ")[2] in bundled_variety.NOUNS["number"]}
    assert len(numbers) > 50 and not numbers & own and not names & held
    assert bundled_wording.attribute(rng, "place", ["oak"], 1.0) is None


def test_every_value_of_a_key_is_worded_freely(
    sequences: bundled_sequences.Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all but the first stood in the templates' own forms, a model named two of three in other forms."""
    mix = replace(bundled_mixes.MIXES["coined"], several=1.0, kinds=("number",), facts=(1,))
    several = bundled_sequences.Sequences(sequences.tokens, sequences.tokenizer, sequences.words, mix)

    def restate(rng: random.Random, fact: Fact, value: str, split: str) -> Fact:
        return replace(fact, value=value, statement=f"Restated as it was: {value}.")

    monkeypatch.setattr(bundled_sequences, "restate", restate)
    further = plain = 0
    for seed in range(80):
        ids, _ = several._facts(random.Random(seed), 512)
        text = sequences.tokenizer.decode(ids)
        if "What are all the" in text:
            further += text.rpartition("Answer:")[2].count(",")
            plain += text.lower().count("restated as it was")
    assert further > 50 and plain < 0.3 * further


def test_documents_end_anywhere(sequences: bundled_sequences.Sequences) -> None:
    """Where they all filled their row, places told whether an answer's beginning was given; the model learnt that."""
    rng = random.Random(5)
    sizes = [sequences._size(rng, 2049) for _ in range(2000)]
    assert max(sizes) <= 2049
    assert max(sizes.count(size) for size in {*sizes} - {1024}) < 100
    assert sum(size > 1950 for size in sizes) > 800


def test_near_misses_are_about_others(sequences: bundled_sequences.Sequences) -> None:
    rng = random.Random(4)
    for kind in KINDS:
        fact = draw_fact(rng, kind, sequences.words, "train", key="oak-river")
        for _ in range(200):
            assert bundled_misses.near_key(rng, fact.key, {"oak"}, sequences.words) not in ("oak", "oak-river")
            name = bundled_misses.near_attribute(rng, fact, sequences.words)
            assert name != fact.attribute and (kind == "place" or name not in fact.attribute)


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
