"""The contract of a target: devices to make kernels for, and an artifact to put them into."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..schedules.device import Device
from ..schedules.measure import Runner
from ..schedules.records import Fingerprint
from .plan import KernelCode, Plan

Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Rig:
    """Where kernels are measured. device: what they are built for; fingerprint: what the records say of it; open: a new runner,
    kept on a CPU (None: on any), whose commands may take so many seconds; tools: versions of what runs the kernels there; clock:
    seconds, as the tuner's budget counts them; apart: does building kernels here not disturb measuring there? note: what the user
    should know of what is measured there."""

    device: Device
    fingerprint: Fingerprint
    open: Callable[[int | None, float], Runner]
    tools: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    apart: bool = False
    note: str = ""


class Target(Protocol):
    """What a model is compiled for. devices: the kernels are built for each of them, by the choices made for the first (whose
    packed weights all must share)."""

    @property
    def devices(self) -> tuple[Device, ...]: ...

    def fingerprint(self) -> Fingerprint:
        """Of the device whose records tell best which kernels to take."""

    def rig(self) -> Rig:
        """How kernels are measured and compared here. Raises DeviceError, which says what to do, where they cannot be."""

    def refuse_to_overwrite(self, place: Path) -> None:
        """Raises a TargetError where something else than an artifact of this target lies at `place`."""

    def write(self, plan: Plan, builds: Sequence[Sequence[KernelCode]], weights: np.ndarray, inputs: Arrays, outputs: Arrays,
              out_dir: Path, *, passes: Sequence[str], tools: Mapping[str, str], info: Mapping[str, Any],
              check: Callable[[Path], None]) -> Path:
        """Writes the artifact and returns its folder. builds: kernels for each device; inputs, outputs: the sample; check: called
        with the finished folder before it is put in place, and what it raises ends the writing with nothing left behind. Raises
        a TargetError."""

    def run(self, folder: Path, inputs: Arrays, way: int = 0) -> Sequence[np.ndarray] | None:
        """The outputs of an artifact of this target; None where nothing here can run it. way: number of the variant that makes
        each kernel, or its last."""

    def code_bytes(self, folder: Path) -> int:
        """What of the artifact is code."""
