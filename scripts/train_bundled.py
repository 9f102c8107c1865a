"""Train the bundled model: a small Llama that finds facts in text.

    python scripts/bundled_data.py --classics DIR --out DATA        # once
    python scripts/train_bundled.py --data DATA --out RUN --minutes 9

Each call trains for at most --minutes and leaves in RUN: state.pt (everything; the next call goes on from it), the
weights in float32 as safetensors shards of at most 16 MiB, and training.jsonl. When the last step is done it also
checks the model on held-out material (checks.json) and writes its folder, model, beside state.pt. --resume DIR goes on
from shards alone: the optimizer's moments start from zero under a short warm-up. What a step sees follows from --seed.
Under torchrun each rank trains on --tokens of its own per step, and gradients are averaged.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from bundled_batches import Batches, unpack_tokens
from bundled_check import check, default_device
from bundled_data import BOS, EOS, works
from bundled_documents import ANSWER, PLAIN
from bundled_mixes import MIXES
from bundled_optimizer import Muon
from bundled_shards import load_shards, save_shards
from tokenizers import Tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from npukv.evaluation.words import split_words
from npukv.parallel.ranks import Ranks, join

WARM_UP, REWARM = 200, 100
DECAY_SHARE = 0.45  # of all steps, unless --decay-steps says how many; constant before, linear to zero in them
KEEP_EVERY = 1000  # steps: what an error can cost at most
AGREE_EVERY = 10  # steps: how often ranks agree on the time that has passed


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder made by bundled_data.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state", type=Path, help="where state.pt lies; default --out")
    parser.add_argument("--resume", type=Path, help="folder of *.safetensors and training.jsonl to go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=14800, help="of the whole training, over all calls")
    parser.add_argument("--decay-steps", type=int, help="the last steps, over which rates fall to zero; default 45%%")
    parser.add_argument("--peak", type=float, help="falls to zero over --minutes from this share of the full rate")
    parser.add_argument("--write-model", type=Path, help="write the model folder of --resume's shards, and end")
    parser.add_argument("--mean-with", type=Path, nargs="+", help="--write-model writes the mean with these folders'")
    parser.add_argument("--minutes", type=float, default=9.0, help="training time of this call")
    parser.add_argument("--tokens", type=int, default=131072, help="per step")
    parser.add_argument("--length", type=int, default=2048, help="context; a quarter in some steps, as --mix has it")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--feed-forward", type=int, default=640)
    parser.add_argument(
        "--mix", choices=list(MIXES), default="listed", help="what rows are made of (bundled_sequences)"
    )
    parser.add_argument("--lr-matrices", type=float, default=0.02)
    parser.add_argument("--lr-embedding", type=float, default=3e-3)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--check-samples", type=int, default=200)
    parser.add_argument("--check-characters", type=int, help="of each work for bits per byte; default all")
    parser.add_argument("--check", action="store_true", help="check the model when this call ends, finished or not")
    parser.add_argument("--device", default=default_device())
    options = parser.parse_args()
    if options.mean_with and not options.write_model:
        parser.error("--mean-with: got it without --write-model, which writes the mean; name both")
    if options.write_model and not options.resume:
        parser.error("--write-model: expected --resume, the folder whose weights it writes")
    options.state = options.state or options.out
    options.decay_steps = options.decay_steps or max(1, int(options.steps * DECAY_SHARE))
    if not (options.data / "tokenizer.json").exists():
        sys.exit(f"no tokenizer.json in {options.data}: make the data with bundled_data.py first")
    return options


# Model


def build_model(options: argparse.Namespace) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=Tokenizer.from_file(str(options.data / "tokenizer.json")).get_vocab_size(),
        hidden_size=options.width,
        intermediate_size=options.feed_forward,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=options.length,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    torch.manual_seed(options.seed)
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:  # every layer begins as the identity
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def hidden_states(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """The model's last hidden states, as transformers computes them, without what stands in a compiler's way.

    ids: [B, T] -> [B, T, D]
    """
    config = model.config
    heads, kv, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    base = config.rope_parameters["rope_theta"]
    steps = torch.arange(ids.shape[1], device=ids.device, dtype=torch.float32)
    rates = base ** (-torch.arange(0, dim, 2, device=ids.device, dtype=torch.float32) / dim)
    angles = steps[:, None] * rates  # [T, dim / 2]
    x = F.embedding(ids, model.model.embed_tokens.weight)
    cos, sin = angles.cos(), angles.sin()

    def rotate(y: torch.Tensor) -> torch.Tensor:  # [B, H, T, dim]
        a, b = y.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(y.dtype)

    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        y = F.rms_norm(x, (x.shape[-1],), layer.input_layernorm.weight, config.rms_norm_eps)
        q = attention.q_proj(y).unflatten(-1, (heads, dim)).transpose(1, 2)
        k = attention.k_proj(y).unflatten(-1, (kv, dim)).transpose(1, 2)
        v = attention.v_proj(y).unflatten(-1, (kv, dim)).transpose(1, 2)
        y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True, enable_gqa=True)
        x = x + attention.o_proj(y.transpose(1, 2).flatten(2))
        y = F.rms_norm(x, (x.shape[-1],), layer.post_attention_layernorm.weight, config.rms_norm_eps)
        x = x + mlp.down_proj(F.silu(mlp.gate_proj(y)) * mlp.up_proj(y))
    return F.rms_norm(x, (x.shape[-1],), model.model.norm.weight, config.rms_norm_eps)


def loss_and_parts(
    model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted loss, and [plain text's mean, answers' mean] in nats. ids, weights: [B, T + 1]"""
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type != "cpu"):
        logits = F.linear(hidden_states(model, ids[:, :-1]), model.lm_head.weight)
    losses = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten().long(), reduction="none")
    weights = weights[:, 1:].flatten()
    plain, answers = (weights == PLAIN).float(), (weights >= ANSWER // 2).float()
    with torch.no_grad():
        parts = torch.stack([(losses * mask).sum() / mask.sum().clamp(min=1) for mask in (plain, answers)])
    scale = weights.float()
    return (losses * scale).sum() / scale.sum(), parts


# Keeping and going on


def last_step(folder: Path) -> int:
    """The step a log ends at."""
    lines = (folder / "training.jsonl").read_text().splitlines()
    return max((json.loads(line).get("step", 0) for line in lines), default=0)


def save_model(model: LlamaForCausalLM, data: Path, folder: Path, length: int) -> None:
    """The transformers folder in bfloat16."""
    model.to(torch.bfloat16).save_pretrained(folder)
    shutil.copyfile(data / "tokenizer.json", folder / "tokenizer.json")
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=1) + "\n")


def rate(step: int, steps: int, decay_steps: int, since: int) -> float:
    """Share of the full learning rate; ``since``: steps since moments were last zero."""
    decay = min(1.0, max(0.0, (steps - step) / decay_steps))
    return decay * min(1.0, (step + 1) / WARM_UP, (since + 1) / REWARM)


def timed_rate(peak: float, elapsed: float, limit: float, since: int) -> float:
    """Share of the full learning rate when a call's time, not its steps, is what is known; ends at zero."""
    return peak * max(0.0, 1.0 - elapsed / max(limit, 1e-9)) * min(1.0, (since + 1) / REWARM)


def average(tensors: list[torch.Tensor], ranks: Ranks) -> None:
    """Over the ranks, in place."""
    if ranks.size > 1:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= ranks.size
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])


def compare(parameters: list[torch.Tensor], ranks: Ranks) -> None:
    """Says whether the ranks' weights are the same, as they should be."""
    total = torch.stack([parameter.detach().double().sum() for parameter in parameters]).sum().item()
    totals = [float(value) for value in ranks.gather(repr(total).encode(), "compare weights")]
    if ranks.first and any(each != total for each in totals):
        print(f"the ranks' weights differ, their sums are {totals}", file=sys.stderr)


def train(options: argparse.Namespace) -> None:
    began = time.time()
    with join(options.device, remedy="begin the call again: it goes on from the state kept last") as ranks:
        model, muon, adam, step, fresh = learn(options, ranks, began)
        compare(list(model.parameters()), ranks)
    if not ranks.first:
        return
    with (options.out / "training.jsonl").open("a") as log:
        log.write(json.dumps({"step": step, "kept": True}) + "\n")
    keep(options, model, muon, adam, step, fresh)
    print(f"step {step} kept after {time.time() - began:.0f} s", flush=True)
    if step >= options.steps or options.check:
        finish(options, model)
        print(f"finished after {time.time() - began:.0f} s", flush=True)


def learn(
    options: argparse.Namespace, ranks: Ranks, began: float
) -> tuple[LlamaForCausalLM, Muon, torch.optim.Optimizer, int, int]:
    """The model and its optimizers after this call's steps, the step it came to, and the one its moments began at."""
    options.device = str(ranks.device.torch_device)
    options.out.mkdir(parents=True, exist_ok=True)
    options.state.mkdir(parents=True, exist_ok=True)
    if ranks.first:
        unpack_tokens(options.data, options.state)
    ranks.meet("read the tokens")
    array = unpack_tokens(options.data, options.state)
    words = split_words((options.data / "words.txt").read_text().split(), "train")
    torch.set_float32_matmul_precision("high")
    model = build_model(options)
    log_path = options.out / ("training.jsonl" if ranks.first else f"training-{ranks.rank}.jsonl")
    state_path = options.state / "state.pt"
    start, fresh = 0, 0
    state = torch.load(state_path, map_location="cpu", weights_only=True) if state_path.exists() else None
    if state:
        model.load_state_dict(state["model"])
        start, fresh = state["step"], state["fresh"]
        log_path.write_text(state["log"])
    elif options.resume:
        load_shards(model, options.resume)
        start = fresh = last_step(options.resume)
        if options.resume != options.out:
            shutil.copyfile(options.resume / "training.jsonl", log_path)
    model.to(options.device)
    inner = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed_tokens" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed_tokens" in name]
    muon = Muon(inner, lr=options.lr_matrices)
    adam = torch.optim.AdamW(others, lr=options.lr_embedding, betas=(0.9, 0.95), weight_decay=0.0)
    if state:
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
    full = [(group, options.lr_matrices) for group in muon.param_groups]
    full += [(group, options.lr_embedding) for group in adam.param_groups]
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters:,} parameters, step {start} of {options.steps}, ready after {time.time() - began:.0f} s",
        flush=True,
    )

    batches = DataLoader(
        Batches(array, options.data / "tokenizer.json", words, options, ranks.rank, ranks.size),
        batch_size=None,
        sampler=range(start, options.steps),
        num_workers=options.workers,
        prefetch_factor=8 if options.workers else None,
        pin_memory=options.device != "cpu",
    )
    compiled = torch.compile(loss_and_parts, dynamic=False) if options.device != "cpu" else loss_and_parts
    log = log_path.open("a")
    sums = torch.zeros(3, device=options.device)
    clock, done, step = time.time(), 0, start
    # cuDNN's attention is twice as fast as flash on Hopper; the others are for machines without it.
    backends = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(backends, set_priority=True):
        for ids, weights in batches:
            if ranks.size == 1 or step % AGREE_EVERY == 0 or step == start:
                # rates that differ, or an end that one rank alone reaches, would part the weights
                elapsed = ranks.agree(time.time() - began, "look at the time")
            if options.peak:
                factor = timed_rate(options.peak, elapsed, options.minutes * 60, step - fresh)
            else:
                factor = rate(step, options.steps, options.decay_steps, step - fresh)
            for group, lr in full:
                group["lr"] = lr * factor
            loss, parts = compiled(
                model, ids.to(options.device, non_blocking=True), weights.to(options.device, non_blocking=True)
            )
            loss.backward()
            average([parameter.grad for parameter in model.parameters() if parameter.grad is not None], ranks)
            torch.nn.utils.clip_grad_norm_(others, 1.0)
            muon.step()
            adam.step()
            model.zero_grad(set_to_none=True)
            sums += torch.cat([loss.detach()[None], parts])
            step += 1
            done += 1
            # The early steps are short and few: fewer lines than one per step, more than one per hundred.
            if step % 100 == 0 or step in (1, 10, 30) or step == options.steps:
                loss_, plain, answers = (sums / done).tolist()
                seconds = time.time() - clock
                entry = {
                    "step": step, "loss": round(loss_, 4), "plain": round(plain, 4), "answers": round(answers, 4),
                    "rate": round(factor, 4), "tokens_per_second": round(done * options.tokens * ranks.size / seconds),
                    "seconds": round(time.time() - began, 1),
                }  # fmt: skip
                if not np.isfinite(loss_):
                    sys.exit(
                        f"the loss is {loss_} at step {step}: lower the learning rates, or resume with another --seed"
                    )
                log.write(json.dumps(entry) + "\n")
                log.flush()
                if step % 500 == 0 or step < 500 or step == options.steps:
                    print(entry, flush=True)
                sums.zero_()
                clock, done = time.time(), 0
            if step % KEEP_EVERY == 0 and ranks.first:
                keep(options, model, muon, adam, step, fresh)
            # The device runs behind: the clock is right to within the few steps that are queued.
            if elapsed > options.minutes * 60:
                break
    log.close()
    return model, muon, adam, step, fresh


def keep(
    options: argparse.Namespace, model: LlamaForCausalLM, muon: Muon, adam: torch.optim.Optimizer, step: int, fresh: int
) -> None:
    """Everything the next call needs, on disk in one move."""
    temporary = options.state / "state.part"
    state = {
        "model": model.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict(), "step": step, "fresh": fresh,
        "log": (options.out / "training.jsonl").read_text(),
    }  # fmt: skip
    torch.save(state, temporary)
    os.replace(temporary, options.state / "state.pt")
    save_shards(model, options.out)


def finish(options: argparse.Namespace, model: LlamaForCausalLM) -> None:
    """The folder of the trained model, checked as it is written: in bfloat16."""
    save_model(model, options.data, options.state / "model", options.length)
    tokenizer = Tokenizer.from_file(str(options.data / "tokenizer.json"))
    texts = list(works(options.data / "valid.jsonl.xz"))
    figures = check(
        lambda ids: model(ids, use_cache=False).logits, tokenizer, texts, n=options.check_samples,
        device=options.device, length=options.length, characters=options.check_characters,
        processes=os.cpu_count() or 1,
    )  # fmt: skip
    (options.out / "checks.json").write_text(json.dumps(figures, indent=1) + "\n")


def write_model(options: argparse.Namespace) -> None:
    """The model folder from shards that came back without it."""
    model = build_model(options)
    load_shards(model, options.resume)
    for number, folder in enumerate(options.mean_with or (), start=2):
        other = build_model(options)
        load_shards(other, folder)
        with torch.no_grad():
            for mine, its in zip(model.parameters(), other.parameters(), strict=True):
                mine.lerp_(its, 1 / number)
    save_model(model, options.data, options.write_model, options.length)
    shutil.copyfile(options.resume / "training.jsonl", options.write_model / "training.jsonl")


if __name__ == "__main__":
    chosen = settings()
    if chosen.write_model:
        write_model(chosen)
    else:
        train(chosen)
