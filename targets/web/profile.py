"""The builds of a web package, and the device profile of each: what the code may ask of a browser."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import ValidationError

from ...schedules.device import Device
from ..cpu.errors import DeviceError
from ..cpu.profile import Profile

DEVICES = Path(__file__).parent / "devices"
BUILDS = ("relaxed-simd", "simd")   # best first: the loader takes the first that the browser can run


def load(build: str) -> Device:
    """The device of a build, named wasm-<build>. Raises DeviceError where there is none or its file is not a profile."""
    if build not in BUILDS:
        raise DeviceError(f"no build {build!r}; there are {', '.join(BUILDS)}")
    try:
        return Profile.model_validate(tomllib.loads((DEVICES / f"{build}.toml").read_text())).device(f"wasm-{build}")
    except (ValidationError, tomllib.TOMLDecodeError) as e:
        raise DeviceError(f"devices/{build}.toml is not a device profile: {e}") from e


def devices() -> dict[str, Device]:
    """Every build's device, best first."""
    return {build: load(build) for build in BUILDS}
