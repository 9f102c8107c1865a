"""scripts/bench_cache_quality.py at a small size: what must hold whatever the model, and its figures."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
TOKENS = 896
SIZE = ["--tokens", str(TOKENS), "--following", "24", "--n", "2", "--batch", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    sys.path.insert(0, str(SCRIPTS))
    names = ("bench_cache_quality", "cache_quality_evict", "cache_quality_select", "cache_quality_report")
    yield SimpleNamespace(**{name.split("_")[-1]: importlib.import_module(name) for name in names})
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def model(save_model: Any) -> Path:
    return save_model("llama", max_position_embeddings=1024, num_hidden_layers=3)


@pytest.fixture(scope="module")
def found(
    scripts: SimpleNamespace, model: Path, bible: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(bible[:300_000])
    out = tmp_path_factory.mktemp("quality") / "found.json"
    sizes = ["--shares", "0.5,1.0", "--budgets", "0.3,1.5"]
    scripts.quality.main([*SIZE, *sizes, "--model", str(model), "--out", str(out), "--text", str(text)])
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    return json.loads(out.read_text())


def cells(found: dict[str, Any], part: str, share: float) -> dict[str, dict[str, Any]]:
    return {cell["method"]: cell for cell in found["cells"] if (cell["part"], cell["share"]) == (part, share)}


def test_every_method_ran_on_every_context(found: dict[str, Any]) -> None:
    assert found["failed"] == {} and found["contexts"] == {"text": 2, "one": 2, "eight": 2}
    assert set(cells(found, "compress", 0.5)) == {
        "clustered", "clustered by layer", "clustered, 64 recent", "clustered in steps",
        "knorm", "snapkv", "expected attention", "keydiff", "streaming",
    }  # fmt: skip
    assert {"exact top-k", "quest", "streaming", "codes, random 128", "hashed, random 128"} <= set(
        cells(found, "select", 0.3)
    )
    for cell in found["cells"]:
        assert len(cell["raw"]["nll"]) == 2
        assert [len(row) for row in cell["raw"]["one"] + cell["raw"]["eight"]] == [1, 1, 8, 8]


def test_processes_find_what_one_does(
    scripts: SimpleNamespace, found: dict[str, Any], model: Path, bible: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))  # of the processes
    text, out = tmp_path / "text.txt", tmp_path / "found.json"
    text.write_text(bible[:300_000])
    some = ["--parts", "compress", "--shares", "0.5", "--workers", "2"]
    scripts.quality.main([*SIZE, *some, "--model", str(model), "--out", str(out), "--text", str(text)])
    together = json.loads(out.read_text())
    assert together["failed"] == {} and together["contexts"] == found["contexts"]
    alone = cells(found, "compress", 0.5)
    for method, cell in cells(together, "compress", 0.5).items():
        np.testing.assert_allclose(cell["raw"]["nll"], alone[method]["raw"]["nll"], atol=1e-3)
        assert (cell["raw"]["one"], cell["raw"]["eight"]) == (
            alone[method]["raw"]["one"],
            alone[method]["raw"]["eight"],
        )


def test_what_the_table_needs_comes_first(scripts: SimpleNamespace) -> None:
    options = scripts.quality.arguments(["--n", "200", "--batch", "50", "--kvpress", "somewhere"])
    jobs = scripts.quality.plan(options)
    needed = [job for job in jobs if job.group in ("clustered", "kvpress", "select")]
    assert jobs[: len(needed)] == needed and len(needed) == 4 * 3 * (2 * 4 + 3)
    assert len(set(jobs)) == len(jobs)
    assert {job.group for job in jobs[len(needed) :]} == {"clustered_otherwise", "evict", "select_256", "hash"}


def test_a_method_that_fails_leaves_the_others(
    scripts: SimpleNamespace, model: Path, bible: str, tmp_path: Path, monkeypatch: Any
) -> None:
    def broken(*given: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(scripts.quality.Bench, "evict", broken)
    text, out = tmp_path / "text.txt", tmp_path / "found.json"
    text.write_text(bible[:300_000])
    some = ["--parts", "compress", "--shares", "0.5", "--n", "1"]
    scripts.quality.main([*SIZE, *some, "--model", str(model), "--out", str(out), "--text", str(text)])
    found = json.loads(out.read_text())
    assert found["failed"] == {"evict": "RuntimeError: no such kernel"}
    assert "clustered" in cells(found, "compress", 0.5) and "knorm" not in cells(found, "compress", 0.5)


def test_codes_of_other_weights_are_refused(scripts: SimpleNamespace, tmp_path: Path, monkeypatch: Any) -> None:
    from transformers import AutoConfig

    from npukv.bundled import model_folder
    from npukv.cache import hash_weights
    from npukv.errors import InputError

    config = AutoConfig.from_pretrained(model_folder())
    codes = tmp_path / "codes.safetensors"
    hash_weights.HashWeights(32, 0, {0: torch.ones(2, 64, 32)}).save(codes, config, {})
    monkeypatch.setattr(scripts.quality, "bundled_path", lambda: codes)
    options = scripts.quality.arguments([])
    assert "learned" in scripts.quality.code_weights(config, options)
    real = hash_weights.identity
    monkeypatch.setattr(hash_weights, "identity", lambda config: real(config) | {"checkpoint": "retrained"})
    with pytest.raises(InputError, match="another model"):
        scripts.quality.code_weights(config, options)


def test_keeping_everything_is_the_full_cache(found: dict[str, Any]) -> None:
    (full,) = cells(found, "full", 1.0).values()
    for cell in [*cells(found, "compress", 1.0).values(), *cells(found, "select", 1.5).values()]:
        assert np.abs(np.array(cell["raw"]["nll"]) - full["raw"]["nll"]).max() < 1e-3, cell["method"]
        assert (cell["raw"]["one"], cell["raw"]["eight"]) == (full["raw"]["one"], full["raw"]["eight"]), cell["method"]


def test_half_a_cache_is_not(found: dict[str, Any]) -> None:
    (full,) = cells(found, "full", 1.0).values()
    for cell in [*cells(found, "compress", 0.5).values(), *cells(found, "select", 0.3).values()]:
        assert cell["tokens"] < 0.7 * TOKENS, cell["method"]
        assert cell["raw"]["nll"] != full["raw"]["nll"], cell["method"]


def test_the_cache_does_token_by_token_what_its_codes_do_in_one_pass(found: dict[str, Any]) -> None:
    some = cells(found, "select", 0.3)
    cache, codes = some["hashed, random 128"]["raw"], some["codes, random 128"]["raw"]
    np.testing.assert_allclose(cache["nll"], codes["nll"], atol=1e-3)
    assert (cache["one"], cache["eight"]) == (codes["one"], codes["eight"])


def test_the_verdict_on_an_answer_is_that_of_generation(scripts: SimpleNamespace, load_tiny: Any, bible: str) -> None:
    """A model that has learned nothing: what it says itself counts as right, anything else as wrong."""
    from npukv.evaluation.material import Material

    lm = load_tiny("llama")
    contexts = importlib.import_module("cache_quality_contexts")
    context = contexts.fact_context(Material(bible[:300_000], lm.tokenizer), 150, 1, 3)
    assert len(context.ids) == 150
    asked = context.questions[0]
    options = scripts.quality.arguments(["--tokens", "150"])
    bench = scripts.quality.Bench(lm, options, {})
    bench.ends = set(range(len(lm.tokenizer)))  # whatever it says next ends the answer
    prompt = torch.tensor([context.ids + asked.ids])
    said = lm.model.generate(prompt, max_new_tokens=2, min_new_tokens=2, do_sample=False)[0, prompt.shape[1] :].tolist()
    for value, right in ((said, True), ([said[0], said[1] + 1], False)):
        question = contexts.Question("number", asked.ids, value)
        cell = scripts.quality.Cell("compress", "full", 1.0)

        def make() -> Any:
            cache = lm.new_cache(256)
            lm.model(torch.tensor([context.ids]), past_key_values=cache)
            return cache

        with torch.no_grad():
            bench.judge("one", [contexts.Context(context.ids, [question])], cell, make, bench.at_once)
        assert cell.answers["one"] == {0: [right]}


def test_selectors_keep_what_they_must(scripts: SimpleNamespace) -> None:
    torch.manual_seed(0)
    query, keys, values = torch.randn(2, 4, 5, 16), torch.randn(2, 2, 60, 16), torch.randn(2, 2, 60, 16)
    for score in (scripts.select.exact, scripts.select.quest, scripts.select.stream):
        chosen: list[torch.Tensor] = []
        selector = scripts.select.Selector(score, budget=12, sink=3, recent=4, dense=0)
        real = selector._choose
        selector._choose = lambda *given, real=real, chosen=chosen: chosen.append(real(*given)) or chosen[-1]
        selector.attend(0, query, keys, values, 0.25)
        assert chosen[0].sum(-1).unique().tolist() == [12]
        for i in range(5):
            own = 55 + i
            assert chosen[0][:, :, i, [0, 1, 2, own - 3, own - 2, own - 1, own]].all()
            assert not chosen[0][:, :, i, own + 1 :].any()
        everything = scripts.select.Selector(score, budget=60, dense=0).attend(0, query, keys, values, 0.25)
        dense = scripts.select.Selector(score, budget=1, dense=1).attend(0, query, keys, values, 0.25)
        torch.testing.assert_close(everything, dense)


def test_quest_bounds_whole_pages(scripts: SimpleNamespace) -> None:
    """The page with the largest possible product is taken whole, whatever the products of its keys are."""
    keys = torch.zeros(1, 1, 64, 2)
    keys[0, 0, 20] = torch.tensor([3.0, -3.0])
    keys[0, 0, 21] = torch.tensor([-3.0, 3.0])  # with it, page 1 might hold (3, 3)
    keys[0, 0, 40] = torch.tensor([2.0, 2.0])
    query = torch.ones(1, 1, 1, 2)
    chosen: list[torch.Tensor] = []
    selector = scripts.select.Selector(scripts.select.quest, budget=32, dense=0)
    real = selector._choose
    selector._choose = lambda *given: chosen.append(real(*given)) or chosen[-1]
    selector.attend(0, query, keys, keys, 1.0)
    assert chosen[0][0, 0, 0].nonzero()[:, 0].tolist() == [*range(16, 32), *range(48, 64)]


def test_the_readmes_table(scripts: SimpleNamespace) -> None:
    cell = {"part": "select", "method": "quest", "share": 0.06, "eight_of_full": [0.5, 0, 1]}
    cells = [cell | {"perplexity_ratio": [1.25, 1, 2]}, cell | {"method": "exact", "share": 0.12}]
    lines = scripts.report.markdown({"cells": cells}, "select").splitlines()
    assert lines == ["| keys | quest | exact |", "|---|---|---|", "| 12.0% | – | 0.50 |", "| 6.0% | 0.50, 1.250 | – |"]


def test_intervals(scripts: SimpleNamespace) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=400)
    low, high = scripts.report.interval(lambda i: values[i].mean(1), 400)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
