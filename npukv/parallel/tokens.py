"""A text's tokens on disk, tokenised once by all processors of all ranks, and mapped into memory from then on."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from npukv.errors import RunError
from npukv.parallel.ranks import ALONE, Ranks
from npukv.parallel.tokenise import Encode, Part, raw_encoder, send_parts, write_part
from npukv.text import Tokens, blocks, check_tokenizer, tokenize_block

#: Characters per part: a part is a worker's unit of work, and what a killed build can lose.
PART = 1 << 20
#: Called with (characters done, in all).
Progress = Callable[[int, int], None]


def open_tokens(
    tokenizer: Any, text: str, folder: str | Path, *, ranks: Ranks = ALONE, progress: Progress | None = None
) -> Tokens:
    """The tokens of a text, mapped from a token store in `folder`, which is built first if it is not there.

    The store belongs to one text and tokenizer, and several may share a folder. Its tokens are those of
    `npukv.text.tokenize`: the text is cut into the same blocks, which it too tokenises one by one. Each rank
    tokenises its share of the parts, by worker processes; a build that was killed goes on where it stopped.

    Args:
        tokenizer: a transformers tokenizer with a tokenizer.json.
        ranks: all of them call this together, with the same text.

    Raises:
        ModelError: the tokenizer cannot tell where its tokens stand; RunError: the folder cannot be written.
    """
    from npukv.relevance.journal import fingerprint

    check_tokenizer(tokenizer)
    described = tokenizer.backend_tokenizer.to_str()
    key = fingerprint(described, text.encode("utf-8", "surrogatepass"))[:16]
    home = Path(folder) / f"tokens-{key}"
    if ranks.agree((home / "store.json").exists(), "open the token store"):
        return map_tokens(home)
    building = home.with_name(home.name + ".partial")
    with explained(folder):
        building.mkdir(parents=True, exist_ok=True)
        parts = list(_parts(text, building, len(tokenizer)))
        _write_parts(tokenizer, described, text, parts, ranks, progress)
    ranks.meet("finish the token store")
    if ranks.first:
        with explained(folder):
            _join(parts, building, home, len(text))
    ranks.meet("open the token store")
    return map_tokens(home)


def map_tokens(home: Path) -> Tokens:
    """The tokens of a finished store, mapped: what is not looked at is not read.

    Raises:
        RunError: the store is damaged.
    """
    with explained(home):
        about = json.loads((home / "store.json").read_text())
        maps = [_map(home / name, about[name], about["tokens"]) for name in ("ids", "starts")]
    return Tokens(maps[0], maps[1], about["characters"], home, about["fingerprint"])


def _map(path: Path, kind: str, count: int) -> np.ndarray:
    if path.stat().st_size != count * np.dtype(kind).itemsize:
        raise RunError(f"{path}: is damaged (got {path.stat().st_size} bytes for {count} tokens); remove {path.parent}")
    return np.memmap(path, dtype=kind, mode="r", shape=(count,)) if count else np.empty(0, kind)


@contextmanager
def explained(folder: str | Path) -> Iterator[None]:
    """Turn the system's errors into ours."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{folder}: {error.strerror or error}; free some space, or choose another --run or --index directory, and "
            "run again: what is finished is kept"
        ) from error
    except (ValueError, KeyError) as error:
        raise RunError(f"{folder}: is damaged ({error}); remove it, or choose another directory") from error


def _parts(text: str, folder: Path, vocabulary: int) -> Iterator[Part]:
    """The text's blocks, grouped."""
    ids = "<u2" if vocabulary <= 1 << 16 else "<u4"
    starts = "<u4" if len(text) < 1 << 32 else "<u8"
    begin, ends = 0, []
    for _, end in blocks(text):
        ends.append(end)
        if end - begin >= PART or end == len(text):
            yield Part(str(folder / f"{begin:015d}"), begin, tuple(ends), ids, starts)
            begin, ends = end, []


def _write_parts(
    tokenizer: Any, described: str, text: str, parts: list[Part], ranks: Ranks, progress: Progress | None
) -> None:
    """Write this rank's parts."""
    ranks.note(0, last=True)
    missing = ranks.agree([i for i, part in enumerate(parts) if not part.finished], "share the text")
    mine = [parts[i] for i in missing[ranks.rank :: ranks.size]]
    done = 0

    def tell(characters: int) -> None:
        nonlocal done
        done += characters
        ranks.note(done, last=True)
        if progress is not None and ranks.first:
            earlier = len(text) - sum(parts[i].ends[-1] - parts[i].begin for i in missing)
            progress(earlier + (sum(ranks.notes()) if ranks.size > 1 else done), len(text))

    def encode(block: str) -> tuple[np.ndarray, np.ndarray]:
        return tokenize_block(tokenizer, block)

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(max(1, processors // ranks.beside), len(mine))
    if workers <= 1 or not _same(encode, raw_encoder(described), text):
        for part in mine:
            write_part(encode, part, text[part.begin : part.ends[-1]])
            tell(part.ends[-1] - part.begin)
        return
    _work(described, text, [mine[i::workers] for i in range(workers)], tell)


def _same(one: Encode, other: Encode, text: str) -> bool:
    """Whether two encoders agree on the beginning of a text; transformers may do more than the tokenizer.json says."""
    return all(np.array_equal(*pair) for pair in zip(one(text[:20_000]), other(text[:20_000]), strict=True))


def _work(described: str, text: str, loads: list[list[Part]], tell: Callable[[int], None]) -> None:
    """Have one worker process per load write its parts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "npukv.parallel.tokenise"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    workers: list[Any] = [subprocess.Popen(command, env=environment, **pipes) for _ in loads]
    said: queue.Queue[int | None] = queue.Queue()

    def feed(worker: Any, parts: Sequence[Part]) -> None:
        try:
            send_parts(worker.stdin, described, parts, text)
            worker.stdin.close()
        except OSError:
            worker.kill()  # its exit status is looked at below

    def listen(worker: Any) -> None:
        for line in worker.stdout:
            said.put(int(line))
        said.put(None)

    threads = [threading.Thread(target=feed, args=pair, daemon=True) for pair in zip(workers, loads, strict=True)]
    threads += [threading.Thread(target=listen, args=(worker,), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        working = len(workers)
        while working:
            characters = said.get()
            if characters is None:
                working -= 1
            else:
                tell(characters)
        for worker in workers:
            problem = worker.stderr.read().decode(errors="replace").strip()
            if worker.wait():
                reason = problem.splitlines()[-1] if problem else f"status {worker.returncode}"
                raise RunError(f"a process that tokenises the text failed ({reason}); run again: what is done is kept")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            for stream in (worker.stdin, worker.stdout, worker.stderr):
                if not stream.closed:
                    stream.close()


def _join(parts: list[Part], building: Path, home: Path, characters: int) -> None:
    """Put the parts together: the store appears whole, by one rename."""
    from npukv.relevance.journal import fingerprint

    for kind in ("ids", "starts"):
        with (building / kind).open("wb") as whole:
            for part in parts:
                with part.file(kind).open("rb") as piece:
                    shutil.copyfileobj(piece, whole, 1 << 22)
    ids = np.fromfile(building / "ids", dtype=parts[0].ids if parts else "<u2")
    about = {
        "tokens": len(ids),
        "characters": characters,
        "ids": parts[0].ids if parts else "<u2",
        "starts": parts[0].starts if parts else "<u4",
        "fingerprint": fingerprint(ids.astype("<i4").tobytes()),
    }
    for part in parts:
        for kind in ("ids", "starts"):
            part.file(kind).unlink()
    (building / "store.json").write_text(json.dumps(about))
    if home.exists():  # a store without its description: never finished
        shutil.rmtree(home)
    os.replace(building, home)
