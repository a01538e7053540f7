"""Every dot product against numpy, on this machine, under wasmtime and, for ARM, under qemu: all x, the extremes of w, sums that
end within a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from burnish.schedules.device import Device
from burnish.schedules.dot import Dot, dot, pack
from burnish.schedules.expr import load, var
from burnish.schedules.space import Knobs, Space
from burnish.schedules.task import Buffer, Store, Task
from burnish.schedules.template import Pack, Template
from burnish.targets.cpu import emulator, profile

from .harness import SIMD, WASM, Built

ZEN5, V3, A76 = (profile.load(name) for name in ("zen5", "x86-64-v3", "cortex-a76"))


def with_isa(device: Device, *isa: str, **llvm: object) -> Device:
    return replace(device, isa=isa, llvm=(*device.llvm, *llvm.items()))


# What each device is expected to take, by its name and the largest x.
VARIANTS: Mapping[str, tuple[Device, int, str]] = {
    "avx512vnni": (ZEN5, 255, "llvm.x86.avx512.vpdpbusd.512"),
    "avx512": (with_isa(ZEN5, "avx512f"), 127, "llvm.x86.avx512.pmaddubs.w.512"),
    "avx512 words": (with_isa(ZEN5, "avx512f"), 255, "llvm.x86.avx512.pmaddw.d.512"),
    "avxvnni": (with_isa(V3, "avx2", "avxvnni", mattr=("+avxvnni",)), 255, "llvm.x86.avx512.vpdpbusd.256"),
    "avx2": (V3, 127, "llvm.x86.avx2.pmadd.ub.sw"),
    "avx2 words": (V3, 255, "llvm.x86.avx2.pmadd.wd"),
    "sse words": (replace(V3, lanes=4, isa=(), llvm=(V3.llvm[0], ("mcpu", "x86-64"))), 127, "llvm.x86.sse2.pmadd.wd"),
    "relaxed": (WASM, 127, "llvm.wasm.relaxed.dot.i8x16.i7x16.add.signed"),
    "relaxed words": (WASM, 255, "llvm.wasm.dot"),
    "simd": (SIMD, 127, "llvm.wasm.dot"),
    "sdot": (A76, 127, "llvm.aarch64.neon.sdot.v4i32.v16i8"),
    "sdot, shifted": (A76, 255, "llvm.aarch64.neon.sdot.v4i32.v16i8"),
    "usdot": (with_isa(A76, "neon", "i8mm", mattr=("+i8mm",)), 255, "llvm.aarch64.neon.usdot.v4i32.v16i8"),
    "neon": (with_isa(A76, "neon", mattr=("-dotprod",)), 255, ""),
}
RUNS = [name for name, (device, *_) in VARIANTS.items() if device.arch != "aarch64" or emulator.available("aarch64")]


class Row(Template):
    """One row of x times w: Y[n] = acc, in int32, and nothing else."""

    name, family = "test-row", "gemm"

    def space(self, task: Task, device: Device) -> Space:
        return Space.of()

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        return 1.0

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return 1

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        width, d = task.params["n"], dot(device, task.params["top"])
        return {1: lambda w: pack(w, task.params["zero"], width, d).reshape(-1)}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> object:
        from burnish.schedules.tir import Kernel, T, ld, st

        d, k, n = dot(device, task.params["top"]), task.params["k"], task.params["n"]
        kernel = Kernel(task, packed={1: d.panel(k, n)})

        def body(begin: object, end: object) -> None:
            x, w, y = kernel.arrays
            for v in range(0, n, d.lanes):
                st(y, v, d.start(w, 4 * v), d.lanes)
                for step in range(d.steps(k)):
                    xs = d.x(x, T.int32(step * d.depth), k - step * d.depth)
                    st(y, v, d(ld(y, v, d.lanes), xs, d.w(w, T.int32(4 * n + (step * n + v) * d.depth))), d.lanes)

        return kernel.write(body)


def row(w: np.ndarray, zero: int, top: int) -> Task:
    (k, n) = w.shape
    buffers = Buffer((1, k), "uint8", "input"), Buffer((k, n), "int8", "constant"), Buffer((1, n), "int32", "output")
    stores = (Store(2, (1, 1, n), (var("i1"), var("i2")), var("acc", "int32")),)
    return Task("gemm", buffers, stores, {"batch": 1, "m": 1, "n": n, "k": k, "x": 0, "w": 1, "zero": zero, "top": top},
                {"x": load(0, (var("i1"), var("r0")), "uint8")})


@pytest.mark.parametrize("name", RUNS)
def test_meaning(name: str) -> None:
    device, top, instruction = VARIANTS[name]
    d = dot(device, top)
    assert d.name == instruction
    rng = np.random.default_rng(5)
    for k, zero in ((4, 0), (13, 7), (14, top), (27, 1)):
        w = rng.integers(-128, 128, (k, 2 * d.lanes)).astype("i1")
        w[:, :3] = [-128, 127, 0]
        kernel = Built(Row(), row(w, zero, top), device)
        for x in (np.full((1, k), top), np.full((1, k), 0), rng.integers(0, top + 1, (1, k))):
            (got,) = kernel({0: x.astype("u1"), 1: w})
            np.testing.assert_array_equal(got, (x - zero) @ w.astype("i4"))


def test_packed_panels() -> None:
    """Two panels of four columns from six, five steps of k in two words."""
    d = Dot("", 4)
    w = np.arange(30).reshape(5, 6).astype("i1")
    panels = pack(w, 3, 4, d)
    assert panels.shape == (2, d.panel(5, 4))
    np.testing.assert_array_equal(panels[:, :16].copy().view("<i4"), [(-3 * w.sum(0))[:4].tolist(), [*(-3 * w.sum(0))[4:], 0, 0]])
    words = panels[:, 16:].reshape(2, 2, 4, 4)      # panel, step, column, depth
    assert words[0, 0, 1].tolist() == w[:4, 1].tolist()
    assert words[1, 1].tolist() == [[28, 0, 0, 0], [29, 0, 0, 0], [0] * 4, [0] * 4]
