"""Fused attention: O[b,h,i,:] = epilogue(softmax_j(scale q_i . k_j + mask[b,h,i,j]) v_j).

Two products on the register tile of gemm with a softmax of rows between them. Scores: the lanes are keys, so that the mask is
read as it lies and k is wanted as panels [d][width], transposed in registers while it is copied to scratch; results: the lanes
are dimensions of v, as they are stored. A block of keys and values is packed once per tile (a run of queries of one head), then
`group` register tiles of queries at a time go through scores, softmax and results while their scores are in L1.

Where the keys are split into several blocks, sums are rescaled when a row's maximum rises (online softmax: Milakov and
Gimelshein, arXiv:1805.02867, algorithm 3; Dao et al., arXiv:2205.14135). Softmax is in base 2. A row that is -inf everywhere
gives zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..affine import strides, within
from ..device import Device
from ..expr import Expr, add, const, select, var
from ..space import Knobs, Space
from ..task import Store, Task
from ..template import Template
from . import registertile as rt
from .registertile import up

PrimExpr = Any
EXP = 13            # vector instructions of one exponential of the softmax


@dataclass(frozen=True)
class Shape:
    batch: int
    heads: int
    nq: int
    nk: int
    d: int
    dv: int
    causal: int
    scale: float

    @classmethod
    def of(cls, task: Task) -> Shape:
        return cls(**{name: task.params[name] for name in cls.__dataclass_fields__})

    def extents(self, operand: str) -> dict[str, int]:
        """Of the variables that an operand, or with "" a store, reads."""
        own = {"q": {"i2": self.nq, "r0": self.d}, "k": {"i2": self.nk, "r0": self.d}, "v": {"i2": self.nk, "r0": self.dv},
               "mask": {"i2": self.nq, "i3": self.nk}, "": {"i2": self.nq, "i3": self.dv}}
        return {"i0": self.batch, "i1": self.heads, **own[operand]}


@dataclass(frozen=True)
class View:
    """An operand that can be read in place: element (position, r0) lies at rest + position * stride + r0 * step."""

    buffer: int
    stride: int
    step: int
    rest: Expr

    @classmethod
    @lru_cache(maxsize=64)      # asked for by every candidate
    def of(cls, task: Task, name: str) -> View | None:
        e = within(task.operands[name], Shape.of(task).extents(name))
        found = strides(e, ("i2", "r0"), [b.shape for b in task.buffers])
        return cls(found[0], found[1][0], found[1][1], found[2]) if found else None


class Attention(Template):
    name, family = "f32-attention", "attention"

    def refuses(self, task: Task, device: Device) -> str | None:
        s = Shape.of(task)
        if 0 in (s.batch, s.heads, s.nq, s.nk, s.d, s.dv):
            return "nothing to attend to"
        return None if all(e.dtype == "float32" for e in task.operands.values()) else "operands are not float32"

    def space(self, task: Task, device: Device) -> Space:
        """rows: queries of a register tile; vectors: of keys in it; dims: vectors of v in it; group: register tiles that share a
        pass over the keys; splits: blocks of keys; blocks: of queries of a head; pack_v: is v copied, or read in place?"""
        s = Shape.of(task)
        wide_k, wide_v = up(s.nk, device.lanes), up(s.dv, device.lanes)
        most = max(r * v for r in range(1, min(s.nq, 16) + 1) for v in range(1, 7) if _fits(r, v, device))
        dims = {up(wide_v, up(wide_v, d)) for d in range(1, min(wide_v, device.vector_registers) + 1)}    # widths of equal panels
        return (Space.of(rows=range(1, min(s.nq, 16) + 1), vectors=range(1, min(wide_k, 6) + 1), dims=sorted(dims),
                         group=(1, 2, 4), splits=sorted({1, up(s.nk, 512)}),
                         blocks=sorted({min(b, up(s.nq, 16)) for b in (1, 2, 4)}),
                         pack_v=(1, 0) if _v_in_place(task, device) else (1,))
                .require(lambda k: _fits(k.rows, max(k.vectors, k.dims), device), "accumulators would spill")
                .require(lambda k: k.rows == s.nq or 2 * k.rows * k.vectors >= most or k.vectors == wide_k, "too few scores")
                .require(lambda k: k.rows == s.nq or 2 * k.rows * k.dims >= most or k.dims == wide_v, "too few results")
                .require(lambda k: k.rows * max(k.group, 2) // 2 <= up(s.nq, k.blocks), "blocks smaller than a group")
                .require(lambda k: k.splits == 1 or k.vectors * device.lanes * k.splits <= s.nk, "blocks smaller than a panel"))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        s, a, lanes = Shape.of(task), Layout(task, knobs, device), device.lanes
        packed = up(s.nk, lanes) * up(s.d, lanes) * lanes * (2 + math.log2(lanes)) + knobs.pack_v * 8 * s.nk * up(s.dv, lanes)
        # What is read again for every group of queries comes from L2 where a single tile is to wait for it.
        whole = a.group == 1 and 4 * (a.rows * a.pitch + a.keys * (s.d + a.vp)) > device.l1_kib * 1024
        k_bytes, v_bytes = (4 * a.keys * (n if whole else 0) for n in (s.d, a.vp))
        q_pitch = (a.q.stride if a.q else s.d) * 4
        weigh = rt.weight((score(task),)) + 1

        def step(vectors: int, streamed: int, pitch: int) -> float:
            return rt.step_cost(a.rows, vectors, streamed, pitch, device) + 0.1 * (a.rows + vectors)

        tile = a.rows * (up(s.nk, lanes) * (EXP + 1) / 2 + a.splits * 20)
        for v in _panels(up(s.nk, lanes), knobs.vectors):
            tile += s.d * step(v, k_bytes, q_pitch) + a.rows * v * weigh + 15
        for v in _panels(up(s.dv, lanes), knobs.dims):
            tile += s.nk * step(v, v_bytes, a.pitch * 4) + a.splits * a.rows * v * 3
        blocks, count = up(s.nq, a.block), self.tiles(task, knobs, device)
        packs = blocks if a.splits > 1 else min(blocks, device.cores)
        return s.batch * s.heads * (packs * packed + blocks * a.tiles * tile) * up(count, device.cores) * device.cores / count

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        s, a, l1, l2 = Shape.of(task), Layout(task, knobs, device), device.l1_kib * 1024, device.l2_kib * 1024
        wide_k, wide_v, blocks = up(s.nk, a.lanes), up(s.dv, a.lanes), up(s.nq, a.block)
        return {**rt.features(a.rows, knobs.vectors, s.d * a.width * 4, (a.q.stride if a.q else s.d) * 4, s.d, (score(task),),
                              device),
                "macs": s.batch * s.heads * s.nq * s.nk * (s.d + s.dv), "tiles": self.tiles(task, knobs, device),
                "blocks": blocks, "waste_rows": blocks * a.tiles * a.rows / s.nq, "waste_columns": wide_k * a.lanes / s.nk,
                "ragged": wide_k % knobs.vectors / wide_k, "panels": up(wide_k, knobs.vectors), "row_tiles": a.tiles,
                "block_l2": 4 * a.floats / l2, "x_l1": 4 * a.group * a.rows * a.pitch / l1, "w_l2": 4 * a.keys * s.d / l2,
                "result_accumulators": a.rows * a.dims, "result_ragged": wide_v % a.dims / wide_v,
                "copied": a.keys * a.splits * (s.d + knobs.pack_v * a.vp) / (s.nq * s.nk * (s.d + s.dv)) * blocks,
                "head": s.dv}

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        s = Shape.of(task)
        return s.batch * s.heads * up(s.nq, Layout(task, knobs, device).block)

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        return Layout(task, knobs, device).floats * 4

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from .attention_block import emit

        return emit(task, Layout(task, knobs, device))


def _fits(rows: int, vectors: int, device: Device) -> bool:
    """LLVM unrolls the short reductions of attention and loads the next step's vectors early (9 x 3 on AVX-512 took 1.4 times as
    long as 8 x 3, 5 x 5 3 times)."""
    return rows * vectors + 2 * vectors <= device.vector_registers or rows == vectors == 1


@lru_cache(maxsize=64)
def score(task: Task) -> Store:
    """How a scaled product `acc` of query i2 and key i3 goes to scratch (as one more buffer of the task): "row" is the address of
    the query's scores, less its first key."""
    s = Shape.of(task)
    value: Expr = var("acc", "float32")
    if "mask" in task.operands:
        value = value + within(task.operands["mask"], s.extents("mask"))
    if s.causal:
        value = select(var("i3") <= var("i2"), value, const(-math.inf, "float32"))
    return Store(len(task.buffers), (), (add(var("row"), var("i3")),), value)


def _v_in_place(task: Task, device: Device) -> bool:
    view = View.of(task, "v")
    return view is not None and view.step == 1 and Shape.of(task).dv % device.lanes == 0


def _panels(wide: int, vectors: int) -> list[int]:
    return [vectors] * (wide // vectors) + [wide % vectors] * (wide % vectors > 0)


class Layout:
    """The sizes that follow from a choice of knobs, and where things lie in scratch (in floats)."""

    def __init__(self, task: Task, knobs: Knobs, device: Device) -> None:
        s = self.shape = Shape.of(task)
        self.lanes, self.rows, self.dims = device.lanes, knobs.rows, knobs.dims
        self.width = knobs.vectors * device.lanes                           # keys of a panel
        self.tiles = up(up(s.nq, knobs.blocks), knobs.rows)                 # register tiles of queries
        self.block = min(s.nq, self.tiles * knobs.rows)                     # queries of a tile
        self.group = min(knobs.group, self.tiles)
        self.fold = min(device.lanes, 1 << (self.group * self.rows - 1).bit_length())   # rows whose sums are folded at a time
        self.padded = up(self.group * self.rows, device.lanes) * device.lanes           # rows of a group, in whole vectors
        self.keys = up(up(s.nk, knobs.splits), self.width) * self.width     # of a block, in whole panels
        self.splits = up(s.nk, self.keys)
        self.vp = up(s.dv, self.lanes) * self.lanes                         # pitch of packed v and of unfinished results
        self.pitch = (up(min(self.keys, s.nk), self.lanes) | 1) * self.lanes        # of scores: odd, to use all sets of L1
        self.q = View.of(task, "q")                                         # None: evaluated into scratch
        k = View.of(task, "k")
        self.k = k if k is not None and k.step == 1 and s.d >= self.lanes else None     # None: rows evaluated, then transposed
        self.v = None if knobs.pack_v else View.of(task, "v")
        self.stage_pitch = max(s.d, self.lanes)
        self.floats = 0
        self.at_keys = self._take(self.keys * s.d)
        self.at_values = self._take(0 if self.v else self.keys * self.vp)
        self.at_scores = self._take(self.group * self.rows * self.pitch)
        self.at_queries = self._take(0 if self.q else self.block * s.d)
        self.at_stage = self._take(0 if self.k else self.lanes * self.stage_pitch)
        self.at_factor = self._take(self.padded)                            # by which the results of a row are multiplied
        held = self.splits > 1                                              # rows that wait for more keys
        self.at_results = self._take(held * self.tiles * self.rows * self.vp)
        self.at_top, self.at_total = (self._take(held * up(self.tiles, self.group) * self.padded) for _ in range(2))
        self.at_numbers = self._take(16)

    def _take(self, floats: int) -> int:
        start = self.floats
        self.floats += up(floats, 16) * 16
        return start
