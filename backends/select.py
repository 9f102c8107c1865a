"""From the word a user types to a Device."""

from __future__ import annotations

from npukv.backends.ascend import Ascend
from npukv.backends.base import Device, DeviceUnavailable
from npukv.backends.cpu import Cpu
from npukv.backends.cuda import Cuda

#: In the order "auto" tries them.
DEVICES: dict[str, type[Device]] = {"npu": Ascend, "cuda": Cuda, "cpu": Cpu}


def select(name: str = "auto", index: int = 0) -> Device:
    """The device of that name; "auto" takes the first available of npu, cuda, cpu.

    Raises:
        DeviceUnavailable: the name is unknown, or the device cannot be used here.
    """
    if name == "auto":
        return next(device(index) for device in DEVICES.values() if device.available()[0])
    if name not in DEVICES:
        raise DeviceUnavailable(f"got device {name!r}, expected one of: auto, {', '.join(DEVICES)}")
    ok, reason = DEVICES[name].available()
    if not ok:
        raise DeviceUnavailable(f"device {name!r} cannot be used here: {reason}; or take --device auto")
    return DEVICES[name](index)
