"""LSTM, GRU and RNN in one kernel (family `recurrent`, see compiler/lower/recurrent.py): hidden units in the lanes.

A tile is one direction of one batch entry. Its state, the gates' sums and the reset state stay in scratch; each step streams the
weights once, from the cache where they fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..device import Device
from ..expr import variables
from ..space import Knobs, Space
from ..task import Store, Task
from ..template import Template
from .loops import chunks

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

PrimExpr = Any
Env = dict[str, PrimExpr]


class Recurrent(Template):
    name, family = "f32-recurrent-steps", "recurrent"

    def space(self, task: Task, device: Device) -> Space:
        return Space.of(lanes=(device.lanes,))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        p = task.params
        return p["steps"] * p["hidden"] * (p["inputs"] + p["hidden"]) * sum(map(len, p["phases"])) / knobs.lanes

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return int(task.params["directions"] * task.params["batch"])

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        return 4 * task.params["hidden"] * (3 + sum(map(len, task.params["phases"])))

    def emit(self, task: Task, knobs: Knobs, device: Device) -> PrimFunc:
        return _Emitter(task, knobs.lanes, self.scratch(task, knobs, device)).emit()


class _Emitter:
    """scratch: the state h, what the second phase reads in its place, the cell c, the gates' sums; `hidden` floats each."""

    def __init__(self, task: Task, lanes: int, scratch: int) -> None:
        from ..tir import Kernel

        self.task, self.lanes, self.k = task, lanes, Kernel(task, scratch)
        self.operands, self.hidden = task.operands, task.params["hidden"]
        self.h, self.between, self.c, self.sums = (n * self.hidden for n in range(4))

    def emit(self) -> PrimFunc:
        return self.k.write(self._tiles)

    def _tiles(self, begin: PrimExpr, end: PrimExpr) -> None:
        from ..tir import T, tirx

        p = self.task.params
        steps = p["steps"]
        with T.serial(0, end - begin) as tile:
            direction, batch = (tile + begin) // p["batch"], (tile + begin) % p["batch"]
            env: Env = {"i0": direction, "i1": batch}
            self._first(env)
            length = T.Bind(self.k.value(self.operands["length"], env)) if "length" in self.operands else T.int32(steps)
            with T.serial(0, steps) as step:
                active = step < length
                back = {"forward": False, "reverse": True}.get(p["reverse"], direction == 1)
                at = tirx.Select(tirx.And(active, back), length - 1 - step, step) if back is not False else step
                self._step(env | {"i2": T.Bind(at)}, active)
            self._final(env)

    def _lanes(self, body: Any, env: Env) -> None:
        """body(env at lane, j) for every hidden unit."""
        from ..tir import T

        for first, width in chunks(self.hidden, self.lanes):
            with T.vectorized(0, width) as lane:
                body(env | {"i3": first + lane}, first + lane)

    def _put(self, base: int, j: PrimExpr, value: PrimExpr) -> None:
        from ..tir import T
        T.buffer_store(self.k.scratch, value, [j + base])

    def _first(self, env: Env) -> None:
        def start(env: Env, j: PrimExpr) -> None:
            self._put(self.h, j, self.k.value(self.operands["h_first"], env))
            if "c" in self.operands:
                self._put(self.c, j, self.k.value(self.operands["c_first"], env))
        self._lanes(start, env)

    def _step(self, env: Env, active: PrimExpr) -> None:
        from ..tir import T, tirx

        for n, gates in enumerate(self.task.params["phases"]):
            if n:
                self._lanes(self._reset, env)
            self._products(env, gates, self.between if n else self.h)

        def advance(env: Env, j: PrimExpr) -> None:
            env = self._sums(env, j)
            if "c" in self.operands:
                env["c_new"] = T.Bind(self.k.value(self.operands["c"], env))
            new = T.Bind(self.k.value(self.operands["h"], env))
            for store in self.task.stores:
                if self._every_step(store):
                    self._store(store, env | {"h": tirx.Select(active, new, T.float32(0))})
            if "c" in self.operands:
                self._put(self.c, j, tirx.Select(active, env["c_new"], env["c"]))
            self._put(self.h, j, tirx.Select(active, new, env["h"]))
        self._lanes(advance, env)

    def _reset(self, env: Env, j: PrimExpr) -> None:
        self._put(self.between, j, self.k.value(self.operands["between"], self._sums(env, j)))

    def _products(self, env: Env, gates: tuple[int, ...], state: int) -> None:
        """The gates' sums: bias + W x + R state."""
        from ..tir import T, alloc

        p, k = self.task.params, self.k
        for first, width in chunks(self.hidden, self.lanes):
            sums = {g: alloc(width) for g in gates}
            with T.vectorized(0, width) as lane:
                for g in gates:
                    T.buffer_store(sums[g], k.value(self.operands[f"bias{g}"], env | {"i3": first + lane}), [lane])
            for name, extent in (("w{}", p["inputs"]), ("r{}_", self.hidden)):
                with T.serial(0, extent) as r:
                    factor = k.value(self.operands["x"], env | {"r0": r}) if name == "w{}" else k.scratch[state + r]
                    factor = T.Bind(factor)
                    with T.vectorized(0, width) as lane:
                        for g in gates:
                            if name.format(g) in self.operands:
                                weight = k.value(self.operands[name.format(g)], env | {"i3": first + lane, "r0": r})
                                T.buffer_store(sums[g], sums[g][lane] + factor * weight, [lane])
            with T.vectorized(0, width) as lane:
                for g in gates:
                    self._put(self.sums + g * self.hidden, first + lane, sums[g][lane])

    def _sums(self, env: Env, j: PrimExpr) -> Env:
        scratch = self.k.scratch
        gates = [g for phase in self.task.params["phases"] for g in phase]
        return env | {f"g{g}": scratch[j + (self.sums + g * self.hidden)] for g in gates} | {
            "h": scratch[j + self.h], "c": scratch[j + self.c]}

    def _final(self, env: Env) -> None:
        def last(env: Env, j: PrimExpr) -> None:
            for store in self.task.stores:
                if not self._every_step(store):
                    self._store(store, self._sums(env, j))
        self._lanes(last, env)

    @staticmethod
    def _every_step(store: Store) -> bool:
        return "i2" in variables(store.index)

    def _store(self, store: Store, env: Env) -> None:
        self.k.store(store.buffer, [self.k.value(i, env) for i in store.index], self.k.value(store.value, env))
