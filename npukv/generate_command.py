"""The command ``npukv generate``: the model reads all of the input, with a full or a smaller KV cache."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from npukv.cache.named import CacheChoice
    from npukv.language_model import LanguageModel
    from npukv.prompt import Prompt

CHUNK = 4096  # tokens read at a time


def generate_command(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE...]", help="UTF-8 text files (.txt, .md); - reads standard input."),
    ] = None,
    question: Annotated[str, typer.Option("--question", "-q", help="A question about the texts.")] = "",
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Words to go on from, after the texts.")] = "",
    cache: Annotated[
        str, typer.Option(help="full, clustered (keeps a share of the keys) or hashed (attends to the best few).")
    ] = "full",
    keep: Annotated[
        float | None, typer.Option(help="Share of the tokens a clustered cache keeps, or a hashed one attends to.")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="The same as a number of tokens.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Greatest length of the answer.")] = 64,
    model: Annotated[str | None, typer.Option(help="Model folder or hub id.", show_default="the bundled model")] = None,
    device: Annotated[str, typer.Option(help="auto, npu, cuda or cpu.")] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="the device's fastest")
    ] = None,
    answer_prefix: Annotated[str, typer.Option(help="Words the answer is made to begin with.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the text.")] = False,
) -> None:
    """Answer or go on from texts that fit the model's context, with a smaller KV cache if wanted."""
    from npukv.cache.named import CacheChoice
    from npukv.errors import InputError

    text = _checked_text(files or [], question, prompt, answer_prefix)
    if keep is not None and budget is not None:
        raise InputError(f"got --keep {keep} and --budget {budget}, expected one of them: leave the other out")
    choice = CacheChoice(cache, keep if budget is None else budget)

    from npukv.errors import NpukvError
    from npukv.language_model import load
    from npukv.prompt import build_prompt

    lm = load(model, device, dtype)
    around = build_prompt(lm.tokenizer, question, answer_prefix) if question else _continuation(lm, prompt)
    given = generate_text(
        lm, around, text, max_new_tokens, choice, one_line=bool(question), stream=None if as_json else _write
    )
    if as_json:
        print(json.dumps(given | {"device": lm.device.name, "model": lm.name}, ensure_ascii=False))
    else:
        _write("\n")
        _summarise(given)
    if not given["text"]:
        raise NpukvError("the model said nothing; try other words, or a larger --max-new-tokens")


def generate_text(
    lm: LanguageModel,
    around: Prompt,
    text: str,
    max_new_tokens: int,
    choice: CacheChoice,
    *,
    one_line: bool,
    stream: Any = None,
) -> dict[str, Any]:
    """Read a text into a cache, then what follows it, and generate.

    Args:
        around: the tokens before and after the text.
        one_line: end where the line does, for models without a chat template.
        stream: called with each piece of the generated text as it comes.

    Returns:
        "text", "tokens" (input, generated), "cache" (its name, amount and report at the end), "seconds".

    Raises:
        InputError: more tokens than the model's context holds.
        ModelError: the cache cannot serve this model.
    """
    from npukv.cache.named import figures, report_of
    from npukv.errors import InputError
    from npukv.text import tokenize

    body = tokenize(lm.tokenizer, text).ids.tolist() if text else []
    ids = [*around.head, *body, *around.after]
    if not ids:
        raise InputError("got no tokens to go on from, expected a text or words; name a file, or pass --prompt")
    if len(ids) + max_new_tokens > lm.context:
        raise InputError(
            f"got {len(ids):,} tokens and {max_new_tokens} to generate, expected at most {lm.context:,} together (the "
            "model's context); ask a question over texts of any length with npukv ask, or take a model with a longer "
            "context (--model)"
        )
    started = time.perf_counter()
    cache = choice.make(lm, len(ids) + max_new_tokens)
    said, count, first = _run(lm, ids, len(ids) - len(around.after), max_new_tokens, cache, one_line, stream)
    ended = time.perf_counter()
    report = report_of(cache)
    return {
        "text": said,
        "tokens": {"input": len(ids), "generated": count},
        "cache": {"name": choice.name, "amount": choice.amount, **figures(report), "report": str(report)},
        "seconds": {"read": round(first - started, 3), "generate": round(ended - first, 3)},
    }


def _run(
    lm: LanguageModel, ids: list[int], context: int, new: int, cache: Any, one_line: bool, stream: Any
) -> tuple[str, int, float]:
    """The generated text, its tokens, and when the input had been read. The cache sees the first `context` ids alone
    first, so that what it keeps cannot depend on the question."""
    import torch
    from transformers import TextStreamer

    from npukv.cache.named import compress_now
    from npukv.decode import generate, prefill

    one_line = one_line and not getattr(lm.tokenizer, "chat_template", None)
    times: list[float] = []

    class Pieces(TextStreamer):
        ended = False

        def put(self, value: torch.Tensor) -> None:
            times.append(time.perf_counter())  # the prompt comes first, then every token
            super().put(value)

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if one_line:  # one token may hold the line's end and what follows it
                text, end, _ = ("" if self.ended else text).partition("\n")
                self.ended = self.ended or bool(end)
            if stream is not None and text:
                stream(text)

    def ended(generated: list[int]) -> bool:
        return "\n" in lm.decode(generated)

    x = torch.tensor([ids], device=lm.device.torch_device)  # [1, T]
    first = min(context, len(ids) - 1)  # something must be left to generate from
    if first:
        with torch.no_grad():
            prefill(lm.model, x[:, :first], cache, [0], chunk=CHUNK)
            compress_now(cache)
    out = generate(
        lm,
        x,
        cache=cache,
        max_new_tokens=new,
        streamer=Pieces(lm.tokenizer, skip_prompt=True, skip_special_tokens=True),
        stop=ended if one_line else None,
        prefill_chunk=CHUNK,
    )
    generated = out[0, len(ids) :]
    text = lm.decode(generated)
    return (text.partition("\n")[0] if one_line else text).strip(), len(generated), times[1]


def _continuation(lm: LanguageModel, words: str) -> Prompt:
    """The prompt of text that is simply gone on with."""
    from npukv.prompt import Prompt

    bos = lm.tokenizer.bos_token_id
    head = () if bos is None or bos == lm.tokenizer.eos_token_id else (bos,)
    return Prompt(head, tuple(lm.encode(words)) if words else ())


def _checked_text(files: list[str], question: str, prompt: str, answer_prefix: str) -> str:
    """What can be refused before a model is loaded; the texts."""
    from npukv.errors import InputError
    from npukv.text import read_source

    if question and prompt:
        raise InputError("got --question and --prompt, expected one of them: a question, or words to go on from")
    if answer_prefix and not question:
        raise InputError("got --answer-prefix without --question; put the words into --prompt")
    if not files and not prompt:
        raise InputError("got nothing to read, expected a file, or words with --prompt")
    return read_source(files).text if files else ""


def _summarise(given: dict[str, Any]) -> None:
    """What was read and how, on standard error."""
    cache, tokens, seconds = given["cache"], given["tokens"], given["seconds"]
    print(
        f"read {tokens['input']:,} tokens in {seconds['read']:.1f} s, generated {tokens['generated']:,} in "
        f"{seconds['generate']:.1f} s",
        file=sys.stderr,
    )
    amount = "" if cache["amount"] is None else f" {cache['amount']}"
    print(f"cache: {cache['name']}{amount}: {cache['report']}", file=sys.stderr)
    if cache["name"] == "clustered" and cache["physical_tokens"] >= cache["logical_tokens"]:
        print("nothing was compressed: the input is within what the cache may keep", file=sys.stderr)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
