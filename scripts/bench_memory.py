"""Peak memory of `npukv ask` on texts of growing length: it must not grow beyond the text and its tokens.

    python scripts/bench_memory.py [--model DIR] [--times 1 4] [--out FILE.json]

The bundled text, written once and several times over, is asked about in a process of its own each; the operating system
says how much that process held at most.
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

from npukv import bundled
from npukv.environment import environment

SENTENCE = "One of the special magic numbers for heron is: 48213."
QUESTION = "What is the special magic number for heron?"
#: What a token takes: its id (4 bytes) and its place in the text (8 bytes).
PER_TOKEN = 12


def ask(path: Path, model: str | None) -> dict[str, Any]:
    """Run one `npukv ask`; bytes it held at most, seconds it took, tokens it read."""
    command = [sys.executable, "-m", "npukv.cli", "ask", str(path), "--question", QUESTION, "--json"]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command + (["--model", model] if model else []), stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        output.seek(0)
        said = output.read()
    if status:
        sys.exit(f"npukv ask failed on {path}")
    given = json.loads(said)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "peak": usage.ru_maxrss * unit,
        "seconds": time.perf_counter() - started,
        "tokens": given["tokens"]["text"],
        "answer": given["answer"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for times in options.times:
            path = Path(folder) / f"{times}.txt"
            text, _ = bundled.hide("\n".join([bundled.sample_text()] * times), [SENTENCE], seed=times)
            path.write_text(text, encoding="utf-8", newline="")
            run = ask(path, options.model)
            run["characters"] = len(text)
            run["beyond_text"] = run["peak"] - run["tokens"] * PER_TOKEN - run["characters"]
            runs.append(run)
            print(
                f"{run['tokens']:12,} tokens: peak {run['peak'] / 1e6:8,.0f} MB, of it beyond text and tokens "
                f"{run['beyond_text'] / 1e6:8,.0f} MB; {run['seconds']:.0f} s; answer {run['answer']!r}",
                flush=True,
            )
    growth = max(run["beyond_text"] for run in runs) / min(run["beyond_text"] for run in runs) - 1
    print(f"growth beyond text and tokens: {100 * growth:.1f}%")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"environment": environment(), "runs": runs, "growth": growth}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
