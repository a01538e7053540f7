"""What a tuning record says of the device that it was measured on."""

from __future__ import annotations

from ...schedules.device import Device
from ...schedules.records import Fingerprint


def fingerprint(device: Device) -> Fingerprint:
    """The device, with the system that its code is made for: "linux" for this machine."""
    _, _, system, *_ = str(dict(device.llvm)["mtriple"]).split("-")
    return Fingerprint.of(device, system)
