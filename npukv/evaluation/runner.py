"""Tasks x methods x lengths on a model: samples are made, answered and judged, and every result is kept as it comes."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npukv.cache.named import figures
from npukv.errors import InputError, ModelError
from npukv.evaluation.case import Case
from npukv.evaluation.generate import answer_through_cache, generate_answers
from npukv.evaluation.material import Material
from npukv.evaluation.methods import Inapplicable, cache_of, find_method
from npukv.evaluation.metrics import lenient_score, score_output
from npukv.evaluation.results import Results
from npukv.evaluation.sample import Sample
from npukv.evaluation.tasks import find_tasks

if TYPE_CHECKING:
    from npukv.language_model import LanguageModel

GROUP_TOKENS = 2_000_000  # contexts held at once, in tokens, while their answers are generated in batches
GROUP = 16  # samples, likewise: what a kill can cost
KEEP_SCORES = 500_000  # tokens from which on a sample's segment scores are kept on disk as well

UNITS = {"M": 1_000_000, "K": 1024}

# (what is being done, steps done, steps in all)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Suite:
    """What to evaluate.

    Attributes:
        tasks: names of ``npukv.evaluation.tasks``, "*" at the end for all that begin so.
        methods: names of ``npukv.evaluation.methods``, with their arguments.
        lengths: tokens of a sample, its prompt and answer included.
        n: samples of each task and length.
        seed: of the first sample; sample i has seed + i.
        segment, overlap: as in ``npukv.score_segments``.
        ahead: as in ``npukv.answer``, unless one of the methods reads through a cache: caches are filled before
            the question is seen, and only what was asked in the same way compares.
    """

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    lengths: tuple[int, ...]
    n: int
    seed: int = 0
    segment: int | None = None
    overlap: int | None = None
    ahead: bool = True

    @property
    def reads_ahead(self) -> bool:
        """Whether the question stands before the text, too."""
        return self.ahead and not any(cache_of(name) for name in self.methods)


@dataclass(frozen=True)
class Skipped:
    """A task, length or method without results, and why; empty strings and 0 stand for "all"."""

    task: str
    length: int
    method: str
    reason: str


def evaluate(
    lm: LanguageModel,
    material: Material,
    suite: Suite,
    *,
    run: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Results, list[Skipped]]:
    """Run a suite.

    Args:
        run: a directory that keeps the results, and from which an interrupted evaluation goes on.
        progress: called as samples are done.

    Raises:
        InputError: an unknown task or method, or no samples asked for. Tasks that cannot be made from the material or
            at a length (a question set that is not there, say) are skipped instead, each with its reason.
        RunError: the run directory cannot be used.
    """
    tasks = find_tasks(list(suite.tasks))
    methods = {name: find_method(name) for name in dict.fromkeys(suite.methods)}
    if suite.n < 1 or not suite.lengths or not methods:
        raise InputError(
            f"got {suite.n} samples of {len(suite.lengths)} lengths by {len(methods)} methods, expected at least 1 each"
        )
    results = Results(run, _identity(lm, material, suite))
    skipped: dict[tuple[str, int, str], Skipped] = {}
    cells = [(length, task) for length in suite.lengths for task in tasks]
    for number, (length, task) in enumerate(cells):
        for group in _groups(suite.n, length):
            missing = [i for i in group if any((task, length, i, name) not in results for name in methods)]
            try:
                samples = {i: tasks[task](material, length, suite.seed + i, spread(i, suite.seed)) for i in missing}
            except InputError as error:
                skipped[task, length, ""] = Skipped(task, length, "", str(error))
                break
            _run_group(lm, samples, length, methods, suite, run, results)
            if progress is not None:
                progress("samples", number * suite.n + group[-1] + 1, len(cells) * suite.n)
    for task, length, i, name in results.skipped:
        if (length, task) in cells and name in methods and i < suite.n:
            reason = results.skipped[task, length, i, name]["skipped"]
            skipped.setdefault((task, length, name), Skipped(task, length, name, reason))
    return results, list(skipped.values())


def _run_group(
    lm: LanguageModel,
    samples: dict[int, Sample],
    length: int,
    methods: dict[str, Callable[[Case, int], Any]],
    suite: Suite,
    run: Path | None,
    results: Results,
) -> None:
    from npukv.relevance.answer import key_context

    records, prompts, jobs = [], [], []
    done: list[dict[str, Any]] = []  # by methods that read through a cache, one sample at a time
    for index, sample in samples.items():
        folder = None
        if run is not None and length >= KEEP_SCORES:
            folder = run / "scores" / f"{sample.task}-{length}-{index}"
        case = Case(lm, [sample], segment=suite.segment, overlap=suite.overlap, run=folder, ahead=suite.reads_ahead)
        for name, method in methods.items():
            if (sample.task, length, index, name) in results:
                continue
            named = {"task": sample.task, "length": length, "index": index, "method": name}
            started = time.perf_counter()
            try:
                choice = method(case, 0)
            except (
                Inapplicable,
                InputError,
            ) as reason:  # InputError: the prompt leaves no room in this model's context
                results.add([{**named, "skipped": str(reason)}])
                continue
            read = sum(end - start for start, end in choice.spans)
            around = case.prompt(0, read)
            prompt = key_context(around, case.tokens, choice.spans)
            record = {
                **named,
                "seed": suite.seed + index,
                "depth": sample.evidence[0][0] / len(sample.context) if len(sample.evidence) == 1 else None,
                "rank": None if choice.ranking is None else case.rank(0, choice.ranking),
                "segments": None if choice.ranking is None else len(case.segments),
                "tokens": len(case.tokens),
                "read": len(prompt),
                "seconds": round(time.perf_counter() - started, 4),
            }
            if choice.cache is None:
                prompts.append(prompt)
                jobs.append(sample)
                records.append(record)
                continue
            after = len(around.after)
            try:
                output, held = answer_through_cache(
                    lm, prompt[:-after], prompt[-after:], sample.max_new_tokens, choice.cache
                )
            except (InputError, ModelError) as reason:  # an amount below its sinks; a model it cannot serve
                results.add([{**named, "skipped": str(reason)}])
                continue
            record |= {"seconds": round(time.perf_counter() - started, 4), "cache": figures(held)}
            done.append(record | _judged(sample, output))
    outputs = generate_answers(lm, prompts, [sample.max_new_tokens for sample in jobs])
    for record, sample, output in zip(records, jobs, outputs, strict=True):
        done.append(record | _judged(sample, output))
    if done:
        results.add(done)


def _judged(sample: Sample, output: str) -> dict[str, Any]:
    return {
        "question": sample.question,
        "answers": list(sample.answers),
        "output": output,
        "score": score_output(sample, output),
        "lenient": lenient_score(sample, output),
    }


def spread(i: int, seed: int) -> float:
    """Depth of sample ``i`` in 0..1: any number of samples is spread evenly (golden-ratio sequence)."""
    return (0.5 + 0.6180339887498949 * (i + seed)) % 1.0


def short(length: int) -> str:
    """2048 -> "2K", 131072 -> "128K", 20000000 -> "20M", 3000 -> "3000": what ``parse_length`` reads."""
    for unit, size in UNITS.items():
        if length >= size and length % size == 0:
            return f"{length // size}{unit}"
    return str(length)


def parse_length(text: str) -> int:
    """ "2K" -> 2048, "20M" -> 20000000, "3000" -> 3000.

    Raises:
        InputError: anything else.
    """
    found = re.fullmatch(r"(\d+)([kKmM]?)", text.strip())
    if not found or not int(found[1]):
        raise InputError(f"got length {text!r}, expected tokens such as 2048, 2k (2,048) or 20m (20,000,000)")
    return int(found[1]) * UNITS.get(found[2].upper(), 1)


def _groups(n: int, length: int) -> Iterator[Sequence[int]]:
    size = max(1, min(GROUP, GROUP_TOKENS // length))
    for first in range(0, n, size):
        yield range(first, min(n, first + size))


def _identity(lm: LanguageModel, material: Material, suite: Suite) -> dict[str, Any]:
    return {
        "model": lm.fingerprint,
        "text": hashlib.sha256(material.haystack.text.encode()).hexdigest()[:32],
        "split": material.split,
        "seed": suite.seed,
        "segment": suite.segment,
        "overlap": suite.overlap,
        "ahead": suite.reads_ahead,
    }
