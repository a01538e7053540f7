"""The builds of a web package, and the device profile of each: what the code may ask of a browser."""

from __future__ import annotations

from pathlib import Path

from ...schedules.device import Device
from ..cpu.errors import DeviceError
from ..cpu.profile import read

DEVICES = Path(__file__).parent / "devices"
BUILDS = ("relaxed-simd", "simd")   # best first: the loader takes the first that the browser can run


def load(build: str) -> Device:
    """The device of a build, named wasm-<build>. Raises DeviceError where there is none or its file is not a profile."""
    if build not in BUILDS:
        raise DeviceError(f"no build {build!r}; there are {', '.join(BUILDS)}")
    return read(DEVICES / f"{build}.toml", f"wasm-{build}")


def devices() -> dict[str, Device]:
    """Every build's device, best first."""
    return {build: load(build) for build in BUILDS}
