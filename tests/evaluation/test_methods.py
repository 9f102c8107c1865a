"""What each method lets the model read, where it ranks the evidence, and how answers are generated from it."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from npukv.errors import InputError
from npukv.evaluation.case import Case
from npukv.evaluation.generate import generate_answers
from npukv.evaluation.methods import METHODS, Inapplicable, find_method
from npukv.evaluation.sample import Sample
from npukv.prompt import build_prompt
from npukv.relevance import answer
from npukv.relevance.answer import KEEP
from npukv.relevance.second_look import FEWEST, look_again

FACT = "The magic number of zyxwort is 4711."


def hidden(text: str, at: int, **options: Any) -> Sample:
    at = text.index(" ", at)
    context = f"{text[:at]} {FACT}{text[at:]}"
    given = {"question": "What is the magic number of zyxwort?", "answers": ("4711",), "max_new_tokens": 8} | options
    return Sample("test", context, evidence=((at + 1, at + 1 + len(FACT)),), **given)


def read(case: Case, name: str) -> str:
    choice = find_method(name)(case, 0)
    return case.lm.decode([int(i) for start, end in choice.spans for i in case.tokens.ids[start:end]])


def test_full_and_last(llama: Any, text: str) -> None:
    short, long = Case(llama, [hidden(text[:150], 50)]), Case(llama, [hidden(text, 900)])
    assert read(short, "full") == short.samples[0].context
    with pytest.raises(Inapplicable, match="do not fit the model's context of 256"):
        find_method("full")(long, 0)
    last = read(long, "last")
    assert text.endswith(last) and len(llama.encode(last)) <= long.room(0) <= len(llama.encode(last)) + 2


@pytest.mark.parametrize("at", [0, 700, 3900])
def test_oracle_and_words(llama: Any, text: str, at: int) -> None:
    case = Case(llama, [hidden(text, at)])
    assert FACT in read(case, "oracle")
    assert "zyxwor" in read(case, "bm25:1")
    choice = find_method("bm25:1")(case, 0)
    assert choice.ranking is not None and case.rank(0, choice.ranking) == 0
    assert sorted(choice.ranking) == list(range(len(case.segments)))


def test_oracle_needs_evidence(llama: Any, text: str) -> None:
    with pytest.raises(Inapplicable):
        find_method("oracle")(Case(llama, [Sample("test", text, "What?", ("x",), ())]), 0)


def test_bm25_leaves_the_card_alone(llama: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bm25s starts jax where it is installed, and jax takes three quarters of a card's memory for itself."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for name in [name for name in sys.modules if name.startswith("bm25s")]:
        monkeypatch.delitem(sys.modules, name)
    seen = []

    class Watch:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "bm25s":
                seen.append(os.environ.get("JAX_PLATFORMS"))

    monkeypatch.setattr(sys, "meta_path", [Watch(), *sys.meta_path])
    find_method("bm25:1")(Case(llama, [hidden(text, 900)]), 0)
    assert seen == ["cpu"]


def test_random_is_random_but_reproducible(llama: Any, text: str) -> None:
    def chosen(seed: int) -> list[tuple[int, int]]:
        return find_method("random:2")(Case(llama, [hidden(text, 900, meta={"seed": seed})]), 0).spans

    assert chosen(1) == chosen(1)
    assert len({str(chosen(seed)) for seed in range(8)}) > 4


def test_xl3m_reads_the_segments_its_measure_ranks_first(llama: Any, text: str) -> None:
    case = Case(llama, [hidden(text, 900)])
    for measure in ("first", "certainty", "question", "certainty+question", "certainty+question+words"):
        choice = find_method(f"xl3m:{measure}:2")(case, 0)
        order = np.argsort(case.scores[0].by(measure), kind="stable")
        assert choice.ranking is not None and choice.ranking.tolist() == order.tolist()
        wanted = sorted(int(i) for i in order[:2])
        assert choice.spans[0][0] == case.segments[wanted[0]].start
        assert choice.spans[-1][1] == case.segments[wanted[-1]].end
    for short, long in (
        ("xl3m", f"xl3m:certainty+question+words:{KEEP}"),
        ("xl3m:first", "xl3m:first:1"),
        ("xl3m-twice", "xl3m-twice:certainty+question+words:1"),
    ):
        assert find_method(short)(case, 0).spans == find_method(long)(case, 0).spans
    filled = sum(end - start for start, end in find_method("xl3m:first:fill")(case, 0).spans)
    segment = case.segments[0].end - case.segments[0].start
    assert case.room(0) - segment < filled <= case.room(0)
    parts = find_method("xl3m:question:passages")(case, 0)
    assert case.room(0) - segment // 2 < sum(end - start for start, end in parts.spans) <= case.room(0)
    assert parts.ranking is not None and parts.ranking.tolist() == case.scores[0].by("question").argsort().tolist()


def test_xl3m_twice_looks_twice_unless_the_measure_looks_once(llama: Any, text: str) -> None:
    case = Case(llama, [hidden(text, 900)], segment=20, overlap=2)
    assert len(case.segments) > 2 * FEWEST
    for measure in ("certainty", "certainty+question+words"):
        once, twice = (find_method(f"{name}:{measure}:1")(case, 0).ranking for name in ("xl3m", "xl3m-twice"))
        scores = replace(case.scores[0], measure=measure)
        again = look_again(llama, case.tokens, scores, 1).ranking()[:FEWEST]
        assert once is not None and twice is not None
        assert twice[:FEWEST].tolist() == again.tolist()
        assert set(again) == set(once[:FEWEST]) and twice[FEWEST:].tolist() == once[FEWEST:].tolist()
    once, twice = (find_method(f"{name}:first:1")(case, 0).ranking for name in ("xl3m", "xl3m-twice"))
    assert once is not None and twice is not None and once.tolist() == twice.tolist()
    behind = Case(llama, [hidden(text, 900)], segment=20, overlap=2, ahead=False)
    with pytest.raises(Inapplicable, match="question ahead"):
        find_method("xl3m-twice")(behind, 0)


def test_one_second_look_serves_all_numbers_kept(llama: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(answer, "look_again", lambda *a, **k: looked.append(1) or look_again(*a, **k))
    case = Case(llama, [hidden(text, 900), hidden(text, 900, question="Where?")])
    for i in (0, 1):
        for keep in ("1", "2", "fill", "margin:0.1"):
            find_method(f"xl3m-twice::{keep}")(case, i)
    assert len(looked) == 2


def test_questions_share_the_reading_and_get_the_scores_they_get_alone(llama: Any, text: str) -> None:
    samples = [hidden(text, 900), hidden(text, 900, question="Where is it?", answer_prefix="It is in the")]
    together = Case(llama, samples)
    for i, sample in enumerate(samples):
        alone = Case(llama, [sample], segment=together.segments[0].end)
        np.testing.assert_allclose(together.scores[i].values, alone.scores[0].values, atol=1e-4)


def test_ranks(llama: Any, text: str) -> None:
    case = Case(llama, [hidden(text, 900)])
    (holding,) = case.relevant(0)
    others = [i for i in range(len(case.segments)) if i not in holding]
    assert case.rank(0, np.array([*others[:3], *sorted(holding), *others[3:]])) == 3
    assert case.rank(0, np.array([*sorted(holding), *others])) == 0


def test_rank_of_two_pieces_counts_what_must_be_kept(llama: Any, text: str) -> None:
    sample = Sample("test", text, "What?", ("x",), ((10, 20), (len(text) - 20, len(text) - 10)), max_new_tokens=8)
    case = Case(llama, [sample])
    first, second = (min(segments) for segments in case.relevant(0))
    others = [i for i in range(len(case.segments)) if i not in case.relevant(0)[0] | case.relevant(0)[1]]
    rest = sorted((case.relevant(0)[0] | case.relevant(0)[1]) - {first, second})
    assert case.rank(0, np.array([first, second, *others, *rest])) == 0  # the first two: nothing in between
    assert case.rank(0, np.array([first, *others[:4], second, *others[4:], *rest])) == 4


def test_evidence_cut_by_a_border_counts_where_most_of_it_lies(llama: Any, text: str) -> None:
    case = Case(llama, [hidden(text, 900)], segment=40, overlap=0)
    start, end = case.samples[0].evidence[0]
    (found,) = case.relevant(0)
    held = [min(s.char_end, end) - max(s.char_start, start) for s in case.segments]
    assert found == {i for i, size in enumerate(held) if size == max(held)}


@pytest.mark.parametrize(
    "name",
    ["none", "full:2", "bm25:first:2", "bm25:0", "bm25:margin:0.5", "bm25:passages", "xl3m:best", "xl3m:first:x"],
)
def test_unknown_methods_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="got"):
        find_method(name)


def test_every_method_runs_by_its_bare_name(llama: Any, text: str) -> None:
    case = Case(llama, [hidden(text[:200], 50)])
    for name in METHODS:
        assert find_method(name)(case, 0).spans
    assert find_method("xl3m:certainty:margin:0.5")(case, 0).spans


def test_different_contexts_are_refused(llama: Any, text: str) -> None:
    with pytest.raises(InputError, match="same context"):
        Case(llama, [hidden(text, 100), hidden(text, 200)])


def test_a_question_that_leaves_no_room_is_refused(llama: Any, text: str) -> None:
    with pytest.raises(InputError, match="more than the model's context of 256"):
        Case(llama, [hidden(text, 900, max_new_tokens=250)]).room(0)


@pytest.mark.parametrize("limit", [120, 262_144])
def test_answers_in_batches_are_those_one_by_one(lm: Any, text: str, limit: int, monkeypatch: Any) -> None:
    """Left padding, batching and doubles change nothing."""
    monkeypatch.setattr(lm.device, "batch_tokens", limit)
    prompts = [[*build_prompt(lm.tokenizer, "?").head, *lm.encode(text[i : i + 7 + 40 * i])] for i in range(6)]
    prompts.append(prompts[2])
    together = generate_answers(lm, prompts, [5] * 7)
    assert together == [generate_answers(lm, [prompt], [5])[0] for prompt in prompts]
    assert len(set(together)) > 1


def test_an_answer_ends_with_its_line(chains: Any) -> None:
    said = chains.load({" is 12.\nQuestion: more": 60.0})
    assert generate_answers(said, [said.encode("It is")], [12]) == [" 12."]
    talkative = chains.load({" is 12.\nQuestion: more": 60.0}, chat=True)
    assert generate_answers(talkative, [talkative.encode("It is")], [12])[0].startswith(" 12.\nQuestion")


def test_prompts_beyond_the_context_are_refused(llama: Any) -> None:
    with pytest.raises(InputError, match="250 tokens and 8 to come, expected at most 256"):
        generate_answers(llama, [[5] * 250], [8])
