"""RULER's 13 tasks (Hsieh et al., 2024, arXiv 2404.06654), written anew: samples of any length from any text.

Templates and parameters are RULER's; the generators are ours. What differs, so that figures are not comparable with
published ones: keys and list words come from the pool given, the essays are the text given, no worked example precedes
variable tracking and common words, and the question comes in npukv's form (the instruction heads the context).
"""

from __future__ import annotations

import random
import string
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

from npukv.errors import InputError
from npukv.evaluation.haystack import fill
from npukv.evaluation.material import Material
from npukv.evaluation.sample import Sample
from npukv.evaluation.splice import splice

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {values} for {key} is: {value}."
NEEDLE_HEAD = (
    "Some special magic {values} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {values} afterwards."
)
NEEDLE_QUESTION = "What are all the special magic {values} for {query} mentioned in the provided text?"
NEEDLE_ANSWER = "The special magic {values} for {query} mentioned in the provided text are"
VARIABLES_HEAD = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n"
VARIABLES_QUESTION = "Find all variables that are assigned the value {value} in the text above."
VARIABLES_ANSWER = (
    "According to the chain(s) of variable assignment in the text above, {n} variables are assigned the value "
    "{value}, they are:"
)
COMMON_HEAD = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often."
)
COMMON_QUESTION = "What are the 10 most common words in the above list?"
COMMON_ANSWER = "The top 10 words that appear most often in the list are:"
CODED_HEAD = (
    "Read the following coded text and track the frequency of each coded word. "
    "Find the three most frequently appeared coded words."
)
CODED_QUESTION = (
    "Do not provide any explanation. Please ignore the dots '....'. "
    "What are the three most frequently appeared words in the above coded text?"
)
CODED_ANSWER = "According to the coded text above, the three most frequently appeared words are:"
DOCUMENTS_HEAD = (
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
    "The following are given documents.\n"
)

# Tokens kept free beside context, question and answer: bos, the prompt's own words, tokens that split at a joint.
MARGIN = 16


def needle_task(
    material: Material,
    tokens: int,
    seed: int,
    depth: float | None = None,
    *,
    task: str,
    haystack: str,
    keys: int = 1,
    values: int = 1,
    queries: int = 1,
    key_type: str = "words",
    value_type: str = "numbers",
) -> Sample:
    """Needles in a haystack of one repeated sentence ("noise"), real text ("essay") or other needles ("needle").

    ``keys`` keys with ``values`` values each are hidden, of which ``queries`` keys are asked for. ``depth`` (0..1)
    places the first needle that is asked for; the others lie anywhere.
    """
    rng = random.Random(f"{task} {tokens} {seed}")
    names = _distinct(lambda: _token(material, rng, key_type), max(keys, queries))
    facts = {name: _distinct(lambda: _token(material, rng, value_type), values) for name in names}
    asked = names[:queries]
    one = queries * values == 1
    kind = value_type[:-1] if one else value_type
    query = asked[0] if queries == 1 else ", ".join(asked[:-1]) + ", and " + asked[-1]
    head, question, prefix = (
        _singular(text).format(values=kind, query=query) if one else text.format(values=kind, query=query)
        for text in (NEEDLE_HEAD, NEEDLE_QUESTION, NEEDLE_ANSWER)
    )
    needles = [
        (NEEDLE.format(values=value_type, key=name, value=value), name in asked)
        for name in asked + [name for name in names if name not in asked]
        for value in facts[name]
    ]
    free = _room(material, tokens, 128, head, question, question, prefix, *(text for text, _ in needles))
    if haystack == "essay":
        hay = material.haystack.take(free, rng)
        context, spans = splice(hay, [text for text, _ in needles], rng, [depth])
    else:
        lines = _noise() if haystack == "noise" else _other_needles(material, rng, key_type, value_type, set(names))
        hay_lines = fill(lines, free, material.count)
        places = [rng.randint(0, len(hay_lines)) for _ in needles]
        if depth is not None:
            places[0] = round(depth * len(hay_lines))
        context, spans = _insert_lines(hay_lines, [(at, text) for at, (text, _) in zip(places, needles, strict=True)])
    context, spans = _with_head(head, context, spans)
    evidence = sorted(span for span, (_, wanted) in zip(spans, needles, strict=True) if wanted)
    answers = [value for name in asked for value in facts[name]]
    return _sample(task, context, question, answers, evidence, prefix, "all", 128, seed)


def variable_task(material: Material, tokens: int, seed: int, depth: float | None = None, *, task: str) -> Sample:
    """A chain of five variable assignments in noise: which variables hold the first one's value?

    ``depth`` is not used: the chain is spread over the whole text.
    """
    rng = random.Random(f"{task} {tokens} {seed}")
    names = _distinct(lambda: "".join(rng.choices(string.ascii_uppercase, k=5)), 5)
    value = str(rng.randrange(10_000, 100_000))
    chain = [f"VAR {names[0]} = {value}"] + [f"VAR {b} = VAR {a}" for a, b in pairwise(names)]
    question, prefix = VARIABLES_QUESTION.format(value=value), VARIABLES_ANSWER.format(n=len(names), value=value)
    lines = fill(
        _noise(), _room(material, tokens, 30, VARIABLES_HEAD, question, question, prefix, *chain), material.count
    )
    places = sorted(rng.randint(0, len(lines)) for _ in chain)
    context, spans = _with_head(VARIABLES_HEAD, *_insert_lines(lines, list(zip(places, chain, strict=True))))
    return _sample(task, context, question, names, spans, prefix, "all", 30, seed)


def common_words_task(material: Material, tokens: int, seed: int, depth: float | None = None, *, task: str) -> Sample:
    """A numbered list in which ten words come 30 times and all others 3 times (6 and once below 4,096 tokens).

    ``depth`` is not used, and there is no evidence to point at: the whole list is the fact.
    """
    rng = random.Random(f"{task} {tokens} {seed}")
    often, seldom = (30, 3) if tokens >= 4096 else (6, 1)
    free = _room(material, tokens, 120, COMMON_HEAD, COMMON_QUESTION, COMMON_QUESTION, COMMON_ANSWER)
    pool = _word_stream(material, rng)
    common = [next(pool) for _ in range(10)]
    numbered = (f"{i}. {word}" for i, word in enumerate(_repeat(pool, seldom), start=10 * often + 1))
    listed = [f"{i}. {word}" for i, word in enumerate(common * often, start=1)]
    # The lines are only counted here: numbers belong to places, so they are written after shuffling.
    free -= sum(material.count([" " + line for line in listed]))
    if free < 0:
        raise InputError(f"{tokens} tokens are too few for {task}: its ten common words alone need {tokens - free}")
    others = [line.split(". ")[1] for line in fill(numbered, free, material.count, separator=" ")]
    words = common * often + others[: len(others) // seldom * seldom]
    rng.shuffle(words)
    context = COMMON_HEAD + "\n" + " ".join(f"{i}. {word}" for i, word in enumerate(words, start=1))
    return _sample(task, context, COMMON_QUESTION, common, [], COMMON_ANSWER, "all", 120, seed)


def coded_words_task(material: Material, tokens: int, seed: int, depth: float | None = None, *, task: str) -> Sample:
    """Made-up words whose frequencies fall as rank ** -2; the most frequent is dots, the next three are asked for.

    ``depth`` is not used, and there is no evidence to point at: the whole text is the fact.
    """
    rng = random.Random(f"{task} {tokens} {seed}")
    free = _room(material, tokens, 50, CODED_HEAD, CODED_QUESTION, CODED_QUESTION, CODED_ANSWER)
    vocabulary = ["....", *_distinct(lambda: "".join(rng.choices(string.ascii_lowercase, k=6)), max(4, tokens // 50))]
    shares = [rank**-2.0 for rank in range(1, len(vocabulary) + 1)]
    whole = sum(shares)
    sizes = material.count([" " + word for word in vocabulary])
    n = int(free * whole / sum(size * share for size, share in zip(sizes, shares, strict=True)))
    while True:
        # Exact frequencies, not drawn ones: the three asked for must stand in this order in a short text too.
        counts = [round(n * share / whole) for share in shares]
        once = n - sum(counts)  # what rounding took from the rarest words
        rare = counts.count(0)
        counts[len(counts) - rare :] = [int(i < once) for i in range(rare)]
        used = sum(size * times for size, times in zip(sizes, counts, strict=True))
        if used <= free:
            break
        n -= max(1, (used - free) // max(sizes))
    words = [word for word, times in zip(vocabulary, counts, strict=True) for _ in range(times)]
    rng.shuffle(words)
    context = CODED_HEAD + " " + " ".join(words)
    return _sample(task, context, CODED_QUESTION, vocabulary[1:4], [], CODED_ANSWER, "all", 50, seed)


def documents_task(
    material: Material, tokens: int, seed: int, depth: float | None = None, *, task: str, source: str
) -> Sample:
    """A question of SQuAD or HotpotQA over its own documents among others, from the folder the user gave.

    ``depth`` is not used: the documents are shuffled. When the folder holds fewer documents than fit, the others are
    repeated; the question's own documents are not.

    Raises:
        InputError: no folder was given, or the data set is not in it.
    """
    rng = random.Random(f"{task} {tokens} {seed}")
    questions, documents = material.questions(source)
    asked = questions[rng.randrange(len(questions))]
    own = {documents[i] for i in asked.documents}
    free = _room(material, tokens, 32, DOCUMENTS_HEAD, asked.question, asked.question, "") - 12 * len(own)
    free -= sum(material.count(sorted(own)))
    others = [document for document in documents if document not in own]
    rng.shuffle(others)
    stream = (others[i % len(others)] for i in range(10**9))
    lines = fill((f"Document 1000000:\n{document}" for document in stream), free, material.count, separator="\n\n")
    kept = [line.split("\n", 1)[1] for line in lines]
    kept += sorted(own)
    rng.shuffle(kept)
    titled = [f"Document {i}:\n" for i in range(1, len(kept) + 1)]
    parts, at, spans = [DOCUMENTS_HEAD], len(DOCUMENTS_HEAD), []
    for title, document in zip(titled, kept, strict=True):
        parts += ["\n" if at == len(DOCUMENTS_HEAD) else "\n\n", title, document]
        at += len(parts[-3]) + len(title) + len(document)
        if document in own:
            spans.append((at - len(document), at))
    return _sample(task, "".join(parts), asked.question, asked.answers, spans, "", "part", 32, seed)


_TASKS: dict[str, Callable[..., Sample]] = {
    "ruler-niah_single_1": partial(needle_task, haystack="noise"),
    "ruler-niah_single_2": partial(needle_task, haystack="essay"),
    "ruler-niah_single_3": partial(needle_task, haystack="essay", value_type="uuids"),
    "ruler-niah_multikey_1": partial(needle_task, haystack="essay", keys=4),
    "ruler-niah_multikey_2": partial(needle_task, haystack="needle"),
    "ruler-niah_multikey_3": partial(needle_task, haystack="needle", key_type="uuids", value_type="uuids"),
    "ruler-niah_multivalue": partial(needle_task, haystack="essay", values=4),
    "ruler-niah_multiquery": partial(needle_task, haystack="essay", queries=4),
    "ruler-vt": variable_task,
    "ruler-cwe": common_words_task,
    "ruler-fwe": coded_words_task,
    "ruler-qa_1": partial(documents_task, source="squad"),
    "ruler-qa_2": partial(documents_task, source="hotpotqa"),
}
RULER = {name: partial(function, task=name) for name, function in _TASKS.items()}


def _sample(
    task: str,
    context: str,
    question: str,
    answers: Sequence[str],
    evidence: Sequence[tuple[int, int]],
    prefix: str,
    metric: str,
    max_new_tokens: int,
    seed: int,
) -> Sample:
    return Sample(
        task=task,
        context=context,
        question=question,
        answers=tuple(answers),
        evidence=tuple(evidence),
        answer_prefix=prefix,
        metric=metric,
        max_new_tokens=max_new_tokens,
        meta={"seed": seed},
    )


def _room(material: Material, tokens: int, answer: int, *texts: str) -> int:
    """Tokens left for the haystack when ``tokens`` hold all: the other texts (the question twice), the answer, and a
    margin."""
    free = tokens - answer - MARGIN - sum(size + 1 for size in material.count(texts))
    if free < 64:
        raise InputError(f"{tokens} tokens leave {free} for the text itself: ask for {tokens + 64 - free} or more")
    return free


def _singular(text: str) -> str:
    """RULER's wording when a single value is asked for ("What is the ...", not "What are all the ...")."""
    return text.replace("Some", "A").replace("are all", "is").replace("are", "is")


def _token(material: Material, rng: random.Random, kind: str) -> str:
    if kind == "numbers":
        return str(rng.randrange(10**6, 10**7))
    if kind == "uuids":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return f"{rng.choice(material.words)}-{rng.choice(material.words)}"


def _distinct(draw: Callable[[], str], n: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < n:
        found[draw()] = None
    return list(found)


def _noise() -> Iterator[str]:
    while True:
        yield NOISE


def _other_needles(
    material: Material, rng: random.Random, key_type: str, value_type: str, names: set[str]
) -> Iterator[str]:
    while True:
        key = _token(material, rng, key_type)
        if key not in names:
            yield NEEDLE.format(values=value_type, key=key, value=_token(material, rng, value_type))


def _word_stream(material: Material, rng: random.Random) -> Iterator[str]:
    """Every word of the pool once in random order, then pairs of them, each once."""
    words = rng.sample(material.words, len(material.words))
    yield from words
    seen: set[str] = set()
    while True:
        pair = f"{rng.choice(words)}-{rng.choice(words)}"
        if pair not in seen:
            seen.add(pair)
            yield pair


def _repeat(words: Iterable[str], times: int) -> Iterator[str]:
    for word in words:
        for _ in range(times):
            yield word


def _insert_lines(lines: Sequence[str], pieces: Sequence[tuple[int, str]]) -> tuple[str, list[tuple[int, int]]]:
    """Pieces put before the lines of the numbers given, all joined by newlines; and the pieces' spans."""
    marks: list[tuple[str, int]] = []
    done = 0
    for i in sorted(range(len(pieces)), key=lambda i: pieces[i][0]):
        place, piece = pieces[i]
        marks += [(line, -1) for line in lines[done:place]]
        marks.append((piece, i))
        done = place
    marks += [(line, -1) for line in lines[done:]]
    spans: list[tuple[int, int]] = [(0, 0)] * len(pieces)
    at = 0
    for line, i in marks:
        if i >= 0:
            spans[i] = (at, at + len(line))
        at += len(line) + 1
    return "\n".join(line for line, _ in marks), spans


def _with_head(head: str, text: str, spans: Sequence[tuple[int, int]]) -> tuple[str, list[tuple[int, int]]]:
    shift = len(head) + 1
    return f"{head}\n{text}", [(start + shift, end + shift) for start, end in spans]
