"""Every registered task: within its length, reproducible, evidence where it is said to be; fields of questions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npukv.errors import InputError
from npukv.evaluation.field import easy_field, rival_field
from npukv.evaluation.material import Material
from npukv.evaluation.tasks import TASKS, find_tasks
from npukv.evaluation.words import held_out

OWN = [name for name in TASKS if not name.startswith("ruler-")]


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("tokens", [2048, 5000])
def test_lengths_evidence_and_seeds(material: Material, name: str, tokens: int) -> None:
    sample = TASKS[name](material, tokens, 7, 0.3)
    prompt = f"{sample.context}\nQuestion: {sample.question}\nAnswer: {sample.answer_prefix}"
    used = material.count([prompt])[0] + sample.max_new_tokens
    assert 0.8 * tokens <= used <= tokens
    assert sample.task == name and sample.answers
    stated = " ".join(sample.context[start:end] for start, end in sample.evidence)
    assert stated and all(answer in stated for answer in sample.answers)
    assert TASKS[name](material, tokens, 7, 0.3) == sample
    assert TASKS[name](material, tokens, 8, 0.3).question != sample.question


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["needle-number", "needle-place", "rivals-word", "key-values"]), st.integers(0, 99), st.floats(0, 1)
)
def test_depth(material: Material, name: str, seed: int, depth: float) -> None:
    sample = TASKS[name](material, 4096, seed, depth)
    ((start, _),) = sample.evidence
    assert start / len(sample.context) == pytest.approx(depth, abs=0.1)


def test_long_samples_are_about_as_long_as_asked_for(material: Material) -> None:
    sample = TASKS["rivals-number"](material, 100_000, 0, None)
    assert 0.9 * 100_000 <= material.count([sample.context])[0] <= 100_000
    assert sample.meta["rivals"] == 100_000 // 1536


@pytest.mark.parametrize("name", OWN)
def test_too_few_tokens_are_refused(material: Material, name: str) -> None:
    with pytest.raises(InputError, match="too few"):
        TASKS[name](material, 60, 0, None)


def test_names() -> None:
    assert list(find_tasks(["ruler-niah_single_*", "two-facts"])) == [
        "ruler-niah_single_1",
        "ruler-niah_single_2",
        "ruler-niah_single_3",
        "two-facts",
    ]
    for name in ("needle", "none*"):
        with pytest.raises(InputError, match="expected one of: needle-number"):
            find_tasks([name])


def test_words_belong_to_the_split(bible: str, tokenizer: Any) -> None:
    for split in ("train", "held-out"):
        material = Material(bible, tokenizer, split=split)
        assert material.words and all(held_out(word) == (split == "held-out") for word in material.words)
        key = TASKS["needle-word"](material, 2048, 1, None).answers[0]
        assert held_out(key) == (split == "held-out")


def test_a_text_with_too_few_words_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="expected at least 32"):
        TASKS["needle-word"](Material("word after word. " * 500, tokenizer), 2048, 0, None)


def test_easy_field(material: Material) -> None:
    samples = easy_field(material, 5000, 3)
    assert [sample.task for sample in samples] == ["easy-number", "easy-passkey", "easy-word", "easy-place"]
    assert len({sample.context for sample in samples}) == 1
    for sample in samples:
        ((start, end),) = sample.evidence
        assert sample.answers[0] in sample.context[start:end]
    assert easy_field(material, 5000, 3) == samples


@pytest.mark.parametrize("kind", ["number", "pass key", "word", "place"])
def test_rival_field(material: Material, kind: str) -> None:
    samples = rival_field(material, 8000, 1, kind=kind, facts=20, questions=6, with_decoys=True)
    spans = [sample.evidence[0] for sample in samples]
    assert len(set(spans)) == 6 and len({sample.question for sample in samples}) == 6
    assert all(s.answers[0] in s.context[a:b] for s, (a, b) in zip(samples, spans, strict=True))
    plain = rival_field(material, 8000, 1, kind=kind, facts=20, questions=6)
    assert samples[0].meta["rivals"] == 14 + 6 * 4 and plain[0].meta["rivals"] == 14
    with pytest.raises(InputError, match="expected 1 to 3"):
        rival_field(material, 8000, 1, kind=kind, facts=3, questions=4)
