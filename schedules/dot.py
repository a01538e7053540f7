"""The dot product of bytes that a device has an instruction for, declared once, with its meaning.

    acc[l] + sum over j of (x[j] - offset) * w[l, j]        0 <= l < lanes, 0 <= j < depth

acc: int32; x: `depth` neighbours along the reduction, uint8 of 0 … top, the same for all lanes; w: int8 [lanes][depth], as it
lies in memory. Exact for every w; where w is 0, whatever x is. So weights are packed by `depth` along the reduction, and
accumulators start from (offset - zero point) * sum(w), with which they become sums of (x - zero point) * w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .device import Device

PrimExpr = Any
Array = Any


@dataclass(frozen=True)
class Dot:
    """An instruction that adds to the accumulators. name: LLVM's intrinsic. work: vector instructions for one accumulator;
    prepare: for one x, beside its load; registers: that are needed beside accumulators, weights and one x."""

    name: str
    lanes: int
    depth: int = 4
    offset: int = 0
    work: int = 1
    prepare: int = 0
    registers: int = 0
    element: ClassVar[str] = "uint8"        # what an x is kept as where it is copied

    def steps(self, k: int) -> int:
        """Steps of a reduction over k."""
        return -(-k // self.depth)

    def panel(self, k: int, width: int) -> int:
        """Bytes of a panel as `pack` makes it."""
        return 4 * width + self.steps(k) * width * self.depth

    def start(self, array: Array, at: PrimExpr) -> PrimExpr:
        """int32 [lanes] from int8 array[at] on: what accumulators start from."""
        from .tir import T, ld

        return T.reinterpret(f"int32x{self.lanes}", ld(array, at, 4 * self.lanes))

    def x(self, array: Array, at: PrimExpr, count: int = 4) -> PrimExpr:
        """uint8 array[at … at + depth] for all lanes. Where only `count` are there, the rest is not read, and 0."""
        from .tir import T, ld, tirx

        integer = f"int{8 * self.depth}"
        if count >= self.depth:
            word = T.reinterpret(integer, ld(array, at, self.depth))
        else:
            first, *others = (array[at + j].astype(integer) << tirx.const(8 * j, integer) for j in range(count))
            word = sum(others, first)
        return self.unsigned(T.reinterpret(f"uint8x{self.lanes * self.depth}", T.broadcast(word, self.lanes)))

    def w(self, array: Array, at: PrimExpr) -> PrimExpr:
        """int8 array[at … at + lanes * depth]."""
        from .tir import ld

        return self.signed(ld(array, at, self.lanes * self.depth))

    def unsigned(self, x: PrimExpr) -> PrimExpr:
        """uint8 [lanes * depth] as the operand x, which may differ from lane to lane."""
        from .tir import tirx

        return x ^ tirx.const(self.offset, str(x.ty.dtype)) if self.offset else x

    def signed(self, w: PrimExpr) -> PrimExpr:
        """int8 [lanes * depth] as the operand w."""
        return w

    def __call__(self, acc: PrimExpr, x: PrimExpr, w: PrimExpr) -> PrimExpr:
        """`acc` and the products of what `x` and `w` gave."""
        return self.call(self.name, acc, x, w)

    def call(self, name: str, *args: PrimExpr, result: str = "int32", lanes: int = 0) -> PrimExpr:
        from .tir import T

        return T.call_llvm_pure_intrin(f"{result}x{lanes or self.lanes}", name, *args)


class Relaxed(Dot):
    """WebAssembly's, whose second operand must be of 0 … 127 to mean the same everywhere."""

    def __call__(self, acc: PrimExpr, x: PrimExpr, w: PrimExpr) -> PrimExpr:
        return self.call(self.name, w, x, acc)


class Bytes(Dot):
    """Neighbours' products added to an int16, into which they fit while x is at most 127, and those to an int32."""

    def __call__(self, acc: PrimExpr, x: PrimExpr, w: PrimExpr) -> PrimExpr:
        from .tir import tirx

        pairs = self.call(self.name, x, w, result="int16", lanes=2 * self.lanes)
        return acc + self.call(_WORDS[self.lanes], pairs, tirx.const(1, f"int16x{2 * self.lanes}"))


class Words(Dot):
    """Bytes are widened to int16, whose products, two neighbours' added, are int32. An x that was widened before takes a step one
    load, where bytes take three instructions."""

    element = "int16"

    def x(self, array: Array, at: PrimExpr, count: int = 4) -> PrimExpr:
        from .tir import T, ld

        if str(array.dtype) == "uint8":
            return super().x(array, at, count)
        pair = T.reinterpret("int32", ld(array, at, 2))
        return T.reinterpret(f"int16x{2 * self.lanes}", T.broadcast(pair, self.lanes))

    def unsigned(self, x: PrimExpr) -> PrimExpr:
        return x.astype(f"int16x{2 * self.lanes}")

    def signed(self, w: PrimExpr) -> PrimExpr:
        return w.astype(f"int16x{2 * self.lanes}")

    def __call__(self, acc: PrimExpr, x: PrimExpr, w: PrimExpr) -> PrimExpr:
        return acc + self.call(self.name, x, w)


class Quads(Dot):
    """Four neighbours by products of int16, two by two: for WebAssembly without the relaxed instruction, whose weights it takes
    as they lie, so that one file of weights serves both builds of a package."""

    def unsigned(self, x: PrimExpr) -> PrimExpr:
        return x.astype(f"int16x{4 * self.lanes}")

    def signed(self, w: PrimExpr) -> PrimExpr:
        return self.unsigned(w)

    def __call__(self, acc: PrimExpr, x: PrimExpr, w: PrimExpr) -> PrimExpr:
        from .tir import tirx

        low, high = (list(range(n, n + 2 * self.lanes)) for n in (0, 2 * self.lanes))
        pairs = [self.call(self.name, tirx.Shuffle([x], half), tirx.Shuffle([w], half)) for half in (low, high)]
        first, second = (tirx.Shuffle(pairs, list(range(n, 2 * self.lanes, 2))) for n in (0, 1))
        return acc + first + second


class Plain(Dot):
    """No instruction: bytes are widened, multiplied and added."""

    def x(self, array: Array, at: PrimExpr, count: int = 4) -> PrimExpr:
        from .tir import splat

        return splat(array[at].astype("int16"), self.lanes)

    def unsigned(self, x: PrimExpr) -> PrimExpr:
        return x.astype("int16" if self.lanes == 1 else f"int16x{self.lanes}")

    def signed(self, w: PrimExpr) -> PrimExpr:
        return self.unsigned(w)

    def __call__(self, acc: PrimExpr, x: PrimExpr, w: PrimExpr) -> PrimExpr:
        integer = "int32" if self.lanes == 1 else f"int32x{self.lanes}"
        return acc + x.astype(integer) * w.astype(integer)


_VNNI = {8: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.512"}
_BYTES = {8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}
_WORDS = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
_SDOT, _USDOT = (f"llvm.aarch64.neon.{name}.v4i32.v16i8" for name in ("sdot", "usdot"))
_RELAXED = "llvm.wasm.relaxed.dot.i8x16.i7x16.add.signed"


def dot(device: Device, top: int) -> Dot:
    """The best that the device has where x is of 0 … top (127 or 255)."""
    lanes, isa = device.lanes, frozenset(device.isa)
    if device.arch == "x86_64":
        if (lanes == 16 and "avx512vnni" in isa) or (lanes == 8 and "avxvnni" in isa):
            return Dot(_VNNI[lanes], lanes)
        if top <= 127 and lanes > 4:
            return Bytes(_BYTES[lanes], lanes, work=3, registers=2)
        return Words(_WORDS[lanes], lanes, depth=2, work=2, registers=1)
    if device.arch == "wasm32" and top <= 127 and "relaxed-simd" in isa:
        return Relaxed(_RELAXED, lanes)
    if device.arch == "wasm32" and top <= 127:
        return Quads("llvm.wasm.dot", lanes, work=8, registers=2)
    if device.arch == "wasm32":
        return Words("llvm.wasm.dot", lanes, depth=2, work=2, registers=1)
    if "i8mm" in isa:
        return Dot(_USDOT, lanes)
    if "dotprod" in isa:
        return Dot(_SDOT, lanes) if top <= 127 else Dot(_SDOT, lanes, offset=128, prepare=1, registers=1)
    return Plain("", lanes, depth=1)


def pack(w: np.ndarray, zero: int, width: int, d: Dot) -> np.ndarray:
    """int8 [..., K, N] -> int8 [..., ceil(N/width), panel]: for every panel of `width` columns what its accumulators start
    from, [width] int32, and the steps of the reduction, [ceil(K/depth)][width][depth]. Columns and steps end in zeros."""
    *lead, k, n = w.shape
    w = np.pad(w, [(0, 0)] * len(lead) + [(0, -k % d.depth), (0, -n % width)])
    starts = ((d.offset - zero) * w.sum(-2, dtype=np.int64)).astype("<i4")
    steps = w.reshape(*lead, -1, d.depth, starts.shape[-1] // width, width)
    a = len(lead)
    steps = steps.transpose(*range(a), a + 2, a, a + 3, a + 1)
    panels = (*lead, steps.shape[a], -1)
    return np.concatenate([starts.reshape(*panels[:-1], width).view(np.int8), steps.reshape(panels)], -1)
