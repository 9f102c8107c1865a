"""Scoring every segment of a text against a question."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from npukv.errors import InputError
from npukv.language_model import LanguageModel
from npukv.parallel.ranks import ALONE, Ranks
from npukv.parallel.share import shares
from npukv.parallel.tokens import PART, open_tokens
from npukv.relevance import measures
from npukv.relevance.batches import batch_size
from npukv.relevance.cut import starts_of
from npukv.relevance.fast_forward import FastForward, choose_forward
from npukv.relevance.journal import Journal, scored_by_all
from npukv.relevance.measure import measure_batch
from npukv.relevance.measures import Measured
from npukv.relevance.plan import Plan, make_plan
from npukv.relevance.scores import Scores
from npukv.relevance.shortlist import SHORTLIST, check_mode
from npukv.relevance.shortlist import shortlists as find_shortlists
from npukv.relevance.words import word_shares
from npukv.text import Tokens, tokenize

#: Called with (what is being done, tokens or characters done, in all).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ScoredBatch:
    """Some segments of one question, as they come; `resumed` when a journal had them already."""

    question: int
    segments: tuple[int, ...]
    measured: Measured
    resumed: bool = False


@overload
def score_segments(lm: LanguageModel, text: str | Tokens, question: str, **options: Any) -> Scores: ...
@overload
def score_segments(lm: LanguageModel, text: str | Tokens, question: list[str], **options: Any) -> list[Scores]: ...
def score_segments(  # type: ignore[misc]  # the overloads only tell one result from several
    lm: LanguageModel,
    text: str | Tokens,
    question: str | list[str],
    *,
    segment: int | None = None,
    overlap: int | None = None,
    measure: str = measures.DEFAULT,
    horizon: int | None = None,
    answer_prefix: str = "",
    run: str | Path | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
    index: str | Path | None = None,
    mode: str = "exact",
    shortlist: str | int = SHORTLIST,
    forward: str | FastForward = "auto",
    ranks: Ranks = ALONE,
) -> Scores | list[Scores]:
    """Score all segments of a text by the model's certainty about a question (XL3M, arXiv 2405.17755).

    Args:
        lm: from `npukv.load`.
        text: the text, or its tokens from `npukv.text.tokenize`.
        question: one question, or several: then each segment is read once for all of them.
        segment, overlap: tokens; None = a fifth of the context, and a sixth of a segment.
        measure: a name of `npukv.relevance.measures.MEASURES`.
        horizon: greedy tokens looked ahead; None = what the measure needs.
        answer_prefix: words the answer is made to begin with.
        run: a directory that keeps the scores, and from which an interrupted run resumes. It belongs to one text,
            model and way of cutting; questions asked one by one share it, but not with questions asked together.
        batch: segments per forward pass; None = by the device's free memory.
        progress: called as work goes on.
        index: a directory that keeps what is made of a text once for all questions (tokens, sketch); None = the run
            directory.
        mode: "exact" scores all segments. The others score only those that a cheaper look finds promising: "words",
            the question's rare words near one another; "sketch", half by those and half by a sketch of the text's keys;
            "bm25", its tokens anywhere in a segment; "8bit", scores by 8-bit matrix products. Scores of the others are
            infinite.
        shortlist: how many those are: a share such as "1%", but at least 16, or a number of segments.
        forward: how the model reads: "plain", its own way; "fused", compiled blocks; "8bit", those with 8-bit products;
            "auto", fused where long work on a card makes up for compiling; or a `FastForward` made before.
        ranks: from `npukv.parallel.ranks.join`, where several processes share the work. All of them make the same call
            and get the same result, to the bit the same as one process's.

    Returns:
        Scores, or a list of them for a sequence of questions.

    Raises:
        InputError: the input cannot be used; ModelError: the model gives NaN; RunError: the run directory.

    >>> scores = npukv.score_segments(npukv.load(), text, "What is the pass key?")
    >>> scores.ranking()[:4]
    """
    asked = (question,) if isinstance(question, str) else tuple(question)
    tokens = as_tokens(lm, text, progress, index or run, ranks, keep=mode == "sketch")
    check_mode(mode)
    plan = make_plan(
        lm,
        tokens,
        asked,
        segment=segment,
        overlap=overlap,
        measure=measure,
        horizon=horizon,
        answer_prefix=answer_prefix,
    )
    started = time.perf_counter()
    options: dict[str, Any] = {"run": run, "batch": batch, "progress": progress, "forward": forward, "ranks": ranks}
    lists = find_shortlists(lm, plan, mode, shortlist, measure=measure, **options)
    if lists is None:
        results = score_plan(lm, plan, measure, **options)
    else:  # each question has a shortlist of its own
        looked = (time.perf_counter() - started) / len(asked)
        results = []
        for i, only in enumerate(lists):
            [scores] = score_plan(lm, plan.of(i), measure, only=only, as_all=mode == "8bit", **options)
            results.append(replace(scores, seconds=scores.seconds + looked))
    return results[0] if isinstance(question, str) else results


def score_plan(
    lm: LanguageModel,
    plan: Plan,
    measure: str = measures.DEFAULT,
    *,
    only: np.ndarray | None = None,
    as_all: bool = False,
    run: str | Path | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
    forward: str | FastForward = "auto",
    ranks: Ranks = ALONE,
) -> list[Scores]:
    """Scores of a plan's segments, or of `only` some of them (ascending), for each of its questions.

    Args and Raises: as of `score_segments` and `stream_scores`.
    """
    started = time.perf_counter()
    asked = plan.asked
    words = [word_shares(lm, plan, i, ranks) for i in range(len(asked))]
    entropies = np.full((len(asked), len(plan.segments), plan.horizon), np.nan, dtype=np.float32)
    likelihoods = np.full((len(asked), len(plan.segments)), np.nan, dtype=np.float32)
    fresh = [0] * len(asked)
    wanted = len(plan.segments) if only is None else len(only)
    options: dict[str, Any] = {"run": run, "batch": batch, "progress": progress, "only": only, "ranks": ranks}
    parts = list(stream_scores(lm, plan, forward=forward, as_all=as_all, **options))
    for part in gather_batches(plan, parts, wanted, progress, ranks):
        rows = list(part.segments)
        entropies[part.question, rows] = part.measured.entropies
        likelihoods[part.question, rows] = part.measured.question
        fresh[part.question] += 0 if part.resumed else len(rows)
    seconds = time.perf_counter() - started
    measured = [Measured(entropies[i], likelihoods[i], words[i]) for i in range(len(asked))]
    return [Scores(asked[i], plan.segments, measured[i], measure, seconds, fresh[i], only) for i in range(len(asked))]


def as_tokens(
    lm: LanguageModel,
    text: str | Tokens,
    progress: Progress | None = None,
    folder: str | Path | None = None,
    ranks: Ranks = ALONE,
    keep: bool = False,
) -> Tokens:
    """The text's tokens, from the token store in `folder` where the text is long, or more is to be kept beside it.

    Raises:
        InputError: there are none.
    """
    if isinstance(text, str):
        tell = None if progress is None else lambda *at: progress("tokenise", *at)
        if ranks.size > 1 or (folder is not None and (keep or len(text) > PART)):
            with _shared_folder(folder, ranks) as place:
                text = open_tokens(lm.tokenizer, text, place, ranks=ranks, progress=tell)
            if folder is None:
                text = replace(text, folder=None)
        else:
            text = tokenize(lm.tokenizer, text, tell)
    if not len(text):
        raise InputError("got an empty text, expected words")
    return text


@contextmanager
def _shared_folder(folder: str | Path | None, ranks: Ranks) -> Iterator[Path]:
    """A directory all ranks see: the one given, else one of this machine that is removed after use."""
    if folder is not None:
        yield Path(folder)
        return
    if ranks.beside < ranks.size:
        raise InputError("got ranks on several nodes and no directory; give one on a file system all nodes see (--run)")
    place = Path(ranks.agree(tempfile.mkdtemp(prefix="npukv-") if ranks.first else "", "make a directory"))
    try:
        yield place
        ranks.meet("open the tokens")  # what is mapped stays readable
    finally:
        if ranks.first:
            shutil.rmtree(place)


def gather_batches(
    plan: Plan, parts: Sequence[ScoredBatch], wanted: int, progress: Progress | None, ranks: Ranks
) -> list[ScoredBatch]:
    """All ranks' batches, on every rank."""
    gathered = ranks.gather(pickle.dumps(parts), "gather the scores", lambda: _tell(plan, wanted, progress, ranks))
    return list(parts) if ranks.size == 1 else [part for data in gathered for part in pickle.loads(data)]


def stream_scores(
    lm: LanguageModel,
    plan: Plan,
    *,
    run: str | Path | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
    only: Sequence[int] | np.ndarray | None = None,
    as_all: bool = False,
    forward: str | FastForward = "auto",
    ranks: Ranks = ALONE,
) -> Iterator[ScoredBatch]:
    """Score a plan's segments batch by batch, journalling each before it is yielded.

    What the journals have is yielded first. A batch that does not fit the device's memory is halved, and the smaller
    size is remembered for the rest of the run and for its resumption.

    Args:
        only: the segments to score, ascending; None = all.
        as_all: score those in batches as large as if all were scored, filled up with copies: products of another shape
            differ in the last bits, and near ties with them.
        forward: as of `score_segments`.
        ranks: of several, each yields its own share; what was resumed comes from rank 0.
    """
    wanted = range(len(plan.segments)) if only is None else [int(index) for index in only]
    length = plan.segments[0].end - plan.segments[0].start
    read_at_once = length + len(plan.prompts[0])
    reading = choose_forward(lm, forward, len(wanted) * read_at_once)
    identity = {} if run is None else plan.identity(lm, reading.name if reading else "")
    keys = plan.keys()
    known: list[dict[int, tuple[np.ndarray, float]]] = [{} for _ in keys]
    if run is not None and ranks.first:  # before any rank writes
        known = scored_by_all(run, identity, keys)
    ranks.agree(None, "read the journals")
    journal = None if run is None else Journal(run, identity, ranks.rank)
    try:
        for i, scored in enumerate(known):
            found = {index: scored[index] for index in wanted if index in scored} if scored else {}
            if found:
                measured = Measured(np.stack([e for e, _ in found.values()]), np.array([q for _, q in found.values()]))
                yield ScoredBatch(i, tuple(found), measured, resumed=True)
        # Batches are of equal shape: a smaller last one is filled up, so it must not be small.
        count = len(plan.segments) if as_all else len(wanted)
        most = batch or _remembered_size(journal) or _default_size(lm, plan)
        size = min(batch, count) if batch else _even(count, most)
        # All ranks take rank 0's size, so that the batches, and with them the scores' last bits, are the same for any
        # number of ranks; and share what is left.
        ranks.note(0, last=True)
        size, most, done = ranks.agree((size, most, [set(scored) for scored in known]), "share the segments")
        if reading is not None and ranks.size > 1:  # kernels differ in the last bits, too
            reading.settle(ranks.agree(reading.kernel(size, read_at_once) if ranks.first else "", "choose a kernel"))
        costs = [_missing(wanted[at : at + size], done) for at in range(0, len(wanted), size)]
        share = shares(costs, ranks.size)[ranks.rank]
        mine = wanted[share.start * size : share.stop * size]
        report = _reporter(plan, mine, wanted, progress, ranks)
        yield from _stream(lm, plan, mine, size, most, done, journal, report, reading)
    finally:
        if journal is not None:
            journal.close()


def _missing(indices: Sequence[int], done: list[set[int]]) -> int:
    """How many of some segments' scores, over all questions, are not known yet."""
    return sum(len(indices) - len(known.intersection(indices)) if known else len(indices) for known in done)


def _reporter(
    plan: Plan, mine: Sequence[int], wanted: Sequence[int], progress: Progress | None, ranks: Ranks
) -> Callable[[int], None]:
    """What to call with the number of segments of `mine` that are done."""

    def alone(done: int) -> None:
        if progress is not None and done:
            progress("score", plan.segments[mine[done - 1]].end, len(plan.tokens))

    def together(done: int) -> None:
        ranks.note(done, last=done == len(mine))
        _tell(plan, len(wanted), progress, ranks)

    return alone if ranks.size == 1 else together


def _tell(plan: Plan, wanted: int, progress: Progress | None, ranks: Ranks) -> None:
    """Rank 0 reports what all ranks have done."""
    if progress is not None and ranks.first:
        done = min(sum(ranks.notes()), wanted)
        progress("score", len(plan.tokens) * done // wanted, len(plan.tokens))


def _stream(
    lm: LanguageModel,
    plan: Plan,
    mine: Sequence[int],
    size: int,
    most: int,
    done: list[set[int]],
    journal: Journal | None,
    report: Callable[[int], None],
    forward: FastForward | None,
) -> Iterator[ScoredBatch]:
    """Score one rank's segments, in batches of `size`.

    What the journal remembers is how many rows may be read at once, `most`, and not how few a shortlist came to.
    """
    keys = plan.keys()
    position = 0
    while position < len(mine):
        chunk = mine[position : position + size]
        try:
            yield from _score_chunk(lm, plan, chunk, done, keys, journal, forward, size)
        except Exception as error:
            if not lm.device.is_out_of_memory(error) or size == 1:
                raise
            size = most = (size + 1) // 2
            lm.device.release_memory()
            continue
        if journal is not None and journal.recall("batch") != str(most):
            journal.remember("batch", str(most))
        position += len(chunk)
        report(position)


def _score_chunk(
    lm: LanguageModel,
    plan: Plan,
    chunk: Sequence[int],
    done: list[set[int]],
    keys: list[str],
    journal: Journal | None,
    forward: FastForward | None,
    size: int,
) -> Iterator[ScoredBatch]:
    """Measure what is missing of some segments; questions that miss the same ones share the reading.

    Each part is given out as soon as it is recorded: what memory runs out on later does not take it along.
    """
    length = plan.segments[0].end - plan.segments[0].start
    missing = defaultdict(list)
    for i, known in enumerate(done):
        rows = tuple(segment for segment in chunk if segment not in known)
        if rows:
            missing[rows].append(i)
    for rows, questions in missing.items():
        ids = plan.tokens.ids[starts_of(plan.segments, rows)[:, None] + np.arange(length)]
        asked = [plan.prompts[i] for i in questions]
        # One shape throughout: what is compiled is compiled for it, and products of another differ in the last bits.
        full = np.concatenate([ids, np.repeat(ids[-1:], size - len(ids), axis=0)])
        measured = [
            padded.rows(slice(len(ids))) for padded in measure_batch(lm, full, asked, plan.horizon, rows[0], forward)
        ]
        if journal is not None:
            journal.record(rows, {keys[i]: values for i, values in zip(questions, measured, strict=True)})
        for i in questions:
            done[i].update(rows)
        for i, values in zip(questions, measured, strict=True):
            yield ScoredBatch(i, rows, values)


def _remembered_size(journal: Journal | None) -> int | None:
    remembered = None if journal is None else journal.recall("batch")
    return None if remembered is None else int(remembered)


def _even(count: int, most: int) -> int:
    """Rows per batch, of the fewest batches of at most `most` rows that hold `count`, all but alike."""
    return max(1, -(-count // max(1, -(-count // most))))


def _default_size(lm: LanguageModel, plan: Plan) -> int:
    longest = max(len(prompt) for prompt in plan.prompts)
    length = plan.segments[0].end - plan.segments[0].start
    return batch_size(lm, length + longest + plan.horizon, longest)
