"""The decode benchmark's whole flow at toy size, and that it says nothing of speed when parity fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from npukv.backends.cpu import Cpu
from npukv.bench import decode
from npukv.ops.decode import reference


class Card(Cpu):
    """The CPU as a card: caches are frozen, steps are captured (and run as they are)."""

    captures = True


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "STEPS", 1)
    monkeypatch.setattr(decode, "SAMPLES", 2)
    monkeypatch.setattr(decode, "COMPRESSING_SAMPLES", 3)


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    out = tmp_path / "decode.json"
    common = ["--model", "tiny", "--device", "cpu", "--dtype", "float32", "--lengths", "300", "--out", str(out)]
    decode.main([*common, *arguments])
    return json.loads(out.read_text())


@pytest.mark.parametrize("card", [False, True])
def test_whole_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, card: bool) -> None:
    if card:
        monkeypatch.setattr("npukv.backends.select", lambda *arguments: Card())
    found = run(tmp_path, "--only", "full,stock")
    assert found["failed"] == {}
    assert found["parity"]["ok"]
    names = [entry["name"] for entry in found["entries"]]
    assert names == (["full", "full, modules as they are", "stock"] if card else ["full", "stock"])
    for entry in found["entries"]:
        assert len(entry["seconds"]) == 2
        assert entry["limit"] == pytest.approx(entry["bytes"] / found["copy_bytes_per_second"])
    assert found["entries"][0]["frozen"] == card
    # 2 layers, 2 heads, width 64, keys and values, float32; each step adds a token
    steps = decode.WARM_UP + 2
    cache = (300 + steps) * 2 * 2 * 64 * 2 * 4
    weights = 4 * (2 * (256 * 256 * 2 + 256 * 128 * 2 + 3 * 256 * 512 + 2 * 256) + 256 + 512 * 256)
    assert {entry["bytes"] for entry in found["entries"]} == {weights + cache}
    assert found["entries"][0]["report"]["physical_tokens"] == 300 + steps
    assert set(found.get("kernels", {})) == (
        {"query, key, value", "output", "gate and up", "down", "head"} if card else set()
    )
    printed = capsys.readouterr().out
    assert "full" in printed
    assert "TB/s" in printed


@pytest.mark.parametrize("card", [False, True])
def test_smaller_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: bool) -> None:
    if card:
        monkeypatch.setattr("npukv.backends.select", lambda *arguments: Card())
    found = run(tmp_path, "--only", "full,clustered,hashed", "--lengths", "1000", "--select", "0.1")
    assert found["failed"] == {}
    entries = {entry["name"].partition(",")[0]: entry for entry in found["entries"]}
    full, clustered, hashed = (entries[name] for name in ("full", "clustered", "hashed"))
    assert full["report"]["physical_tokens"] == full["report"]["logical_tokens"]
    assert clustered["report"]["physical_tokens"] < 0.5 * full["report"]["physical_tokens"]
    assert clustered["bytes"] < full["bytes"]
    assert len(clustered["seconds"]) == 3
    assert hashed["report"]["physical_tokens"] == full["report"]["physical_tokens"]


def test_no_speed_without_parity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.gated
    monkeypatch.setattr("npukv.fused.gated", lambda *arguments: right(*arguments) * 1.1)
    with pytest.raises(SystemExit, match="differs from the stock model"):
        run(tmp_path)
    found = json.loads((tmp_path / "decode.json").read_text())
    assert not found["parity"]["ok"]
    assert found["entries"] == []


def test_an_error_in_one_section_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from npukv.bench.contenders import Stock

    def broken(self: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(Stock, "step", broken)
    found = run(tmp_path, "--only", "full,stock")
    assert found["failed"] == {"stock at 300": "RuntimeError: no such kernel"}
    assert [entry["name"] for entry in found["entries"]] == ["full"]


def test_what_was_measured_is_written_before_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from npukv.bench.contenders import Stock

    kept: list[str] = []

    def step(self: Any) -> None:
        kept.extend(entry["name"] for entry in json.loads((tmp_path / "decode.json").read_text())["entries"])
        raise RuntimeError("killed here")

    monkeypatch.setattr(Stock, "step", step)
    run(tmp_path, "--only", "full,stock")
    assert kept == ["full"]


def test_no_section_begins_after_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(decode.time, "perf_counter", lambda: float(next(clock)))
    found = run(tmp_path, "--only", "full,stock", "--seconds", "60")
    assert found["entries"] == []
    assert set(found["failed"]) == {"full at 300", "stock at 300"}
    assert all(reason.startswith("left out") for reason in found["failed"].values())


@torch.no_grad()
def test_a_contender_leaves_the_model_as_it_was() -> None:
    from npukv.bench.contenders import Npukv
    from npukv.bench.models import random_network
    from npukv.cache.preallocated import PreallocatedCache

    network = random_network("tiny", Card(), torch.float32)
    contender = Npukv(network, Card(), 100, PreallocatedCache.for_config)
    assert network.config._attn_implementation == "npukv"
    contender.step()
    assert contender.cache.get_seq_length() == 101
    contender.close()
    assert network.config._attn_implementation == "sdpa"


def test_what_does_not_fit_is_left_out_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of 2 layers, 2 heads of 64, float32, and two layers' room beside: about 1.2 MB at 300 tokens."""
    monkeypatch.setattr("npukv.backends.cpu.Cpu.free_memory", lambda self: 1 << 20)
    found = run(tmp_path, "--only", "full,clustered")
    assert [entry["name"] for entry in found["entries"]] == []
    assert found["failed"]["full at 300"].startswith("left out: it needs about 0.0 GiB")
    monkeypatch.setattr("npukv.backends.cpu.Cpu.free_memory", lambda self: 1 << 30)
    assert [entry["name"] for entry in run(tmp_path, "--only", "full")["entries"]] == ["full"]


def test_the_whole_compiled_step_follows_from_two_numbers_of_layers() -> None:
    entries = [{"name": f"stock static compiled, {n} layers", "layers": n, "median": 0.5 + 0.1 * n} for n in (6, 2)]
    found = decode.whole_compiled(entries, 32)
    assert found["per_layer"] == pytest.approx(0.1)
    assert found["whole"] == pytest.approx(3.7)
    assert decode.whole_compiled(entries[:1], 32) == {}


def test_the_compiled_step_comes_with_its_length() -> None:
    from npukv.bench.models import random_network

    device = Card()
    options = decode._arguments(["--compiled-at", "300"])
    network = random_network("tiny", device, torch.float32)
    names = [(name, length) for name, length, _ in decode.contenders(network, device, [300, 600], options)]
    assert names.index(("stock static compiled, 2 layers", 300)) < names.index(("full", 600))


def test_a_cache_that_cannot_be_filled_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    from npukv.bench import contenders
    from npukv.bench.models import random_network

    def full(*given: Any) -> None:
        raise MemoryError("no room")

    network = random_network("tiny", Card(), torch.float32)
    whole = network.model.layers
    monkeypatch.setattr(contenders, "fill", full)
    with pytest.raises(MemoryError):
        contenders.Compiled(network, Card(), 300, 1)
    assert network.model.layers is whole and network.config.num_hidden_layers == 2
