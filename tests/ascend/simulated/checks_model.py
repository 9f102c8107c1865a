"""Whole runs on the simulated device: an answer over a long text, decoding with every cache, out of memory."""

from __future__ import annotations

import gc

import pytest
import torch

import npukv
from npukv.backends import select
from npukv.bundled import hide, sample_text
from npukv.cache.hashed import HashedCache
from npukv.cache.preallocated import PreallocatedCache
from npukv.decode import generate
from npukv.ops.registry import strict
from npukv.relevance.eight_bit import Weight, quantise_weight, usable
from npukv.relevance.experts import Experts, mixture
from npukv.relevance.fast_forward import FastForward
from tests.ascend.simulated import runtime

QUESTION = "What is the special magic number for heron?"
FACT = "One of the special magic numbers for heron is: 48213."


@pytest.fixture(scope="module")
def both() -> dict[str, npukv.LanguageModel]:
    """The bundled model on both devices, in float32: one arithmetic."""
    return {name: npukv.load(device=name, dtype="float32") for name in ("cpu", "npu")}


@pytest.fixture(scope="module")
def text() -> str:
    return hide(sample_text()[300_000:316_000], [FACT], 4)[0]


def test_an_answer_over_a_long_text(both: dict, text: str, tmp_path, record_property) -> None:
    """Cut, score, pick and answer, as on the CPU; the scores are journalled and read again."""
    given = {name: npukv.answer(lm, text, QUESTION, run=tmp_path / name, batch=4) for name, lm in both.items()}
    assert "48213" in given["npu"].text
    assert given["npu"].text == given["cpu"].text
    assert given["npu"].segments == pytest.approx(given["cpu"].segments) or [
        (a.start, a.end) for a in given["npu"].segments
    ] == [(b.start, b.end) for b in given["cpu"].segments]
    scores = {name: torch.from_numpy(answer.scores.values) for name, answer in given.items()}
    assert len(scores["npu"]) > 12
    torch.testing.assert_close(scores["npu"], scores["cpu"], rtol=1e-4, atol=1e-4)
    again = npukv.answer(both["npu"], text, QUESTION, run=tmp_path / "npu", batch=4)
    assert again.scores.scored == 0
    record_property("segments", str(len(scores["npu"])))


def test_the_default_type_answers_too(text: str) -> None:
    lm = npukv.load(device="auto")
    assert lm.device.name == "npu"
    assert lm.model.dtype is torch.bfloat16
    assert "48213" in npukv.answer(lm, text[:9_000] + FACT, QUESTION, batch=4).text


def test_eight_bit_scores(text: str) -> None:
    """int8 is what the card multiplies; whole segments are scored by its own operators, close to the plain scores."""
    lm = npukv.load(device="npu")
    assert usable(lm.device.torch_device) == [torch.int8]
    eight = FastForward(lm, eight_bit=True, compiled=False)
    before = runtime.operator_calls().get("aten::mm", 0)
    with strict():
        got = npukv.score_segments(lm, text[:6_000], QUESTION, forward=eight, batch=4)
    multiplied = runtime.operator_calls().get("aten::mm", 0) - before
    plain = npukv.score_segments(lm, text[:6_000], QUESTION, forward="plain", batch=4)
    assert eight.kind is torch.int8
    assert abs(got.values - plain.values).max() < 0.2
    assert not (got.values == plain.values).all()
    assert multiplied == 0, "the head alone is multiplied in 16 bits, and by another operator"


@pytest.mark.parametrize("kind", [None, torch.int8], ids=["16 bits", "8 bits"])
def test_a_mixture_of_experts(kind: torch.dtype | None) -> None:
    """Its MLP on the card by grouped products alone, and captured: the host reads no sizes of groups."""
    made = torch.Generator().manual_seed(2)
    shapes = ((5, 64), (5, 96, 64), (5, 64, 48))
    weights = [torch.randn(*shape, generator=made).mul(0.2).bfloat16() for shape in shapes]
    x = torch.randn(33, 64, generator=made).bfloat16()
    router, *wide = (part.float() for part in weights)
    expected = mixture(x.float(), Experts(router, *map(Weight, wide), 2, True))
    router, *placed_weights = (part.to("npu") for part in weights)
    held = (Weight(part) if kind is None else quantise_weight(part, kind) for part in placed_weights)
    placed = Experts(router, *held, 2, True)
    rows = torch.zeros(33, 64, dtype=torch.bfloat16, device="npu")
    with strict():
        mixture(rows, placed)
        graph = torch.npu.NPUGraph()
        with torch.npu.graph(graph):
            got = mixture(rows, placed)
    rows.copy_(x)
    graph.replay()
    assert (got.cpu().float() - expected).abs().max() < 0.03 * expected.abs().max()


def make_caches() -> dict:
    caches = {
        "full": lambda lm, room: lm.new_cache(room),
        "hashed": lambda lm, room: HashedCache(lm.model.config, budget=48),
    }
    try:
        clustered = npukv.ClusteredCache
    except AttributeError:
        return caches
    return caches | {"clustered": lambda lm, room: clustered(lm.model.config, keep=0.5)}


CACHES = make_caches()


@pytest.mark.parametrize("capture", [False, True], ids=["steps", "captured"])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", CACHES)
def test_generation_with_a_cache_is_the_cpus(both: dict, text: str, name: str, rows: int, capture: bool) -> None:
    """Greedy tokens of a prompt, one row and several padded on the left, in single steps and captured ones."""
    tokens = {}
    for device, lm in both.items():
        encoded = [lm.encode(text[1000 * row : 1000 * row + 900 - 200 * row]) for row in range(rows)]
        longest = max(map(len, encoded))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in encoded])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in encoded])
        ids, mask = (x.to(lm.device.torch_device) for x in (ids, mask))
        cache = CACHES[name](lm, longest + 16)
        made = generate(
            lm, ids, cache=cache, attention_mask=mask, max_new_tokens=9, eos=[], capture=capture and device == "npu"
        )
        tokens[device] = made.cpu()
    assert tokens["npu"].shape[1] == longest + 9
    assert torch.equal(tokens["npu"], tokens["cpu"])


@pytest.mark.parametrize("name", CACHES)
def test_a_user_of_transformers_adds_one_argument(both: dict, text: str, name: str) -> None:
    """The same tokens, and the same logits behind each of them.

    Not from the text's beginning: there the clustered cache's logits part by 0.05 at the fifth token. So they do on the
    CPU alone when the weights of the keys are changed by 1e-7 of themselves, there and in two more of the first six
    stretches of 800 characters, and in none of the other three: rounding decides which of two pairs is merged.
    """
    tokens, logits = {}, {}
    for device, lm in both.items():
        ids = torch.tensor([lm.encode(text[2400:3200])], device=lm.device.torch_device)
        options = {"max_new_tokens": 8, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        out = lm.model.generate(ids, past_key_values=CACHES[name](lm, 400), **options)
        tokens[device], logits[device] = out.sequences.cpu(), torch.cat(out.logits).cpu()  # [1, S + 8], [8, V]
    assert torch.equal(tokens["npu"], tokens["cpu"])
    torch.testing.assert_close(logits["npu"], logits["cpu"], rtol=0, atol=1e-3)


def test_strict_mode_meets_no_reference(both: dict, text: str) -> None:
    """Every operator that has a kernel for the device is served by one."""
    lm = npukv.load(device="npu", dtype="float16")
    ids = torch.tensor([lm.encode(text[:1200])], device=lm.device.torch_device)
    for name in CACHES:
        with strict():
            generate(lm, ids, cache=CACHES[name](lm, ids.shape[1] + 9), max_new_tokens=8, eos=[])


@pytest.mark.parametrize("name", CACHES)
def test_a_caches_report_is_what_the_card_holds(both: dict, text: str, name: str, record_property) -> None:
    """Bytes to the byte: the report's physical ones against the allocator's."""
    lm = both["npu"]
    ids = torch.tensor([lm.encode(text[:4000])], device=lm.device.torch_device)
    gc.collect()
    before = torch.npu.memory_allocated()
    cache = CACHES[name](lm, ids.shape[1])
    with torch.no_grad():
        lm.model(ids, past_key_values=cache, logits_to_keep=1)
    gc.collect()
    held = torch.npu.memory_allocated() - before
    report = cache.report()
    record_property("bytes", f"{held} held, {report.physical_bytes} reported")
    assert report.logical_tokens == ids.shape[1]
    projections = [getattr(layer, "weights", None) for layer in cache.layers]  # the model's, not the sequence's
    expected = report.physical_bytes + sum(x.numel() * x.element_size() for x in projections if x is not None)
    assert 0 <= held - expected <= 4096, "small tensors beside keys and values"


def test_out_of_memory_is_told_and_survived(both: dict, text: str) -> None:
    """Scoring under a limit goes on with smaller batches and gives the same; what cannot fit is said to be memory."""
    lm = both["npu"]
    expected = npukv.score_segments(lm, text[:7_000], QUESTION, batch=2)
    torch.npu.reset_peak_memory_stats()
    npukv.score_segments(lm, text[:7_000], QUESTION, batch=8)
    eight = torch.npu.max_memory_allocated()
    torch.npu.reset_peak_memory_stats()
    npukv.score_segments(lm, text[:7_000], QUESTION, batch=2)
    two = torch.npu.max_memory_allocated()
    assert two < eight
    runtime.set_limit((two + eight) // 2)
    try:
        got = npukv.score_segments(lm, text[:7_000], QUESTION)
        torch.testing.assert_close(
            torch.from_numpy(got.values), torch.from_numpy(expected.values), rtol=1e-4, atol=1e-4
        )
        assert torch.npu.max_memory_allocated() <= (two + eight) // 2
        runtime.set_limit(torch.npu.memory_allocated() + (1 << 20))
        with pytest.raises(Exception) as error:
            generate(lm, lm.encode(text[:6000]), max_new_tokens=4)
        chain, found = error.value, False
        while chain is not None:
            found = found or select("npu").is_out_of_memory(chain)
            chain = chain.__cause__ or chain.__context__
        assert found, error.value
    finally:
        runtime.set_limit(None)


def test_the_whole_cache_is_freed(both: dict, text: str) -> None:
    lm = both["npu"]
    gc.collect()
    before = torch.npu.memory_allocated()
    generate(lm, lm.encode(text[:900]), max_new_tokens=6)
    PreallocatedCache(1, 10)
    gc.collect()
    assert torch.npu.memory_allocated() == before
