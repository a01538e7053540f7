"""The web target: an npm package with the model in WebAssembly, for browsers and Node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...schedules.device import Device
from ...schedules.records import Fingerprint
from ..cpu.artifact import refuse_to_overwrite
from ..plan import KernelCode, Plan
from ..target import Arrays, Rig
from . import manifest, node, package, profile, runner

NAME = "wasm"


class WebTarget:
    """One plan for every build of `profile.BUILDS`."""

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        return tuple(profile.devices().values())

    def fingerprint(self) -> Fingerprint:
        return runner.fingerprint(self.devices[0])

    def rig(self) -> Rig:
        return runner.rig(self.devices[0])

    def refuse_to_overwrite(self, place: Path) -> None:
        refuse_to_overwrite(place, manifest.read)

    def write(self, plan: Plan, builds: Sequence[Sequence[KernelCode]], weights: np.ndarray, inputs: Arrays, outputs: Arrays,
              out_dir: Path, *, passes: Sequence[str], tools: Mapping[str, str], info: Mapping[str, Any],
              check: Callable[[Path], None]) -> Path:
        return package.write(plan, dict(zip(profile.BUILDS, builds, strict=True)), weights, inputs, outputs,
                             profile.devices(), out_dir, passes=passes, tools=tools, info=info, check=check)

    def run(self, folder: Path, inputs: Arrays, way: int = 0) -> Sequence[np.ndarray] | None:
        return node.run(folder, inputs, way=way)

    def code_bytes(self, folder: Path) -> int:
        """Of the best build and the loader: what a browser downloads besides the weights."""
        best = manifest.read(folder).builds[profile.BUILDS[0]].file
        return sum(file.stat().st_size for name in (best, "index.js", "ways.js") if (file := folder / name).exists())
