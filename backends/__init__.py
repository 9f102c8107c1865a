"""Devices: where things are computed. Nothing outside this package names one."""

from npukv.backends.base import CaptureFailed, Device, DeviceUnavailable
from npukv.backends.select import DEVICES, select

__all__ = ["DEVICES", "CaptureFailed", "Device", "DeviceUnavailable", "select"]
