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
from dataclasses import dataclass
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
    def of(cls, task: Task, name: str) -> View | None:
        e = within(task.operands[name], Shape.of(task).extents(name))
        found = strides(e, ("i2", "r0"), [b.shape for b in task.buffers])
        return cls(found[0], *found[1], found[2]) if found else None


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
        most = max(r * v for r in range(1, min(s.nq, 16) + 1) for v in range(1, 7) if rt.fits(r, v, device))
        dims = {up(wide_v, panels) for panels in range(1, wide_v + 1)}      # the widths of equal panels
        return (Space.of(rows=range(1, min(s.nq, 16) + 1), vectors=range(1, min(wide_k, 6) + 1), dims=sorted(dims),
                         group=(1, 2, 4), splits=sorted({1, up(s.nk, 512), up(s.nk, 192)}),
                         blocks=sorted({min(b, up(s.nq, 16)) for b in (1, 2, 4)}),
                         pack_v=(1, 0) if _v_in_place(task, device) else (1,))
                .require(lambda k: rt.fits(k.rows, max(k.vectors, k.dims), device), "accumulators would spill")
                .require(lambda k: k.rows == s.nq or 2 * k.rows * k.vectors >= most or k.vectors == wide_k, "too few scores")
                .require(lambda k: k.rows == s.nq or 2 * k.rows * k.dims >= most or k.dims == wide_v, "too few results")
                .require(lambda k: k.rows * max(k.group, 2) // 2 <= up(s.nq, k.blocks), "blocks smaller than a group")
                .require(lambda k: k.splits == 1 or k.vectors * device.lanes * k.splits <= s.nk, "blocks smaller than a panel"))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        s, a = Shape.of(task), Layout(task, knobs, device)
        v_view, q_view, lanes = View.of(task, "v"), View.of(task, "q"), device.lanes
        packed = up(s.nk, lanes) * up(s.d, lanes) * lanes * (2 + math.log2(lanes))
        if knobs.pack_v:
            packed += 2 * s.nk * up(s.dv, lanes)
        v_pitch = a.vp * 4 if knobs.pack_v or v_view is None else v_view.stride * 4
        # What is read again for every group of queries comes from L2 where it leaves no room in L1.
        resident = 4 * (a.group * a.rows * a.pitch + a.keys * (s.d + a.vp))
        spread = resident > device.l1_kib * 1024 and a.group == 1
        k_panel = a.keys * s.d * 4 if spread else a.width * s.d * 4
        q_pitch = (q_view.stride if q_view else s.d) * 4
        weigh = rt.weight((score(task),)) + 1
        tile = 0.0
        for v in _panels(up(s.nk, lanes), knobs.vectors):
            tile += s.d * rt.step_cost(a.rows, v, k_panel, q_pitch, device) + a.rows * v * weigh + 15
        for v in _panels(up(s.dv, lanes), knobs.dims):
            bytes_v = s.nk * v_pitch if spread else a.keys * v * lanes * 4
            tile += s.nk * rt.step_cost(a.rows, v, bytes_v, a.pitch * 4, device) + a.splits * a.rows * v * 3
        tile += a.rows * (up(s.nk, lanes) * (EXP + 1) / 2 + a.splits * 20)
        blocks = up(s.nq, a.block)
        packs = blocks if a.splits > 1 else min(blocks, device.cores)
        count = self.tiles(task, knobs, device)
        return s.batch * s.heads * (packs * packed + blocks * a.tiles * tile) * up(count, device.cores) * device.cores / count

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        s = Shape.of(task)
        return s.batch * s.heads * up(s.nq, Layout(task, knobs, device).block)

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        return Layout(task, knobs, device).floats * 4

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from .attention_block import emit

        return emit(task, Layout(task, knobs, device))


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
        self.keys = up(up(s.nk, knobs.splits), self.width) * self.width     # of a block, in whole panels
        self.splits = up(s.nk, self.keys)
        self.vp = up(s.dv, self.lanes) * self.lanes                         # pitch of packed v and of unfinished results
        self.pitch = (up(min(self.keys, s.nk), self.lanes) | 1) * self.lanes        # of scores: odd, to use all sets of L1
        self.q, self.k, self.v = (View.of(task, name) for name in "qkv")
        self.pack_v = knobs.pack_v
        self.k_in_place = self.k is not None and self.k.step == 1 and s.d >= self.lanes
        self.stage_pitch = max(s.d, self.lanes)
        self.floats = 0
        self.at_keys = self._take(self.keys * s.d)
        self.at_values = self._take(self.keys * self.vp if self.pack_v else 0)
        self.at_scores = self._take(self.group * self.rows * self.pitch)
        self.at_queries = self._take(0 if self.q else self.block * s.d)
        self.at_stage = self._take(0 if self.k_in_place else self.lanes * self.stage_pitch)
        self.at_factor = self._take(self.group * self.rows * self.lanes)    # by which the results of a row are multiplied
        held = self.tiles * self.rows if self.splits > 1 else 0             # rows that wait for more keys
        self.at_results = self._take(held * self.vp)
        self.at_top = self._take(held * self.lanes)
        self.at_total = self._take(held * self.lanes)

    def _take(self, floats: int) -> int:
        start = self.floats
        self.floats += up(floats, 16) * 16
        return start
