"""How fast npukv scores a text, beside a plain loop of model(...) over the same segments, in the same run.

    python scripts/bench_score.py [--model DIR] [--segments 96] [--rounds 5] [--out scripts/results/score-cpu.json]

Parity comes first: in float32 the scores must equal those of the loop, and in the device's fastest type they must be as
close to the float32 ones as the loop's are. Without parity no speed is printed. Every round times all contenders one
after the other; the table gives medians, the JSON all samples, the environment, and what bounds the rate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import npukv
from npukv import bundled
from npukv.environment import environment
from npukv.language_model import LanguageModel
from npukv.relevance.measure import measure_batch
from npukv.relevance.measures import HORIZON
from npukv.relevance.plan import Plan, make_plan
from npukv.relevance.score import stream_scores
from npukv.text import tokenize

QUESTION = "What is the special magic number for heron?"


def sequence(plan: Plan, index: int) -> list[int]:
    prompt, window = plan.prompts[0], plan.segments[index]
    return [*prompt.head, *plan.tokens.ids[window.start : window.end].tolist(), *prompt.after]


@torch.inference_mode()
def loop(model: Any, plan: Plan, device: torch.device, stops: set[int], horizon: int) -> np.ndarray:
    """What one would write first: one segment after the other. Returns E + Q; with horizon 1, the first entropy."""
    from transformers import DynamicCache

    asked = plan.prompts[0].question
    values = []
    for index in range(len(plan.segments)):
        ids = torch.tensor([sequence(plan, index)], device=device)
        if horizon == 1:
            log = model(ids).logits[0, -1].float().log_softmax(-1)
            values.append(float(-(log.exp() * log).sum()))
            continue
        cache = DynamicCache(config=model.config)
        log = model(ids, past_key_values=cache).logits[0].float().log_softmax(-1)
        places = range(len(ids[0]) - len(plan.prompts[0].after), len(ids[0]) - len(plan.prompts[0].tail) - 1)
        likelihood = -np.mean([float(log[i, token]) for i, token in zip(places, asked[1:], strict=True)])
        entropies, log = [], log[-1]
        for step in range(horizon):
            entropies.append(float(-(log.exp() * log).sum()))
            token = int(log.argmax())
            if token in stops or step + 1 == horizon:
                break
            following = torch.tensor([[token]], device=device)
            log = model(following, past_key_values=cache).logits[0, -1].float().log_softmax(-1)
        values.append(float(np.mean(entropies)) + likelihood)
    return np.array(values)


def ours(lm: LanguageModel, plan: Plan) -> np.ndarray:
    from npukv.relevance.measures import certainty_and_question

    return np.concatenate([certainty_and_question(part.measured) for part in stream_scores(lm, plan)])


def stock(lm: LanguageModel, dtype: torch.dtype) -> Any:
    """The same weights as transformers loads them by itself."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(lm.name, dtype=dtype).to(lm.device.torch_device).eval()


def parity(lm: LanguageModel, exact: LanguageModel, plan: Plan) -> dict[str, float]:
    """Largest and mean differences of E + Q on a few segments. Raises SystemExit where they are too large."""
    few = Plan(plan.tokens, plan.asked, plan.prompts, plan.segments[:24], plan.horizon)
    device, stops = lm.device.torch_device, set(lm.stop_ids)
    truth = loop(stock(lm, torch.float32), few, device, stops, plan.horizon)
    fast_loop = np.abs(loop(stock(lm, lm.model.dtype), few, device, stops, plan.horizon) - truth)
    fast_ours = np.abs(ours(lm, few) - truth)
    found = {
        "float32_max": float(np.abs(ours(exact, few) - truth).max()),
        "fast_ours_mean": float(fast_ours.mean()),
        "fast_loop_mean": float(fast_loop.mean()),
    }
    # A greedy token that flips between near-equals changes E by more than rounding: hence the mean in the fast type.
    if found["float32_max"] > 1e-3 or found["fast_ours_mean"] > 2 * found["fast_loop_mean"] + 1e-2:
        sys.exit(f"no parity with the plain loop, so no speed is given: {json.dumps(found)}")
    return found


def flops_per_segment(lm: LanguageModel, plan: Plan) -> float:
    """Multiplications and additions of the matrix products: layers at every token, the head where logits are needed."""
    config = lm.model.config
    blocks = sum(p.numel() for name, p in lm.model.named_parameters() if p.dim() == 2 and "embed" not in name)
    length = len(sequence(plan, 0))
    heads = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    attention = 4 * heads * config.num_hidden_layers * length * length / 2
    head = 2 * config.vocab_size * config.hidden_size * (len(plan.prompts[0].after) + plan.horizon)
    return 2 * blocks * (length + plan.horizon) + attention + head


def matmul_rate(lm: LanguageModel) -> float:
    """FLOP/s of products of the model's own shape (a batch's tokens by its widest layer), best of 5."""
    config, device = lm.model.config, lm.device
    rows = device.batch_tokens
    a = torch.randn(rows, config.hidden_size, dtype=lm.model.dtype, device=device.torch_device)
    b = torch.randn(config.hidden_size, 2 * config.intermediate_size, dtype=lm.model.dtype, device=device.torch_device)
    best = 0.0
    for _ in range(5):
        device.synchronize()
        started = time.perf_counter()
        for _ in range(10):
            a @ b
        device.synchronize()
        best = max(best, 10 * 2 * rows * b.numel() / (time.perf_counter() - started))
    return best


def timed(lm: LanguageModel, work: Callable[[], object]) -> float:
    lm.device.synchronize()
    started = time.perf_counter()
    work()
    lm.device.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--segments", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lm = npukv.load(options.model, options.device)
    exact = npukv.load(options.model, options.device, "float32")
    tokens = tokenize(lm.tokenizer, bundled.sample_text()[:400_000])
    plan = make_plan(lm, tokens, (QUESTION,), horizon=HORIZON)
    plan = Plan(tokens, plan.asked, plan.prompts, plan.segments[: options.segments], plan.horizon)
    text_tokens = plan.segments[-1].end
    found = parity(lm, exact, plan)
    print("parity with the plain loop:", json.dumps(found), flush=True)

    device, stops = lm.device.torch_device, set(lm.stop_ids)
    fast, wide = stock(lm, lm.model.dtype), stock(lm, torch.float32)
    name = str(lm.model.dtype).removeprefix("torch.")
    contenders: dict[str, Callable[[], object]] = {
        f"npukv, E + Q, {name}": lambda: ours(lm, plan),
        "npukv, E + Q, float32": lambda: ours(exact, plan),
        f"plain loop, first entropy alone, {name}": lambda: loop(fast, plan, device, stops, 1),
        "plain loop, first entropy alone, float32": lambda: loop(wide, plan, device, stops, 1),
        f"plain loop, E + Q, {name}": lambda: loop(fast, plan, device, stops, plan.horizon),
    }
    samples: dict[str, list[float]] = {contender: [] for contender in contenders}
    measure_batch(lm, np.stack([tokens.ids[:64]] * 2), plan.prompts, plan.horizon)
    for round_ in range(options.rounds + 1):
        for contender, work in contenders.items():
            seconds = timed(lm, work)
            if round_:  # the first round warms up
                samples[contender].append(seconds)
    rates = {contender: text_tokens / statistics.median(values) for contender, values in samples.items()}
    first = next(iter(rates))
    print(f"\n{len(plan.segments)} segments, {text_tokens:,} tokens of text, {options.rounds} rounds, medians")
    for contender, rate in rates.items():
        spread = max(samples[contender]) / min(samples[contender]) - 1
        print(f"  {contender:45s} {rate:10,.0f} tokens/s  x{rates[first] / rate:5.2f}  (spread {100 * spread:.0f}%)")
    flops, peak = flops_per_segment(lm, plan), matmul_rate(lm)
    used = flops * len(plan.segments) / statistics.median(samples[first])
    print(f"  {flops / 1e9:.2f} GFLOP per segment; {used / 1e9:,.0f} of {peak / 1e9:,.0f} GFLOP/s of matmul alone")
    if options.out:
        record = {
            "environment": environment(),
            "model": Path(lm.name).name,
            "segments": len(plan.segments),
            "text_tokens": text_tokens,
            "parity": found,
            "seconds": samples,
            "tokens_per_second": rates,
            "flops_per_segment": flops,
            "flops_used": used,
            "flops_matmul": peak,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
