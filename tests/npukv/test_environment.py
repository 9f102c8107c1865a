"""What is kept beside every measured figure."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import torch
import transformers

from npukv.backends import DEVICES, select
from npukv.environment import as_given, environment


def test_environment_is_this_machines() -> None:
    found = json.loads(json.dumps(environment()))
    assert found["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["packages"]["transformers"] == transformers.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cores"] >= 1
    assert set(found["devices"]) == set(DEVICES)
    assert found["devices"]["cpu"]["available"] is True
    assert all(device["reason"] for device in found["devices"].values())
    assert found["device"]["name"] == select().name
    assert found["device"]["free_memory"] > 0
    assert found["kernels"]["causal_attention, bfloat16"]["kernel"] in ("blocked", "sdpa")


def test_results_name_no_folders_of_a_machine(tmp_path: Path) -> None:
    options = Namespace(
        out=Path("/home/a/out.json"), text=[Path("b/c.txt")], data=[str(tmp_path)], n=3, model=None, hub="owner/model"
    )  # fmt: skip
    found = as_given(options)
    assert found.pop("data") == str([tmp_path.name])
    assert found == {"out": "out.json", "text": "['c.txt']", "n": "3", "model": "None", "hub": "owner/model"}
