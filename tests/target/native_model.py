"""A small Plan with kernels written in C, for the tests of the CPU target: no compiler, no TVM.

y = 2 max(x + w, 0) over ROWS x COLUMNS, one tile for each row; n = the row numbers as int64. The setup negates w twice, each row
into another place, so that the model reads what two launches of it made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from burnish.schedules.device import Device
from burnish.targets.cpu import profile, toolchain
from burnish.targets.plan import KernelCode, Launch, Place, Plan, Signature

ROWS, COLUMNS = 37, 100
BYTES = 3776 * 4    # of a buffer in the arena, rounded up to a cache line

KERNELS = {
    "k_add": """#include <stdint.h>
void k_add(const float *x, const float *w, float *y, int32_t begin, int32_t end) {
    for (int32_t n = begin * 100; n < end * 100; n++) y[n] = x[n] + w[n];
}""",
    "k_relu": """#include <stdint.h>
void k_relu(const float *x, float *y, int32_t begin, int32_t end) {
    for (int32_t n = begin * 100; n < end * 100; n++) y[n] = x[n] > 0 ? x[n] : 0;
}""",
    "k_double": """#include <stdint.h>
void k_double(const float *x, float *y, int64_t *rows, float *scratch, int32_t begin, int32_t end) {
    for (int32_t r = begin; r < end; r++) {
        for (int n = 0; n < 100; n++) scratch[n] = 2 * x[r * 100 + n];
        for (int n = 0; n < 100; n++) y[r * 100 + n] = scratch[n];
        rows[r] = r;
    }
}""",
    "k_negate": """#include <stdint.h>
void k_negate(const float *w, float *minus, int32_t begin, int32_t end) {
    for (int32_t r = begin; r < end; r++)
        for (int n = 0; n < 100; n++) minus[(36 - r) * 100 + n] = -w[r * 100 + n];
}""",
}


@dataclass(frozen=True)
class Sample:
    plan: Plan
    kernels: tuple[KernelCode, ...]
    weights: np.ndarray
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    device: Device

    @property
    def arguments(self) -> tuple:
        return self.plan, self.kernels, self.weights, self.inputs, self.outputs, self.device


def reference(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 2 * np.maximum(x + w, 0), np.arange(ROWS)


def sample(device: Device | None = None, name: str = "3-layer net*/", scale: float = 1) -> Sample:
    device = device or replace(profile.detect(), cores=1)
    kernels = tuple(KernelCode(symbol, toolchain.build(toolchain.triple(device), ("-c", "-O2", "-fPIC"), {"k.c": text}, {}, ()),
                               "c", (("rows", 1),), f"task of {symbol}") for symbol, text in KERNELS.items())
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((ROWS, COLUMNS), np.float32) for _ in "xw")
    w *= np.float32(scale)
    big = 10**9     # flops, so that the launch is shared out among the threads
    odd = 'odd */ "name"\\\n'
    launches = (
        Launch("k_add", (Place("input", 0), Place("prepared", BYTES), Place("arena", 0)), ROWS, 0, ("/a/Add", odd), big, 1),
        Launch("k_relu", (Place("arena", 0), Place("arena", BYTES)), ROWS, 0, ("relu",), 1, 1),
        Launch("k_double", (Place("arena", BYTES), Place("output", 0), Place("output", 1)), ROWS, 400, ("mul ü",), big, 1),
    )
    outputs = Signature("y", (ROWS, COLUMNS), "float32"), Signature("n", (ROWS,), "int64")
    setup = (Launch("k_negate", (Place("weights", 0), Place("prepared", 0)), ROWS, 0, (odd,), big, 1),
             Launch("k_negate", (Place("prepared", 0), Place("prepared", BYTES)), ROWS, 0, (odd,), big, 1))
    plan = Plan(name, (Signature("input.1", (ROWS, COLUMNS), "float32"),), outputs, launches, 2 * BYTES, 400, w.nbytes,
                setup=setup, prepared=2 * BYTES)
    return Sample(plan, kernels, w, (x,), reference(x, w), device)
