"""From the word a user types to a device."""

from __future__ import annotations

import pytest

from npukv.backends import DEVICES, Device, DeviceUnavailable, select


def stub_availability(monkeypatch: pytest.MonkeyPatch, **there: bool) -> None:
    for name, ok in there.items():
        monkeypatch.setattr(DEVICES[name], "available", classmethod(lambda cls, ok=ok: (ok, "said the test")))


@pytest.mark.parametrize(
    ("npu", "cuda", "expected"),
    [(True, True, "npu"), (True, False, "npu"), (False, True, "cuda"), (False, False, "cpu")],
)
def test_auto_prefers_npu_then_cuda_then_cpu(
    monkeypatch: pytest.MonkeyPatch, npu: bool, cuda: bool, expected: str
) -> None:
    stub_availability(monkeypatch, npu=npu, cuda=cuda)
    assert select("auto").name == expected
    assert select().name == expected


def test_a_named_device_is_taken_even_if_a_faster_one_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_availability(monkeypatch, npu=True, cuda=True)
    assert select("cpu").name == "cpu"


def test_index_reaches_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_availability(monkeypatch, npu=False, cuda=True)
    device = select("cuda", 3)
    assert (device.index, str(device.torch_device)) == (3, "cuda:3")
    assert select("auto", 2).index == 2


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "cuda:0"])
def test_unknown_device_lists_the_known_ones(name: str) -> None:
    with pytest.raises(DeviceUnavailable) as error:
        select(name)
    assert repr(name) in str(error.value)
    assert all(known in str(error.value) for known in ("auto", *DEVICES))


def test_unavailable_device_says_why_and_what_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_availability(monkeypatch, cuda=False)
    with pytest.raises(DeviceUnavailable, match=r"'cuda'.*said the test.*--device auto"):
        select("cuda")


@pytest.mark.parametrize("name", DEVICES)
def test_every_member_fulfils_the_contract(name: str) -> None:
    kind = DEVICES[name]
    assert issubclass(kind, Device)
    assert not kind.__abstractmethods__
    assert kind.name == name
    assert kind.collectives == {"npu": "hccl", "cuda": "nccl", "cpu": "gloo"}[name]
    assert kind.batch_tokens > 0
    ok, reason = kind.available()
    assert isinstance(ok, bool)
    assert reason


@pytest.mark.parametrize("name", DEVICES)
def test_out_of_memory_is_told_from_other_errors(name: str) -> None:
    device = DEVICES[name]()
    assert device.is_out_of_memory(MemoryError())
    assert not device.is_out_of_memory(ValueError("shape mismatch"))
    assert not device.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
