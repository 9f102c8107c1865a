"""The command line: npukv ask, score, generate, eval, bench, sample, info.

Commands import what they need when they run, so that --help answers at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npukv.bench.cli import bench_app
from npukv.errors import NpukvError
from npukv.evaluation.cli import eval_command
from npukv.generate_command import generate_command

if TYPE_CHECKING:
    from npukv.text import Source

app = typer.Typer(
    help="Answer over inputs thousands of times longer than a model's context.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Files = Annotated[
    list[str], typer.Argument(metavar="FILE...", help="UTF-8 text files (.txt, .md); - reads standard input.")
]
Question = Annotated[str, typer.Option("--question", "-q", help="The question.")]
Model = Annotated[str | None, typer.Option(help="Model folder or hub id.", show_default="the bundled model")]
DeviceName = Annotated[str, typer.Option("--device", help="auto, npu, cuda or cpu.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="the device's fastest")]
SegmentLength = Annotated[int | None, typer.Option("--segment", help="Tokens per segment.", show_default="context / 5")]
Overlap = Annotated[int | None, typer.Option(help="Tokens two segments share.", show_default="segment / 6")]
Measure = Annotated[
    str,
    typer.Option(help="certainty+question+words, certainty+question, certainty, question or first (XL3M's own)."),
]
Horizon = Annotated[int | None, typer.Option(help="Tokens to look ahead.", show_default="by measure")]
AnswerPrefix = Annotated[str, typer.Option(help="Words the answer is made to begin with.")]
Run = Annotated[Path | None, typer.Option(help="Directory that keeps the scores; an interrupted run resumes from it.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Segments per forward pass.", show_default="by free memory")]
KeepOption = Annotated[
    str, typer.Option("--keep", help="Segments to answer from: a number, fill, margin:NATS, passages, passages:NATS.")
]
Neighbours = Annotated[int, typer.Option(min=0, help="Also take this many segments beside each kept one.")]
KeepHead = Annotated[bool, typer.Option("--keep-head", help="Always take the text's first segment.")]
Devices = Annotated[str, typer.Option(help="Cards of this machine to use: a number, or all; torchrun decides itself.")]
Index = Annotated[
    Path | None, typer.Option(help="Directory that keeps what is made of a text once.", show_default="that of --run")
]
Mode = Annotated[str, typer.Option(help="exact: all segments; sketch, words, bm25, 8bit: those a cheaper look finds.")]
Forward = Annotated[str, typer.Option(help="How the model reads: auto, plain, fused (compiled blocks) or 8bit.")]
Shortlist = Annotated[str, typer.Option(help="How many segments the other modes score: 1% (at least 16) or a number.")]
Ahead = Annotated[bool, typer.Option(help="Answer with the question before the text, too, where it fits twice.")]
SecondLook = Annotated[bool, typer.Option(help="Score the best again with the question ahead (not with --no-ahead).")]
Whole = Annotated[bool, typer.Option(help="Read a text that fits the context whole; or choose segments of it, too.")]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", help="Greatest length of the answer.")]

_MEASURE = "certainty+question+words"


@app.command()
def ask(
    files: Files,
    question: Question,
    model: Model = None,
    device: DeviceName = "auto",
    dtype: Dtype = None,
    segment: SegmentLength = None,
    overlap: Overlap = None,
    keep: KeepOption = "",
    neighbours: Neighbours = 0,
    keep_head: KeepHead = False,
    ahead: Ahead = True,
    second_look: SecondLook = False,
    whole: Whole = True,
    measure: Measure = _MEASURE,
    horizon: Horizon = None,
    answer_prefix: AnswerPrefix = "",
    max_new_tokens: NewTokens = 64,
    run: Run = None,
    batch: Batch = None,
    index: Index = None,
    mode: Mode = "exact",
    shortlist: Shortlist = "1%",
    forward: Forward = "auto",
    devices: Devices = "1",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the answer.")] = False,
) -> None:
    """Answer a question over texts of any length."""
    source = _checked_input(files, question, measure)
    _on_several(files, devices, device)
    from npukv.language_model import load
    from npukv.parallel.ranks import join
    from npukv.relevance.answer import answer
    from npukv.relevance.pick import parse_keep

    wanted = parse_keep(keep) if keep else None
    with join(device) as ranks, _progress(ranks) as progress:
        lm = load(model, ranks.device or device, dtype)

        def say(piece: str) -> None:
            progress.close()  # a live bar would redraw itself over the answer
            _write(piece)

        given = answer(
            lm,
            source.text,
            question,
            keep=wanted,
            neighbours=neighbours,
            keep_head=keep_head,
            ahead=ahead,
            second_look=second_look,
            whole=whole,
            max_new_tokens=max_new_tokens,
            segment=segment,
            overlap=overlap,
            measure=measure,
            horizon=horizon,
            answer_prefix=answer_prefix,
            run=run,
            batch=batch,
            progress=progress if ranks.first else None,
            stream=None if as_json else say,
            index=index,
            mode=mode,
            shortlist=shortlist,
            forward=forward,
            ranks=ranks,
        )
    if not ranks.first:
        return
    used = [_place(source, part.start, part.end) | {"score": part.score} for part in given.segments]
    if as_json:
        print(
            json.dumps(
                {
                    "answer": given.text,
                    "segments": used,
                    "tokens": given.tokens,
                    "seconds": {name: round(value, 3) for name, value in given.seconds.items()},
                    "device": lm.device.name,
                    "model": lm.name,
                },
                ensure_ascii=False,
            )
        )
    else:
        _write("\n")
        _summarise(given, used)
    if not given.text:
        raise NpukvError("the model gave no answer; try more segments (--keep), or a larger --max-new-tokens")


@app.command()
def score(
    files: Files,
    question: Question,
    model: Model = None,
    device: DeviceName = "auto",
    dtype: Dtype = None,
    segment: SegmentLength = None,
    overlap: Overlap = None,
    keep: KeepOption = "",
    measure: Measure = _MEASURE,
    horizon: Horizon = None,
    answer_prefix: AnswerPrefix = "",
    run: Run = None,
    batch: Batch = None,
    index: Index = None,
    mode: Mode = "exact",
    shortlist: Shortlist = "1%",
    forward: Forward = "auto",
    devices: Devices = "1",
    plot: Annotated[
        Path | None, typer.Option(help="Draw the scores along the text to this .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Score every segment of the texts; one JSON object per line, as they come."""
    source = _checked_input(files, question, measure)
    _on_several(files, devices, device)
    from dataclasses import replace

    import numpy as np

    from npukv.errors import InputError
    from npukv.language_model import load
    from npukv.parallel.ranks import join
    from npukv.relevance.measures import Measured
    from npukv.relevance.pick import parse_keep, pick
    from npukv.relevance.plan import make_plan
    from npukv.relevance.plot import check_plot
    from npukv.relevance.score import as_tokens, gather_batches, stream_scores
    from npukv.relevance.scores import Scores
    from npukv.relevance.shortlist import shortlists
    from npukv.relevance.words import word_shares

    wanted = parse_keep(keep or 1)
    if wanted.passages:
        raise InputError("got --keep passages, expected a number, fill or margin:NATS; passages are for npukv ask")
    if plot is not None:
        check_plot(plot)
    parts = []
    with join(device) as ranks, _progress(ranks) as shown:
        lm = load(model, ranks.device or device, dtype)
        progress = shown if ranks.first else None
        tokens = as_tokens(lm, source.text, progress, index or run, ranks, keep=mode == "sketch")
        plan = make_plan(
            lm,
            tokens,
            (question,),
            segment=segment,
            overlap=overlap,
            measure=measure,
            horizon=horizon,
            answer_prefix=answer_prefix,
        )
        options: dict[str, Any] = {
            "run": run,
            "batch": batch,
            "progress": progress,
            "forward": forward,
            "ranks": ranks,
        }
        words = word_shares(lm, plan, ranks=ranks)
        lists = shortlists(lm, plan, mode, shortlist, measure=measure, **options)
        only = lists[0] if lists else None
        stream = stream_scores(lm, plan, only=only, **options)
        if ranks.size > 1:  # streaming is for one process; several are gathered
            count = len(plan.segments) if only is None else len(only)
            stream = iter(gather_batches(plan, list(stream), count, progress, ranks))
        for part in stream:
            windows = [plan.segments[i] for i in part.segments]
            measured = replace(part.measured, words=words[list(part.segments)])
            for record in Scores(question, windows, measured, measure).records() if ranks.first else ():
                _write(json.dumps(_place(source, record["start"], record["end"]) | record) + "\n")
            parts.append(part)
    if not ranks.first:
        return
    if plot is not None:
        measured = Measured(
            np.full((len(plan.segments), plan.horizon), np.nan, np.float32),
            np.full(len(plan.segments), np.nan, np.float32),
            words,
        )
        for part in parts:
            measured.entropies[list(part.segments)] = part.measured.entropies
            measured.question[list(part.segments)] = part.measured.question
        scores = Scores(question, plan.segments, measured, measure, shortlist=only)
        budget = lm.context - len(plan.prompts[0])
        scores.plot(plot, pick(scores.values, scores.segments, budget, wanted))
        print(f"drawn to {plot}", file=sys.stderr)


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(help="Text file to write.")],
    hide: Annotated[
        list[str] | None, typer.Option(help="A sentence to hide at a random place; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random places.")] = 0,
) -> None:
    """Write the bundled text (1.2 million tokens), with sentences of yours hidden in it."""
    from npukv import bundled
    from npukv.errors import InputError

    sentences = hide or []
    text, starts = bundled.hide(bundled.sample_text(), sentences, seed)
    places = [f"hidden at character {at:,}: {said}" for at, said in zip(starts, sentences, strict=True)]
    try:
        out.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another file") from None
    for line in [f"{out}: {len(text):,} characters", *places]:
        print(line, file=sys.stderr)


@app.command()
def info() -> None:
    """Show versions, devices and which kernels serve what, for a look or a report."""
    from npukv.environment import environment

    print(json.dumps(environment(), indent=2, ensure_ascii=False))


app.command("generate")(generate_command)
app.command("eval")(eval_command)
app.add_typer(bench_app, name="bench")


def _checked_input(files: list[str], question: str, measure: str) -> Source:
    """What can be refused before a model is loaded."""
    from npukv.errors import InputError
    from npukv.relevance.measures import check
    from npukv.text import read_source

    check(measure)
    if not question.strip():
        raise InputError("got an empty question, expected words; pass it with --question")
    return read_source(files)


def _on_several(files: list[str], devices: str, device: str) -> None:
    """Where --devices asks for several cards: run this command as so many ranks instead, and end with their status."""
    from npukv.errors import InputError
    from npukv.parallel.ranks import under_torchrun

    ranks = under_torchrun()
    if not ranks and devices != "1":
        from npukv.parallel.launch import count_devices, launch

        count = count_devices(devices, device)
        if count > 1 and "-" not in files:
            raise typer.Exit(launch(sys.argv[1:], count))
        ranks = count > 1
    if ranks and "-" in files:
        raise InputError("got standard input, which only one process can read, for several; name a file instead")


def _progress(ranks: Any) -> Any:
    """One bar for all ranks."""
    from npukv.progress import ProgressReport

    return ProgressReport(ranks.size, silent=not ranks.first)


def _place(source: Source, start: int, end: int) -> dict[str, Any]:
    """Character offsets in the whole input, and the file with the offset in it where they begin."""
    file, offset = source.locate(start)
    return {"start": start, "end": end, "file": file, "file_start": offset}


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _summarise(given: Any, used: list[dict[str, Any]]) -> None:
    """What the answer rests on, on standard error."""
    seconds = given.seconds
    if given.scores is None:
        print(f"read whole: {given.tokens['text']:,} tokens", file=sys.stderr)
    else:
        listed = given.scores.shortlist
        fresh, in_all = given.scores.scored, len(given.scores if listed is None else listed)
        resumed = f", {in_all - fresh:,} of them from an earlier run" if fresh < in_all else ""
        promising = "" if listed is None else f", the {in_all:,} most promising"
        print(
            f"{given.tokens['text']:,} tokens in {given.tokens['segments']:,} segments{promising}{resumed}, "
            f"scored in {seconds['score']:.1f} s; "
            f"answered from {given.tokens['key_context']:,} tokens in {seconds['generate']:.1f} s:",
            file=sys.stderr,
        )
        for part in used:
            first, length = part["file_start"], part["end"] - part["start"]
            where = f"{part['file']} characters {first:,} to {first + length:,}"
            said = "not scored" if part["score"] is None else f"score {part['score']:.3f}"
            print(f"  {where}, {said}", file=sys.stderr)


def main() -> None:
    """Entry point: 0 with an answer, 1 without, 2 for input that cannot be used, 130 when interrupted."""
    try:
        code = app(standalone_mode=False)  # typer gives an early exit's status back, and 130 for an interrupt
    except NpukvError as error:
        print(f"npukv: {error}", file=sys.stderr)
        sys.exit(1 if type(error) is NpukvError else 2)
    except Exception as error:
        usage = _usage_error(error)
        if usage is None:
            raise
        if usage:
            print(f"npukv: {usage}", file=sys.stderr)
        sys.exit(2)
    if code == 130:
        print("npukv: interrupted; with --run, the same command goes on where this one stopped", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _usage_error(error: Exception) -> str | None:
    """The message of a wrong command line (unknown option), "" where help was all there is to say, None otherwise."""
    format_message = getattr(error, "format_message", None)
    if format_message is None:
        return None
    message = format_message()
    return f"{message} (see npukv --help)" if message else ""


if __name__ == "__main__":
    main()
