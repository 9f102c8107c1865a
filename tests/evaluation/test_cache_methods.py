"""Methods that read the context into a cache before the question is seen: answers, sizes, perplexity, the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from npukv.cache.named import CacheChoice
from npukv.errors import InputError
from npukv.evaluation.cli import eval_command
from npukv.evaluation.generate import answer_through_cache, generate_answers
from npukv.evaluation.methods import cache_of, find_method
from npukv.evaluation.metrics import lenient_score
from npukv.evaluation.perplexity import measure_perplexity
from npukv.evaluation.report import render_report
from npukv.evaluation.runner import Suite, evaluate
from npukv.evaluation.sample import Sample
from npukv.evaluation.summary import cells, summarise

SUITE = Suite(
    ("needle-number", "key-values"), ("full", "clustered:0.5", "clustered:1.0", "hashed:60", "oracle"), (256, 512), 2
)


def parts(lm: Any, text: str, length: int = 150) -> tuple[list[int], list[int]]:
    context = [lm.tokenizer.bos_token_id, *lm.encode(text)][:length]
    return context, lm.encode("\nQuestion: Who went up out of Egypt?\nAnswer:")


@pytest.mark.parametrize("name", ["full", "clustered", "hashed"])
def test_a_cache_that_keeps_all_answers_as_the_model_does(llama: Any, text: str, name: str) -> None:
    for at in range(0, 1200, 300):
        context, question = parts(llama, text[at:])
        choice = CacheChoice(name, None if name == "full" else 1.0)
        said, size = answer_through_cache(llama, context, question, 12, choice)
        assert said == generate_answers(llama, [[*context, *question]], [12])[0]
        assert (size.logical_tokens, size.physical_tokens) == (150, 150)


def test_the_size_is_that_of_the_context_alone(llama: Any, text: str) -> None:
    context, question = parts(llama, text)
    _, size = answer_through_cache(llama, context, question, 12, CacheChoice("clustered", 0.5))
    assert size.logical_tokens == 150
    assert 0.3 * 150 < size.physical_tokens <= 0.55 * 150
    config = llama.model.config
    assert size.logical_bytes == config.num_hidden_layers * 2 * config.num_key_value_heads * 150 * config.head_dim * 4


def test_the_question_cannot_change_what_was_kept(llama: Any, text: str, monkeypatch: Any) -> None:
    made: list[Any] = []
    real = CacheChoice.make

    def make(self: CacheChoice, lm: Any, capacity: int) -> Any:
        made.append(real(self, lm, capacity))
        return made[-1]

    monkeypatch.setattr(CacheChoice, "make", make)
    context, _ = parts(llama, text)
    choice = CacheChoice("clustered", 0.5)
    for question in ("\nWho?", "\nWhat is the number of the children of Israel?"):
        answer_through_cache(llama, context, llama.encode(question), 2, choice)
    kept = [[layer.keys[:, :, :60] for layer in cache.layers] for cache in made]
    for one, other in zip(*kept, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_what_does_not_fit_is_refused(llama: Any, text: str) -> None:
    context, question = parts(llama, text, 240)
    with pytest.raises(InputError, match="expected at most 256"):
        answer_through_cache(llama, context, question, 12, CacheChoice("clustered", 0.5))


def test_names() -> None:
    assert cache_of("clustered") == CacheChoice("clustered", 0.25)
    assert cache_of("hashed") == CacheChoice("hashed", 2048)
    assert cache_of("hashed:0.5") == CacheChoice("hashed", 0.5)
    assert cache_of("clustered:512") == CacheChoice("clustered", 512)
    assert cache_of("full") is cache_of("xl3m:first:2") is None
    for name in ("clustered:0.0", "clustered:2.5", "clustered:a", "hashed:0", "clustered:0.5:0.5", "full:0.5"):
        with pytest.raises(InputError, match="got"):
            find_method(name)


@pytest.fixture(scope="module")
def evaluated(load_tiny: Any, material: Any) -> Any:
    lm = load_tiny("llama")
    return lm, *evaluate(lm, material, SUITE)


def test_an_evaluation_records_what_each_cache_held(evaluated: Any) -> None:
    lm, results, skipped = evaluated
    for (_, length, _, method), record in results.records.items():
        assert length == 256 or method == "oracle"
        assert ("cache" in record) == method.startswith(("clustered", "hashed"))
        if "cache" not in record:
            continue
        size = record["cache"]
        assert size["logical_tokens"] == record["read"] - len(lm.encode(f"\nQuestion: {record['question']}\nAnswer:"))
        if method == "clustered:0.5":
            assert size["physical_tokens"] < 0.6 * size["logical_tokens"]
        if method == "hashed:60":
            assert size["attended_tokens"] == 60 and size["physical_tokens"] == size["logical_tokens"]
    assert SUITE.ahead and not SUITE.reads_ahead
    assert {entry.method for entry in skipped} == {"full", "clustered:0.5", "clustered:1.0", "hashed:60"}
    whole = {key[:3]: r["output"] for key, r in results.records.items() if key[3] == "full"}
    kept = {key[:3]: r["output"] for key, r in results.records.items() if key[3] == "clustered:1.0"}
    assert whole == kept


def test_it_resumes_to_the_same(evaluated: Any, material: Any, tmp_path: Path) -> None:
    lm, results, _ = evaluated
    fewer = Suite(SUITE.tasks, SUITE.methods, SUITE.lengths, 1)
    evaluate(lm, material, fewer, run=tmp_path)
    again, _ = evaluate(lm, material, SUITE, run=tmp_path)

    def plain(found: Any) -> dict[Any, Any]:
        return {k: {n: v for n, v in r.items() if n != "seconds"} for k, r in found.records.items()}

    assert plain(again) == plain(results)


def test_perplexity_through_caches(llama: Any, text: str) -> None:
    short = text[:900]
    whole = measure_perplexity(llama, short, window=200)

    def through(choice: CacheChoice) -> Any:
        return measure_perplexity(llama, short, window=200, cache=lambda: choice.make(llama, 200), chunk=50)

    assert through(CacheChoice("full")).nats == pytest.approx(whole.nats, rel=1e-4)
    assert through(CacheChoice("clustered", 1.0)).nats == pytest.approx(whole.nats, rel=1e-4)
    assert through(CacheChoice("clustered", 0.5)).nats != pytest.approx(whole.nats, rel=1e-4)


def test_the_report_shows_them(evaluated: Any) -> None:
    lm, results, skipped = evaluated
    records = list(results.records.values())
    measured = measure_perplexity(lm, "In the beginning God created the heaven and the earth.")
    summary = summarise(
        lm, SUITE, records, skipped, text="text", split="train", perplexity=measured,
        compressed={"clustered:0.5": measured.as_dict() | {"full_cache": measured.as_dict()}},
    )  # fmt: skip
    (cell,) = (c for c in cells(records) if (c["task"], c["method"]) == ("needle-number", "clustered:0.5"))
    assert 0.3 < cell["cache"]["held"] < 0.6 and cell["cache"]["held"] == cell["cache"]["attended"]
    page = render_report(json.loads(json.dumps(summary)))
    assert "<h2>Caches</h2>" in page and "keys attended to" in page
    assert page.count("1.000") >= 1  # the perplexity's ratio of the one method that has one
    without = summarise(lm, SUITE, [r for r in records if "cache" not in r], [], text="text", split="train")
    assert "<h2>Caches</h2>" not in render_report(without)


def test_the_command(save_model: Any, text: str, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(text * 20)
    app = typer.Typer()
    app.command()(eval_command)
    arguments = ["--model", str(save_model("llama")), "--device", "cpu", "--text", str(tmp_path / "book.txt")]
    arguments += ["--tasks", "needle-word", "--methods", "full,clustered:0.5,hashed:40", "--lengths", "256", "--n", "1"]
    arguments += ["--split", "train", "--out", str(tmp_path / "report.html")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "clustered:0.5: " in done.output and " attended to" in done.output
    figures = json.loads((tmp_path / "report.json").read_text())
    for through in figures["compressed_perplexity"].values():
        assert through["tokens"] == through["full_cache"]["tokens"]
        assert through["nats"] != through["full_cache"]["nats"]
    assert set(figures["compressed_perplexity"]) == {"clustered:0.5", "hashed:40"}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (" 4711.", 1.0),
        ("The magic number for oak is 4711. Is there more?", 1.0),
        ("I looked. It is 4711.", 0.0),  # the second sentence
        ("It is 47110.", 0.0),
        ("It is\n4711.", 0.0),
        ("3.5 or 4711", 1.0),  # no sentence ends within a number
        ("", 0.0),
    ],
)
def test_the_lenient_metric(output: str, expected: float) -> None:
    sample = Sample("t", "c", "q", ("4711",), (), metric="exact")
    assert lenient_score(sample, output) == expected


def test_the_lenient_metric_is_for_exact_answers_alone() -> None:
    assert lenient_score(Sample("t", "c", "q", ("a",), (), metric="all"), "a") is None
    assert lenient_score(Sample("t", "c", "q", ("New York",), (), metric="exact"), "It is new york, I think") == 1.0
