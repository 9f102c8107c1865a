"""Stage "shape" of bench_20m: a large model's shape with random weights, one card against all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from bench_20m_stage import Stage, timed, watched


def stage_shape(chosen: Any) -> None:
    import npukv
    from npukv.bench.score import random_lm
    from npukv.parallel.ranks import ALONE, join
    from npukv.relevance.fast_forward import FastForward, eight_bit_forward
    from npukv.relevance.sketch import open_sketch
    from npukv.text import Tokens

    with join(chosen.device, patience=400) as ranks:
        stage = Stage("shape", chosen, ranks.first)
        device = ranks.device
        lm = random_lm(chosen.shape, device, device.default_dtype())
        lm.model.config.max_position_embeddings = 4096  # Llama 2's context: a longer text is scored, not read whole
        generator = np.random.default_rng(0)
        rows, segment = chosen.shape_rows, 1000 if device.name != "cpu" else 50
        count = segment * rows * 2 * max(1, round(chosen.shape_tokens / segment / rows / 2))
        ids = generator.integers(2, lm.model.config.vocab_size, count, dtype=np.int32)
        tokens = Tokens(ids, np.arange(count), count, None, "random")
        options: dict[str, Any] = {"segment": segment, "overlap": 0, "batch": rows, "horizon": chosen.shape_horizon}
        question = "What is the special magic number for heron?"
        fused = FastForward(lm)
        few = Tokens(ids[: segment * rows * ranks.size], tokens.starts, 0, None, "few")  # a batch for every rank

        def alone(work: Callable[[], Any]) -> tuple[Any, float]:
            """On the first card; the others wait."""
            ranks.meet("begin alone")
            found = timed(lm, work) if ranks.first else (None, 0.0)
            ranks.meet("one card is done")
            return found

        def rate(forward: Any) -> dict[str, Any]:
            npukv.score_segments(lm, few, question, forward=forward, **options)
            call = lambda team: npukv.score_segments(lm, tokens, question, forward=forward, ranks=team, **options)  # noqa: E731
            one, one_seconds = alone(lambda: call(ALONE))
            every, seconds, lines = watched(ranks, lambda: call(ranks))
            found = {"tokens": count, "one_seconds": one_seconds, "all_seconds": seconds, "timeline": lines}
            if ranks.first:
                found["identical"] = all(
                    getattr(one, name).tobytes() == getattr(every, name).tobytes() for name in ("entropies", "question")
                )
            return found

        def sketch() -> dict[str, Any]:
            """One card: the sketch, a first question, later ones."""
            asked = [f"What is the special magic number for {name}?" for name in ("heron", "oak", "anchor", "lamp")]
            alone(lambda: open_sketch(lm, few, forward=fused))
            _, build = alone(lambda: open_sketch(lm, tokens, forward=fused))
            short = {**options, "batch": None, "mode": "sketch", "forward": "plain"}
            times = [alone(lambda q=q: npukv.score_segments(lm, tokens, q, **short))[1] for q in (asked[0], *asked)]
            return {"tokens": count, "build_seconds": build, "question_seconds": times[1:], "first_call": times[0]}

        def whole(mode: str, needs: float) -> dict[str, Any]:
            """From the text to the answer on all cards: tokenise, score, gather, pick, generate.

            Of the text as much as there is time for; the whole of it takes `needs` seconds.
            """
            if mode == "8bit":  # compiled before the clock starts, as the exact mode's blocks are
                npukv.score_segments(lm, few, question, forward=eight_bit_forward(lm, True), ranks=ranks, **options)
            every = rows * ranks.size
            npukv.answer(
                lm, few, question, forward=fused, mode=mode, shortlist=every, max_new_tokens=16, ranks=ranks, **options
            )
            share = ranks.agree(min(1.0, (stage.left - 15) / needs), "look at the time")
            read = (chosen.work / "alone.txt").read_text(encoding="utf-8")
            read = read[: int(share * len(read))]
            place = {"run": chosen.work / f"run-shape-{mode}", "index": chosen.work / f"index-shape-{mode}"}
            ask = lambda: npukv.answer(  # noqa: E731
                lm, read, question, mode=mode, forward=fused, max_new_tokens=16, ranks=ranks, **place, **options
            )
            given, seconds, lines = watched(ranks, ask)
            memory = ranks.gather(str(device.peak_memory()).encode(), "gather memory")
            return {
                "seconds": seconds, "parts": given.seconds, "tokens": given.tokens, "timeline": lines,
                "best": [int(i) for i in given.scores.ranking()[:16]], "peak_memory": [int(value) for value in memory],
            }  # fmt: skip

        parts = {
            "fused": (45, lambda: rate(fused)),
            "whole exact": (60, lambda: whole("exact", 230)),
            "8bit": (30, lambda: rate(FastForward(lm, eight_bit=True))),
            "whole 8bit": (40, lambda: whole("8bit", 155)),
            "sketch": (20, sketch),
        }
        for name in chosen.shape_parts.split(","):
            needs, work = parts[name]
            # all ranks begin a part or none does
            if ranks.agree(stage.left >= needs, "look at the time"):
                stage.section(name, 0, work)
            else:
                stage.section(name, float("inf"), work)
        if ranks.first:
            stage.path.write_text(json.dumps(stage.found))
