"""The CPU target: a library for this machine, or for another that may be emulated here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ...schedules.device import Device
from ...schedules.records import Fingerprint
from ..plan import KernelCode, Plan
from ..target import Arrays, Rig
from . import artifact, emulator, loader, manifest, profile
from .errors import DeviceError
from .fingerprint import fingerprint
from .runner import LocalRunner

NATIVE = "native"
NAMES = (NATIVE, "linux-arm64")


@dataclass(frozen=True)
class CpuTarget:
    """name: "native", a usual machine such as "linux-arm64", or a device of `devices/`. Raises DeviceError when it is asked for
    a device that is none."""

    name: str

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        return (profile.find(self.name),)

    @property
    def native(self) -> bool:
        return self.name == NATIVE

    def fingerprint(self) -> Fingerprint:
        return fingerprint(self.devices[0])

    def rig(self) -> Rig:
        device, = self.devices
        if not self.native:
            raise DeviceError(f"tuning measures on the device itself, and {self.name} is not this machine: leave out the tuning, "
                              "or tune on such a machine and `burnish records import` what it found")
        return Rig(device, self.fingerprint(), partial(LocalRunner, device))

    def refuse_to_overwrite(self, place: Path) -> None:
        artifact.refuse_to_overwrite(place)

    def write(self, plan: Plan, builds: Sequence[Sequence[KernelCode]], weights: np.ndarray, inputs: Arrays, outputs: Arrays,
              out_dir: Path, *, passes: Sequence[str], tools: Mapping[str, str], info: Mapping[str, Any],
              check: Callable[[Path], None]) -> Path:
        return artifact.write(plan, builds[0], weights, inputs, outputs, self.devices[0], out_dir, passes=passes, tools=tools,
                              info=info, program=not self.native, check=check)

    def run(self, folder: Path, inputs: Arrays, way: int = 0) -> Sequence[np.ndarray] | None:
        if self.native:
            with loader.load(folder) as model:
                got = model(*inputs)
                return got if isinstance(got, tuple) else (got,)
        return emulator.run(folder, inputs) if emulator.available(self.devices[0].arch) else None

    def code_bytes(self, folder: Path) -> int:
        return (folder / f"lib{manifest.read(folder).identifier}.so").stat().st_size
