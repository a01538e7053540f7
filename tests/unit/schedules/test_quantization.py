"""quantize against numpy, to the last bit: ties, both ends, large numbers; vectors of one, two and four registers."""

from typing import Any

import numpy as np
import pytest
from burnish.schedules import expr as x
from burnish.schedules.device import Device
from burnish.schedules.space import Knobs, Space
from burnish.schedules.task import Task
from burnish.targets.cpu import emulator

from .harness import SIMD, WASM, run
from .test_dot import A76, V3, ZEN5
from .test_mathlib import Flat, task

DEVICES = [ZEN5, V3, WASM, SIMD, *([A76] if emulator.available("aarch64") else [])]
RNG = np.random.default_rng(8)
ENDS = np.arange(-300, 300, 0.5)
VALUES = np.concatenate([ENDS, *(np.nextafter(ENDS.astype("f4"), to) for to in (1e9, -1e9)), RNG.uniform(-400, 400, 500),
                         [0.0, -0.0, 1e-45, *(s * 2.0**e for s in (1, -1) for e in (15, 16, 22, 23, 24, 30, 31, 32, 63, 127)),
                          np.inf, -np.inf]]).astype("f4")
VALUES = np.resize(VALUES, -(-VALUES.size // 64) * 64)


class Wide(Flat):
    """Vectors of several registers."""

    name = "wide"

    def space(self, task: Task, device: Device) -> Space:
        return Space.of(width=[1, *(device.lanes * n for n in (1, 2, 4))])

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return task.buffers[0].size // knobs.width

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from burnish.schedules.tir import Kernel, T

        k = Kernel(task)

        def body(begin: Any, end: Any) -> None:
            with T.serial(0, end - begin) as z:
                if knobs.width == 1:
                    for s in task.stores:
                        k.store(s.buffer, [begin + z], k.value(s.value, {"i0": begin + z}))
                    return
                with T.vectorized(0, knobs.width) as lane:
                    env = {"i0": (begin + z) * knobs.width + lane}
                    for s in task.stores:
                        k.store(s.buffer, [env["i0"]], k.value(s.value, env))
        return k.write(body)


def exactly(v: np.ndarray, zero: int, dtype: str) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.clip(np.rint(v.astype("f8")) + zero, limits.min, limits.max).astype(dtype)


@pytest.mark.parametrize("registers", [0, 1, 2, 4])
@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.name)
def test_every_target(device: Device, registers: int) -> None:
    lanes = registers * device.lanes or 1
    cases = [("uint8", 0), ("uint8", 3), ("uint8", 255), ("int8", 0), ("int8", -128), ("int8", 127), ("uint16", 65535),
             ("int16", -7)]
    made, arrays = task([lambda v, d=d, z=z: x.quantize(v, z, d) for d, z in cases], VALUES)
    for (dtype, zero), got in zip(cases, run(Wide(), made, arrays, device, Knobs.of(width=lanes)), strict=True):
        np.testing.assert_array_equal(got, exactly(VALUES, zero, dtype), err_msg=f"{dtype} {zero}")


@pytest.mark.parametrize("device", [ZEN5, WASM], ids=lambda d: d.name)
def test_zero_points_of_their_own(device: Device) -> None:
    zero = RNG.integers(0, 256, VALUES.size).astype("i4")
    made, arrays = task([lambda v, z: x.quantize(v, z, "uint8")], VALUES, zero)
    (got,) = run(Wide(), made, arrays, device, Knobs.of(width=4 * device.lanes))
    np.testing.assert_array_equal(got, np.clip(np.rint(VALUES.astype("f8")) + zero, 0, 255).astype("u1"))
