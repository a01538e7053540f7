"""The register tile that gemm, conv and depthwise share: rows x vectors of accumulators, and the epilogue that empties it.

A tile holds `rows * vectors` accumulators; a step of the reduction loads `vectors` vectors of weights and broadcasts one value
per row. Columns past the last channel are computed on weights padded with zeros, and are not stored. Of floats a step multiplies
and adds; of bytes it is an instruction of `dot`, and the accumulators are int32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..affine import lanewise, within
from ..device import Device
from ..expr import Expr, post_order
from ..task import ITEMSIZE, Store, Task

if TYPE_CHECKING:
    from ..tir import Kernel

PrimExpr = Any

HEAVY = frozenset({"exp", "log", "erf", "tanh", "sigmoid", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh",
                   "acosh", "atanh", "pow"})     # polynomials of some twenty instructions
INLINE = 320        # vector instructions of epilogue up to which every accumulator gets its own copy, else they are looped over
MISS = 4 / 64       # of a byte from the next level of cache, in multiply-adds, where prefetching hides most of it
LINE = 16           # floats of a cache line
LATENCY = 8         # independent accumulators that keep two multipliers of four cycles' latency busy


def up(a: int, b: int) -> int:
    return -(-a // b)


def fits(rows: int, vectors: int, device: Device) -> bool:
    """Accumulators, one vector of weights each, and a broadcast value."""
    return rows * vectors + vectors + 1 <= device.vector_registers


def step_cost(rows: int, vectors: int, panel: int, pitch: int, device: Device) -> float:
    """Time of one step of the reduction, in multiply-add instructions: the slowest of multiplying, loading, waiting for results
    and streaming weights. panel: bytes of weights that a tile streams; pitch: bytes between its rows of x.

    Rates measured on Zen 5 (two multiply-adds and two loads a cycle): some 40 bytes a cycle from L2, 12 from L3. Rows that fall
    into the same set of L1 more often than it has ways come from L2 for each value.
    """
    rate = 0 if panel < device.l1_kib * 512 else 1 / 20 if panel < device.l2_kib * 820 else 1 / 6
    stream = vectors * device.lanes * 4 * rate
    room = device.l1_kib // 4 * (4096 // math.gcd(4096, max(64, pitch)))
    conflicts = 2 * rows if rows > room else 0
    return max(rows * vectors, rows + vectors, LATENCY, stream, conflicts) + 0.05 * (rows + vectors + stream)


def features(rows: int, vectors: int, panel: int, pitch: int, reduction: int, stores: tuple[Store, ...],
             device: Device) -> dict[str, float]:
    """What a cost model is told of a register tile; arguments as of `step_cost`, reduction: steps of a tile."""
    epilogue = weight(stores)
    return {"rows": rows, "vectors": vectors, "accumulators": rows * vectors, "macs_per_load": rows * vectors / (rows + vectors),
            "registers": (rows * vectors + vectors + 1) / device.vector_registers, "reduction": reduction,
            "panel_l1": panel / (device.l1_kib * 1024), "panel_l2": panel / (device.l2_kib * 1024),
            "conflicts": rows / (device.l1_kib // 4 * (4096 // math.gcd(4096, max(64, pitch)))),
            "epilogue": epilogue / reduction, "epilogue_code": epilogue * rows * vectors}


@lru_cache(maxsize=256)     # asked for by every candidate
def weight(stores: tuple[Store, ...]) -> int:
    """Vector instructions of the epilogue of one vector, roughly."""
    return sum(25 if e.op in HEAVY else 3 if e.op == "quantize" else e.op not in ("const", "var")
               for s in stores for e in post_order([s.value])) + len(stores)


def pack_panels(w: np.ndarray, width: int) -> np.ndarray:
    """[..., K, N] -> [..., ceil(N/width), K, width], padded with zeros."""
    *lead, k, n = w.shape
    w = np.pad(w, [(0, 0)] * (len(lead) + 1) + [(0, -n % width)])
    return np.ascontiguousarray(np.moveaxis(w.reshape(*lead, k, -1, width), -2, -3))


def plain(task: Task, extents: Mapping[str, int]) -> tuple[Store, ...]:
    """The stores with the quotients gone that the extents make trivial."""
    return tuple(Store(s.buffer, s.space, tuple(within(i, dict(extents)) for i in s.index), within(s.value, dict(extents)))
                 for s in task.stores)


class Tile:
    """The accumulators of `rows` x `width` outputs, while code is emitted that fills and empties them."""

    def __init__(self, kernel: Kernel, stores: tuple[Store, ...], rows: int, width: int, lanes: int,
                 start: Callable[[int], PrimExpr] | None = None) -> None:
        """start: of a vector's number, what its accumulators begin with (int32); without it they are floats and begin with 0."""
        from ..tir import alloc, splat, st

        self.kernel, self.stores, self.rows, self.width, self.lanes = kernel, stores, rows, width, lanes
        self.vectors, self.dtype = up(width, lanes), "int32" if start else "float32"
        self.number: PrimExpr = 0       # among the tiles of a panel
        self.pitch = self.vectors * lanes
        self.acc = alloc(rows * self.pitch, self.dtype)
        for at in range(0, rows * self.pitch, lanes):
            st(self.acc, at, start(at % self.pitch // lanes) if start else splat(0, lanes), lanes)

    def multiply(self, x: Callable[[int], PrimExpr], w: Callable[[int], PrimExpr]) -> None:
        """One step of the reduction: x(row) is a scalar, w(vector) a vector of weights."""
        from ..tir import splat

        self.step(lambda acc, r, v: acc + splat(x(r), self.lanes) * w(v))

    def step(self, add: Callable[[PrimExpr, int, int], PrimExpr]) -> None:
        """One step of the reduction, of any kind: add(accumulators, row, vector) is what they become."""
        from ..tir import ld, st

        for r in range(self.rows):
            for v in range(self.vectors):
                at = r * self.pitch + v * self.lanes
                st(self.acc, at, add(ld(self.acc, at, self.lanes), r, v), self.lanes)

    def finish(self, place: Callable[[PrimExpr], Mapping[str, PrimExpr]], column: str, base: PrimExpr, multiple: int) -> None:
        """Stores the epilogue of every accumulator. place: the row's variables, of a row number; column: the name of the
        variable along the width, whose value at the left edge is `base`, a multiple of `multiple`."""
        from ..tir import T, alloc, ld, st, vectors

        bytes_only = all(ITEMSIZE[self.kernel.task.buffers[s.buffer].dtype] == 1 for s in self.stores)
        step = self.lanes * (4 if bytes_only else 1)       # four vectors are packed to one of bytes
        if self.width % self.lanes == 0 and weight(self.stores) * self.rows * self.vectors <= INLINE:
            for r in range(self.rows):
                for o, n in vectors(self.width, step):
                    at = r * self.pitch + o
                    if n > self.lanes:      # beside `acc`, which is read and written in vectors of the same size
                        together = alloc(n, self.dtype)
                        for part in range(0, n, self.lanes):
                            st(together, part, ld(self.acc, at + part, self.lanes), self.lanes)
                        self._piece(together, 0, o, n, place(r), column, base, multiple)
                    else:
                        self._piece(self.acc, at, o, n, place(r), column, base, multiple)
            return
        # Through memory, so that one copy of the code serves all rows. A separate array: `acc` must keep constant indices.
        out = alloc(self.rows * self.pitch, self.dtype)
        for at in range(0, self.rows * self.pitch, self.lanes):
            st(out, at, ld(self.acc, at, self.lanes), self.lanes)
        with T.serial(0, self.rows) as r:
            if whole := self.width // step:
                with T.serial(0, whole) as v:
                    self._piece(out, r * self.pitch + v * step, v * step, step, place(r), column, base, multiple)
            for o, n in vectors(self.width, step):
                if n < step:
                    self._piece(out, r * self.pitch + o, o, n, place(r), column, base, multiple)

    def _piece(self, array: Any, at: PrimExpr, o: PrimExpr, n: int, env: Mapping[str, PrimExpr], column: str, base: PrimExpr,
               multiple: int) -> None:
        """Stores the n accumulators array[at …], which belong `o` right of the tile's left edge."""
        align = math.gcd(multiple, o) if isinstance(o, int) else math.gcd(multiple, n)
        emit_vector(self.kernel, self.stores, n, lambda lane: {**env, "acc": array[at + lane]}, column, base + o, align)


def emit_vector(kernel: Kernel, stores: Sequence[Store], n: int, env: Callable[[PrimExpr], Mapping[str, PrimExpr]], column: str,
                base: PrimExpr, align: int) -> None:
    """Stores n elements along `column` from `base` (a multiple of `align`); env(lane) gives the other variables."""
    from ..tir import T

    def body(lane: PrimExpr) -> None:
        known = {**env(lane), "base": base, "lane": lane}
        for s in stores:
            def value(e: Expr) -> PrimExpr:
                return kernel.value(lanewise(e, column, n, align), known)
            kernel.store(s.buffer, [value(i) for i in s.index], value(s.value))

    if n == 1:
        body(T.int32(0))
    else:
        with T.vectorized(0, n) as lane:
            body(lane)


def each_panel(q: PrimExpr, panels: int, n: int, width: int, panel: Callable[[int], None]) -> None:
    """`panel(columns)`, where the last panel may have fewer."""
    from ..tir import T

    rest = n - (panels - 1) * width
    if rest == width:
        panel(width)
    elif panels == 1:
        panel(rest)
    else:
        with T.If(q < panels - 1):
            with T.Then():
                panel(width)
            with T.Else():
                panel(rest)


def over(count: int, lanes: int, emit: Callable[[PrimExpr, int], None]) -> None:
    """emit(offset, width) for the vectors that cover `count`: whole ones in a loop, then narrower ones."""
    from ..tir import T, vectors

    if count >= lanes:
        with T.serial(0, count // lanes) as v:
            emit(v * lanes, lanes)
    for at, n in vectors(count % lanes, lanes // 2 or 1):
        emit(T.int32(count // lanes * lanes + at), n)
