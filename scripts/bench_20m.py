"""Twenty million tokens with the bundled model: exact and sketch first, on one card and on two.

    python scripts/bench_20m.py --data DATA --out OUT [--tokens 20000000] [--cards 2] [--seconds 190]
    python scripts/bench_20m.py --plots OUT/bench-20m.json

DATA holds train_*.jsonl.xz (four files are enough). Two texts: one with rival facts in a quarter of the segments, 40
questions; one with 20 facts and no rivals. Stages, each a process (or one per card) of its own; one JSON for all:

one   one card: the token store; scoring everything for a question at growing lengths, time and memory; the sketch:
      size, build and search time, first and later questions; recall of sketch and BM25 for all questions; answers
many  all cards: the same questions, whose scores must be one card's to the bit; ranks and answers of all questions and
      of the 20 facts; the time line of each rank
shape random weights (--shape llama-2-7b), only with --shape: one card against all, tokens per second; the second text
      from characters to an answer on all cards, exactly and by 8 bits first; the sketch and later questions

A stage that fails, or does not fit into --seconds, is recorded, and the others run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_20m_shape import stage_shape
from bench_20m_stage import Stage, timed, watched
from bench_20m_texts import OVERLAP, SEGMENT, make_texts

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARES = (0.1, 0.5, 1.0, 2.0, 5.0)
GROWTH = (1 / 80, 1 / 40, 1 / 20, 1 / 10, 1 / 5, 2 / 5, 1.0)
MEASURES = ("first", "certainty", "question", "certainty+question", "certainty+question+words")
SECTIONS = "growth,sketch,build,recall,forwards,same,rivals,alone,fused,whole exact,8bit,whole 8bit"
CUT: dict[str, Any] = {"segment": SEGMENT, "overlap": OVERLAP}


def read_questions(work: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((work / f"{name}.json").read_text())


def open_text(lm: Any, work: Path, name: str, ranks: Any) -> Any:
    from npukv.parallel.tokens import open_tokens

    return open_tokens(lm.tokenizer, (work / f"{name}.txt").read_text(encoding="utf-8"), work / "index", ranks=ranks)


def holding(plan: Any, span: list[int]) -> list[int]:
    """Segments that hold all of a span of characters, or most of it."""
    tokens, windows = plan.tokens, plan.segments
    at = int(np.searchsorted(tokens.starts, span[0], side="right")) - 1
    near = range(max(0, (at - windows.length) // windows.stride), min(len(windows), at // windows.stride + 2))
    held = {
        i: min(windows[i].char_end, span[1]) - max(windows[i].char_start, span[0]) for i in {*near, len(windows) - 1}
    }
    return [i for i, count in held.items() if count == max(held.values())]


def rank_of(values: np.ndarray, segments: list[int]) -> int:
    order = np.argsort(values, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return int(min(place[i] for i in segments))


def answers_right(lm: Any, tokens: Any, asked: list[dict[str, Any]], scores: list[Any], keep: int) -> dict[str, Any]:
    """Answers from the best `keep` segments of each question."""
    from npukv.evaluation.generate import generate_answers
    from npukv.evaluation.metrics import equals_first
    from npukv.prompt import build_prompt
    from npukv.relevance.answer import key_context, room_for_text
    from npukv.relevance.pick import Keep, merge, pick

    prompts = []
    for one, found in zip(asked, scores, strict=True):
        prompt = build_prompt(lm.tokenizer, one["question"], ahead=True)
        chosen = pick(found.values, found.segments, room_for_text(lm, prompt, 16), Keep(keep))
        prompts.append(key_context(prompt, tokens, merge([found.segments[i] for i in chosen])))
    said = generate_answers(lm, prompts, [16] * len(prompts))
    right = [bool(equals_first(output, [one["answer"]])) for output, one in zip(said, asked, strict=True)]
    return {"right": sum(right), "of": len(right), "said": said}


def stage_one(chosen: Any) -> None:
    import npukv
    from npukv.environment import environment
    from npukv.parallel.ranks import ALONE
    from npukv.relevance.plan import make_plan
    from npukv.relevance.shortlist import bm25_distances
    from npukv.relevance.sketch import open_sketch, search
    from npukv.text import Tokens

    stage = Stage("one", chosen)
    lm = npukv.load(chosen.model, chosen.device)
    stage.found["environment"] = environment()
    asked = read_questions(chosen.work, "rivals")
    tokens, seconds = timed(lm, lambda: open_text(lm, chosen.work, "rivals", ALONE))
    stage.found["store"] = {
        "tokens": len(tokens), "characters": tokens.characters, "seconds": seconds,
        "bytes": sum(path.stat().st_size for path in tokens.folder.iterdir() if path.is_file()),
    }  # fmt: skip
    print(f"[token store: {len(tokens):,} tokens in {seconds:.1f} s, {stage.left:.0f} s left]", flush=True)
    question = asked[0]["question"]
    npukv.score_segments(lm, Tokens(tokens.ids[:200_000], tokens.starts[:200_000], 0), question, **CUT)  # warm

    def growth() -> list[dict[str, float]]:
        rows = []
        for share in GROWTH:
            count = int(len(tokens) * share)
            part = Tokens(tokens.ids[:count], tokens.starts[:count], int(tokens.starts[count - 1]), None, f"{count}")
            run = chosen.work / f"run-one-{count}"
            scores, seconds = timed(lm, lambda p=part, r=run: npukv.score_segments(lm, p, question, run=r, **CUT))
            rows.append({"tokens": count, "seconds": seconds, "peak_memory": lm.device.peak_memory()})
        np.savez(chosen.work / "scores-one.npz", entropies=scores.entropies, question=scores.question)
        return rows

    stage.section("growth", 20, growth)
    plans = [make_plan(lm, tokens, (one["question"],), **CUT) for one in asked]

    def sketch() -> dict[str, Any]:
        first, first_seconds = timed(lm, lambda: npukv.score_segments(lm, tokens, question, mode="sketch", **CUT))
        built, _ = timed(lm, lambda: open_sketch(lm, tokens))
        size = sum(path.stat().st_size for path in built.folder.iterdir())
        seconds, scores = [], []
        for one in asked:
            result, taken = timed(
                lm, lambda q=one["question"]: npukv.score_segments(lm, tokens, q, mode="sketch", **CUT)
            )
            seconds.append(taken)
            scores.append(result)
        half = [
            timed(
                lm,
                lambda q=one["question"]: npukv.score_segments(lm, tokens, q, mode="sketch", shortlist="0.5%", **CUT),
            )[1]
            for one in asked[:10]
        ]
        whole = [
            timed(lm, lambda q=one["question"]: npukv.answer(lm, tokens, q, mode="sketch", **CUT))[1]
            for one in asked[:5]
        ]
        found: dict[str, Any] = {
            "first_question_seconds": first_seconds, "later_questions_seconds": seconds,
            "later_questions_half_percent_seconds": half, "later_answers_seconds": whole, "index_bytes": size,
            "same_first": bool(np.array_equal(first.values, scores[0].values)),
        }  # fmt: skip
        found["answers"] = answers_right(lm, tokens, asked, scores, 1)
        found["best"] = [int(one.ranking()[0]) for one in scores]
        return found

    def build() -> dict[str, Any]:
        from dataclasses import replace

        again = replace(tokens, folder=None, sketches={})
        built, seconds = timed(lm, lambda: open_sketch(lm, again))
        times = [timed(lm, lambda p=plan: search(lm, built, p.prompts[0], p.segments))[1] for plan in plans[:10]]
        return {"build_in_memory_seconds": seconds, "search_seconds": times}

    def recall() -> dict[str, Any]:
        built = open_sketch(lm, tokens)
        found: dict[str, Any] = {"segments": len(plans[0].segments), "sketch": [], "bm25": [], "bm25_seconds": []}
        distances = []
        for one, plan in zip(asked, plans, strict=True):
            right = holding(plan, one["span"])
            distances.append(search(lm, built, plan.prompts[0], plan.segments))
            found["sketch"].append(rank_of(distances[-1], right))
            words, seconds = timed(lm, lambda p=plan: bm25_distances(lm, p))
            found["bm25"].append(rank_of(words, right))
            found["bm25_seconds"].append(seconds)
        np.save(chosen.work / "distances-one.npy", np.stack(distances))
        return found

    def forwards() -> dict[str, Any]:
        """Fused blocks, as they are and compiled: everything, and a later question by the sketch."""
        from npukv.relevance.fast_forward import FastForward

        found: dict[str, Any] = {}
        for name in ("fused, not compiled", "fused, compiled"):
            forward = FastForward(lm, compiled=name == "fused, compiled")
            options = {**CUT, "forward": forward}
            part = Tokens(tokens.ids[:400_000], tokens.starts[:400_000], 0)
            warm = timed(lm, lambda p=part, o=options: npukv.score_segments(lm, p, question, **o))[1]
            scores, every = timed(lm, lambda o=options: npukv.score_segments(lm, tokens, question, **o))
            later = [
                timed(lm, lambda q=one["question"], o=options: npukv.score_segments(lm, tokens, q, mode="sketch", **o))[
                    1
                ]
                for one in asked[:6]
            ]
            found[name] = {"warm_seconds": warm, "seconds": every, "later_questions_seconds": later}
            kept = np.load(chosen.work / "scores-one.npz")
            found[name]["same_best"] = int(np.argmin(kept["question"]) == np.argmin(scores.question))
            found[name]["largest_difference_of_Q"] = float(np.abs(kept["question"] - scores.question).max())
        return found

    stage.section("sketch", 20, sketch)
    stage.section("build", 5, build)
    stage.section("recall", 10, recall)
    stage.section("forwards", 110, forwards)  # the other stage comes first
    stage.found["peak_memory"] = lm.device.peak_memory()
    stage.path.write_text(json.dumps(stage.found))


def stage_many(chosen: Any) -> None:
    import npukv
    from npukv.parallel.ranks import join
    from npukv.relevance.plan import make_plan
    from npukv.relevance.sketch import open_sketch, search

    with join(chosen.device, patience=120) as ranks:
        stage = Stage("many", chosen, ranks.first)
        lm = npukv.load(chosen.model, ranks.device)
        asked = read_questions(chosen.work, "rivals")
        tokens = open_text(lm, chosen.work, "rivals", ranks)
        part = npukv.text.Tokens(tokens.ids[:200_000], tokens.starts[:200_000], 0)
        npukv.score_segments(lm, part, asked[0]["question"], ranks=ranks, **CUT)  # warm

        def same() -> dict[str, Any]:
            options = {**CUT, "run": chosen.work / "run-many", "ranks": ranks}
            scores, seconds, lines = watched(
                ranks, lambda: npukv.score_segments(lm, tokens, asked[0]["question"], **options)
            )
            found: dict[str, Any] = {"seconds": seconds, "timeline": lines}
            one = chosen.work / "scores-one.npz"
            if one.exists():
                kept = np.load(one)
                equal = kept["entropies"].tobytes() == scores.entropies.tobytes()
                found["identical"] = equal and kept["question"].tobytes() == scores.question.tobytes()
            return found

        def sketch() -> dict[str, Any]:
            from dataclasses import replace

            again = replace(tokens, folder=chosen.work / "index-many", sketches={})
            built, seconds = timed(lm, lambda: open_sketch(lm, again, ranks=ranks))
            times, equal = [], []
            kept = chosen.work / "distances-one.npy"
            before = np.load(kept) if kept.exists() else None
            for i, one in enumerate(asked[:8]):
                plan = make_plan(lm, again, (one["question"],), **CUT)
                found, taken = timed(lm, lambda p=plan: search(lm, built, p.prompts[0], p.segments, ranks=ranks))
                times.append(taken)
                equal.append(before is None or bool(np.array_equal(before[i], found)))
            return {"build_seconds": seconds, "search_seconds": times, "identical": sum(equal), "of": len(equal)}

        def exact(name: str) -> dict[str, Any]:
            facts = read_questions(chosen.work, name)
            held = tokens if name == "rivals" else open_text(lm, chosen.work, name, ranks)
            rows = max(1, 4 * lm.device.batch_tokens // SEGMENT)  # several questions share the segments' reading
            texts = [one["question"] for one in facts]
            scores, seconds = timed(lm, lambda: npukv.score_segments(lm, held, texts, batch=rows, ranks=ranks, **CUT))
            found: dict[str, Any] = {"seconds": seconds, "questions": len(facts), "segments": len(scores[0])}
            if ranks.first:
                plan = make_plan(lm, held, tuple(texts), **CUT)
                right = [holding(plan, one["span"]) for one in facts]
                found["kinds"] = [one["kind"] for one in facts]
                found["ranks"] = {
                    measure: [rank_of(one.by(measure), places) for one, places in zip(scores, right, strict=True)]
                    for measure in MEASURES
                }
                found["best"] = [int(one.ranking()[0]) for one in scores]
                for keep in (1, 4):
                    found[f"answers_{keep}"] = answers_right(lm, held, facts, scores, keep)
            ranks.meet("answer")
            return found

        stage.section("same", 15, same)
        stage.section("sketch", 10, sketch)
        stage.section("rivals", 40, lambda: exact("rivals"))
        stage.section("alone", 30, lambda: exact("alone"))
        memory = ranks.gather(str(lm.device.peak_memory()).encode(), "gather memory")
        stage.found["peak_memory"] = [int(value) for value in memory]
        if ranks.first:
            stage.path.write_text(json.dumps(stage.found))


def start_stage(name: str, cards: int, chosen: Any) -> None:
    """Run a stage as a process, or as one per card."""
    command = [sys.executable]
    if cards > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(cards)]
    given = {"work": chosen.work, "stage": name, "deadline": chosen.deadline, "device": chosen.device}
    given |= {"shape": chosen.shape, "shape-tokens": chosen.shape_tokens, "shape-rows": chosen.shape_rows}
    given |= {"shape-horizon": chosen.shape_horizon, "shape-parts": chosen.shape_parts} | (
        {"model": chosen.model} if chosen.model else {}
    )
    given |= {"sections": chosen.sections} if chosen.sections else {}
    command += [__file__, *(f"--{key}={value}" for key, value in given.items() if value is not None)]
    left = chosen.deadline - time.time() + 15
    try:
        subprocess.run(command, timeout=max(20, left), check=False, env={"OMP_NUM_THREADS": "4", **os.environ})
    except subprocess.TimeoutExpired:
        print(f"stage {name}: took too long", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train_*.jsonl.xz")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "bench-20m")))
    parser.add_argument("--tokens", type=float, default=20e6)
    parser.add_argument("--each", type=int, default=10, help="questions of each of the four kinds, among rivals")
    parser.add_argument("--cards", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model")
    parser.add_argument("--stages", default="one,many")
    parser.add_argument("--sections", help="of the stages, such as growth,same,rivals; default: all")
    parser.add_argument("--seconds", type=float, default=190)
    parser.add_argument("--shape", help="also a model of this shape with random weights, such as llama-2-7b")
    parser.add_argument("--shape-tokens", type=float, default=1e6)
    parser.add_argument("--shape-rows", type=int, default=64)
    parser.add_argument("--shape-horizon", type=int, default=1)
    parser.add_argument("--shape-parts", default="fused,whole exact,8bit,whole 8bit,sketch")
    parser.add_argument("--plots", type=Path, help="draw the plots of an earlier run's JSON and stop")
    for hidden in ("--work", "--stage", "--deadline"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    unknown = set((chosen.sections or SECTIONS).split(",")) - set(SECTIONS.split(","))
    if unknown:
        parser.error(f"--sections: got {', '.join(sorted(unknown))}, expected some of {SECTIONS}")
    return chosen


def main() -> None:
    chosen = arguments()
    if chosen.plots:
        from bench_20m_report import draw

        return draw(json.loads(chosen.plots.read_text()), chosen.plots.parent)
    if chosen.stage:
        chosen.work, chosen.deadline = Path(chosen.work), float(chosen.deadline)
        return {"one": stage_one, "many": stage_many, "shape": stage_shape}[chosen.stage](chosen)
    chosen.deadline = time.time() + chosen.seconds
    chosen.out.mkdir(parents=True, exist_ok=True)
    from bench_20m_report import draw, print_tables
    from transformers import AutoTokenizer

    from npukv.bundled import model_folder

    found: dict[str, Any] = {"tokens": chosen.tokens, "cards": chosen.cards, "segment": SEGMENT, "overlap": OVERLAP}
    with tempfile.TemporaryDirectory() as work:
        chosen.work = Path(work)
        stages = [name for name in (*chosen.stages.split(","), "shape" if chosen.shape else "") if name]
        if set(stages) & {"one", "many"} or "whole" in chosen.shape_parts:
            tokenizer = AutoTokenizer.from_pretrained(chosen.model or str(model_folder()))
            started = time.time()
            make_texts(
                sorted(chosen.data.glob("train_*.jsonl.xz")), chosen.work, tokenizer, int(chosen.tokens), chosen.each
            )
            found["texts_seconds"] = time.time() - started
            print(f"[texts: {found['texts_seconds']:.1f} s]", flush=True)
        for name in stages:
            start_stage(name, 1 if name == "one" else chosen.cards, chosen)
            path = chosen.work / f"stage-{name}.json"
            found[name] = json.loads(path.read_text()) if path.exists() else {"failed": {"stage": "left nothing"}}
            (chosen.out / "bench-20m.json").write_text(json.dumps(found, indent=1) + "\n")
    print_tables(found)
    try:
        draw(found, chosen.out)
    except ModuleNotFoundError:
        print(f"matplotlib is missing: draw with {Path(__file__).name} --plots {chosen.out / 'bench-20m.json'}")


if __name__ == "__main__":
    main()
