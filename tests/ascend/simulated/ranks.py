"""What every rank of test_hccl does: the collectives and their refusals, then an answer shared by all.

Run under torchrun: -m tests.ascend.simulated tests.ascend.simulated.ranks FOLDER [--answer]; writes FOLDER/RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as distributed

import npukv
from npukv.bundled import hide, sample_text
from npukv.parallel.ranks import join

QUESTION = "What is the special magic number for heron?"
FACT = "One of the special magic numbers for heron is: 48213."


def text() -> str:
    return hide(sample_text()[500_000:509_000], [FACT], 2)[0]


def refusal(call, *arguments) -> str:
    try:
        call(*arguments)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "accepted"


def main(folder: Path, answering: bool) -> None:
    with join("npu") as ranks:
        card = torch.npu.current_device()
        mine = torch.full((3,), ranks.rank + 1, device="npu")
        total = mine.clone()
        distributed.all_reduce(total)
        said = mine.clone()
        distributed.broadcast(said, 1)
        parts = [torch.empty_like(mine) for _ in range(ranks.size)]
        distributed.all_gather(parts, mine)
        distributed.barrier()
        found = {
            "card": card,
            "backend": distributed.get_backend(),
            "all_reduce": total.tolist(),
            "broadcast": said.tolist(),
            "all_gather": [part[0].item() for part in parts],
            "cpu tensor": refusal(distributed.all_reduce, torch.ones(2)),
            "unlike shapes": refusal(distributed.all_gather, [mine[:1], *parts[1:]], mine),
            "not carried": refusal(distributed.all_to_all_single, torch.empty_like(mine), mine),
            "gathered": [part.decode() for part in ranks.gather(b"x" * ranks.rank + b"end", "test")],
        }
        if answering:
            lm = npukv.load(device=ranks.device, dtype="float32")
            answer = npukv.answer(lm, text(), QUESTION, run=folder / "run", batch=2, ranks=ranks)
            found["answer"] = answer.text if answer is not None else None
            found["scores"] = answer.scores.values.tolist() if answer is not None else None
        found["allocated"] = [torch.npu.memory_allocated(index) > 0 for index in range(ranks.size)]
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--answer" in sys.argv)
