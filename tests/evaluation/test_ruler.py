"""RULER's tasks: the facts lie where the evidence says, the answers follow from them, lengths hold, seeds reproduce."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from npukv.errors import InputError
from npukv.evaluation import ruler
from npukv.evaluation.material import Material
from npukv.evaluation.ruler import NOISE, RULER
from npukv.evaluation.sample import Sample

NEEDLES = [name for name in RULER if "niah" in name]
GENERATED = [name for name in RULER if "qa" not in name]


def prompt_tokens(material: Material, sample: Sample) -> int:
    prompt = f"{sample.context}\nQuestion: {sample.question}\nAnswer: {sample.answer_prefix}"
    return material.count([prompt])[0] + sample.max_new_tokens


@pytest.fixture(scope="session")
def asked(bible: str, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Material with small question sets in the published formats."""
    folder = tmp_path_factory.mktemp("questions")
    paragraphs = [
        {
            "context": f"The town of Place{i} was founded in {1500 + i} by settlers. It lies on a river.",
            "qas": [
                {
                    "question": f"When was Place{i} founded?",
                    "answers": [{"text": str(1500 + i)}, {"text": str(1500 + i)}],
                },
                {"question": "Which town is unknown?", "answers": [], "is_impossible": True},
            ],
        }
        for i in range(30)
    ]
    (folder / "squad.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    entries = [
        {
            "question": f"Who wrote Book{i}, and where was that author born?",
            "answer": f"Town{i}",
            "supporting_facts": [[f"Book{i}", 0], [f"Author{i}", 0], [f"Author{i}", 1]],
            "context": [
                [f"Book{i}", [f"Book{i} is by Author{i}."]],
                [f"Author{i}", [f"Author{i} was born in Town{i}.", " He is dead."]],
                [f"Other{i}", ["Nothing."]],
            ],
        }
        for i in range(20)
    ]
    (folder / "hotpotqa_first.json").write_text(json.dumps(entries))
    return Material(bible, tokenizer, documents=folder)


@pytest.mark.parametrize("name", RULER)
@pytest.mark.parametrize("tokens", [2048, 8192])
def test_lengths_and_seeds(asked: Material, name: str, tokens: int) -> None:
    sample = RULER[name](asked, tokens, 3, 0.4)
    assert 0.85 * tokens - 150 <= prompt_tokens(asked, sample) <= tokens
    assert sample == RULER[name](asked, tokens, 3, 0.4)
    assert sample.context != RULER[name](asked, tokens, 4, 0.4).context
    assert sample.task == name and sample.question and all(sample.answers)


@pytest.mark.parametrize("name", NEEDLES)
def test_needles(material: Material, name: str) -> None:
    for seed in range(6):
        sample = RULER[name](material, 3000, seed, None)
        stated = [sample.context[start:end] for start, end in sample.evidence]
        found = [re.fullmatch(r"One of the special magic (\w+) for (\S+) is: (\S+)\.", text) for text in stated]
        assert all(found) and len(found) == len(sample.answers)
        assert {match[3] for match in found if match} == set(sample.answers)
        asked_for = {match[2] for match in found if match}
        assert all(key in sample.question and key in sample.answer_prefix for key in asked_for)
        # No other fact in the text is about a key that is asked for.
        every = re.findall(r"One of the special magic \w+ for (\S+) is: \S+\.", sample.context)
        assert sum(key in asked_for for key in every) == len(sample.answers)
        one = len(sample.answers) == 1
        assert sample.question.startswith("What is the special magic" if one else "What are all the special magic")
        assert sample.answer_prefix.endswith(" is" if one else " are")


@pytest.mark.parametrize(
    ("name", "facts", "answers"),
    [("niah_single_1", 1, 1), ("niah_multikey_1", 4, 1), ("niah_multivalue", 4, 4), ("niah_multiquery", 4, 4)],
)
def test_numbers_of_needles(material: Material, name: str, facts: int, answers: int) -> None:
    sample = RULER[f"ruler-{name}"](material, 2048, 0, None)
    assert sample.context.count("One of the special magic numbers for") == facts
    assert len(sample.answers) == answers


@pytest.mark.parametrize("name", ["niah_single_1", "niah_single_2", "niah_multikey_2"])
@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_depth(material: Material, name: str, depth: float) -> None:
    sample = RULER[f"ruler-{name}"](material, 6000, 1, depth)
    assert sample.evidence[0][0] / len(sample.context) == pytest.approx(depth, abs=0.06)


def test_haystacks(material: Material) -> None:
    noise = RULER["ruler-niah_single_1"](material, 2048, 0, None)
    lines = noise.context.split("\n")[1:]
    assert sum(line == NOISE for line in lines) == len(lines) - 1
    uuids = RULER["ruler-niah_multikey_3"](material, 2048, 0, None)
    assert len(re.findall(r"uuids for [0-9a-f-]{36} is: [0-9a-f-]{36}\.", uuids.context)) > 5


def test_variable_tracking(material: Material) -> None:
    sample = RULER["ruler-vt"](material, 2048, 5, None)
    known: dict[str, str] = {}
    for start, end in sample.evidence:
        name, value = re.fullmatch(r"VAR (\w{5}) = (?:VAR )?(\w+)", sample.context[start:end]).groups()  # type: ignore[union-attr]
        known[name] = known.get(value, value)
    wanted = re.search(r"value (\d+)", sample.question)
    assert wanted and {name for name, value in known.items() if value == wanted[1]} == set(sample.answers)
    assert len(sample.answers) == 5 and sample.context.count("VAR ") == 9


@pytest.mark.parametrize(("tokens", "often", "seldom"), [(2048, 6, 1), (8192, 30, 3)])
def test_common_words(material: Material, tokens: int, often: int, seldom: int) -> None:
    sample = RULER["ruler-cwe"](material, tokens, 2, None)
    numbered = re.findall(r"(\d+)\. (\S+)", sample.context.split("\n", 1)[1])
    assert [int(number) for number, _ in numbered] == list(range(1, len(numbered) + 1))
    counts = Counter(word for _, word in numbered)
    assert {word for word, times in counts.items() if times == often} == set(sample.answers)
    assert {times for word, times in counts.items() if word not in sample.answers} == {seldom}


@pytest.mark.parametrize("tokens", [1024, 8192])
def test_coded_words(material: Material, tokens: int) -> None:
    sample = RULER["ruler-fwe"](material, tokens, 2, None)
    words = sample.context[sample.context.index("coded words. ") + len("coded words. ") :].split()
    (dots, times), *most = Counter(words).most_common(5)
    assert dots == "...." and times > most[0][1]
    assert tuple(word for word, _ in most[:3]) == sample.answers
    assert most[0][1] > most[1][1] > most[2][1]


def test_documents(asked: Material) -> None:
    one = RULER["ruler-qa_1"](asked, 2048, 1, None)
    ((start, end),) = one.evidence
    assert one.answers[0] in one.context[start:end] and len(one.answers) == 1
    assert one.context[:start].rstrip().split("\n")[-1].startswith("Document ")
    two = RULER["ruler-qa_2"](asked, 2048, 1, None)
    texts = [two.context[start:end] for start, end in two.evidence]
    assert len(texts) == 2 and any(two.answers[0] in text for text in texts)
    assert all(two.context.count(text) == 1 for text in texts)
    numbers = [int(number) for number in re.findall(r"^Document (\d+):$", two.context, flags=re.M)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_question_sets_are_explained_when_absent(material: Material, tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"squad question set.*--documents"):
        RULER["ruler-qa_1"](material, 2048, 0, None)
    empty = Material(material.haystack.text, tokenizer, documents=tmp_path)
    with pytest.raises(InputError, match="no hotpotqa"):
        RULER["ruler-qa_2"](empty, 2048, 0, None)
    (tmp_path / "squad.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        RULER["ruler-qa_1"](empty, 2048, 0, None)


@pytest.mark.parametrize("name", GENERATED)
def test_too_few_tokens_are_refused(material: Material, name: str) -> None:
    with pytest.raises(InputError, match="tokens"):
        RULER[name](material, 100, 0, None)


def test_templates_are_rulers(material: Material) -> None:
    """Against the published templates, where they lie beside the checkout."""
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "ruler" / "ruler_13_tasks.json"
    if not path.exists():
        pytest.skip("RULER's task list is not beside the checkout")
    published = json.loads(path.read_text())
    assert {f"ruler-{name}" for name in published} == set(RULER)
    ours = {
        "niah": (f"{ruler.NEEDLE_HEAD}\n{{context}}\n{ruler.NEEDLE_QUESTION}", ruler.NEEDLE_ANSWER),
        "vt": (f"{ruler.VARIABLES_HEAD}\n{{context}}\nQuestion: {ruler.VARIABLES_QUESTION}", ruler.VARIABLES_ANSWER),
        "cwe": (f"{ruler.COMMON_HEAD}\n{{context}}\nQuestion: {ruler.COMMON_QUESTION}", ruler.COMMON_ANSWER),
        "fwe": (f"{ruler.CODED_HEAD} {{context}}\nQuestion: {ruler.CODED_QUESTION}", ruler.CODED_ANSWER),
        "qa": (f"{ruler.DOCUMENTS_HEAD}\n{{context}}", ""),
    }
    names = {"{type_needle_v}": "{values}", "{num_v}": "{n}"}
    for name, task in published.items():
        family = name.partition("_")[0]
        theirs = [task["template"], task["answer_prefix"].replace(" Answer:", "").strip()]
        for old, new in names.items():
            theirs = [text.replace(old, new) for text in theirs]
        if family == "vt":
            theirs = [text.replace("{query}", "{value}") for text in theirs]
        template, prefix = ours[family]
        assert theirs[0].startswith(template) if family == "qa" else theirs[0] == template
        assert theirs[1] == prefix
        metric = {"string_match_all": "all", "string_match_part": "part"}[task["metric"]]
        if family != "qa":
            sample = RULER[f"ruler-{name}"](material, 2048, 0, None)
            assert (sample.metric, sample.max_new_tokens) == (metric, task["tokens_to_generate"])
