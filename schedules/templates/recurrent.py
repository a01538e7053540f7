"""LSTM, GRU and RNN in one kernel (family `recurrent`, see compiler/lower/recurrent.py): hidden units in the lanes.

A tile is one direction of one batch entry. First come the products with the input, for several steps at a time, so that those
weights are streamed once in several steps; then step after step the products with the state. State and sums lie in scratch.
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
        gates = _gates(task)
        return (Space.of(lanes=(device.lanes,), together=range(1, min(8, task.params["steps"]) + 1))
                .require(lambda k: k.together == 1 or (k.together + 1) * gates + 1 <= device.vector_registers,
                         "accumulators would spill"))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        """A multiply-add for each product, and a load of each vector of weights, that of the input once in `together` steps."""
        p = task.params
        return p["steps"] * p["hidden"] * _gates(task) * (p["inputs"] * (1 + 1 / knobs.together) + 2 * p["hidden"]) / knobs.lanes

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return int(task.params["directions"] * task.params["batch"])

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        return 4 * task.params["hidden"] * (3 + _gates(task) * (1 + task.params["steps"]))

    def emit(self, task: Task, knobs: Knobs, device: Device) -> PrimFunc:
        return _Emitter(task, knobs, self.scratch(task, knobs, device)).emit()


def _gates(task: Task) -> int:
    return sum(map(len, task.params["phases"]))


class _Emitter:
    """scratch: the state h, what the second phase reads in its place, the cell c, the gates' sums, and of every time the gates'
    products with the input; `hidden` floats each."""

    def __init__(self, task: Task, knobs: Knobs, scratch: int) -> None:
        from ..tir import Kernel

        self.task, self.lanes, self.together, self.k = task, knobs.lanes, knobs.together, Kernel(task, scratch)
        self.operands, self.hidden, self.gates = task.operands, task.params["hidden"], _gates(task)
        self.h, self.between, self.c, self.sums = (n * self.hidden for n in range(4))
        self.inputs = self.sums + self.gates * self.hidden

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
            whole = steps - steps % self.together
            for start, stop, count in ((0, whole, self.together), (whole, steps, 1)):
                if start < stop:
                    with T.serial(0, (stop - start) // count) as block:
                        self._input_products(env, block * count + start, count)
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

    def _input_products(self, env: Env, time: PrimExpr, count: int) -> None:
        """bias + W x of every gate for `count` times from `time` on."""
        from ..tir import T, alloc

        with_w = [g for g in range(self.gates) if f"w{g}" in self.operands]
        for first, width in chunks(self.hidden, self.lanes):
            sums = {(t, g): alloc(width) for t in range(count) for g in range(self.gates)}
            with T.vectorized(0, width) as lane:
                for (_, g), total in sums.items():
                    T.buffer_store(total, self.k.value(self.operands[f"bias{g}"], env | {"i3": first + lane}), [lane])
            with T.serial(0, self.task.params["inputs"]) as r:
                x = [T.Bind(self.k.value(self.operands["x"], env | {"i2": time + t, "r0": r})) for t in range(count)]
                with T.vectorized(0, width) as lane:
                    for g in with_w:
                        weight = T.Bind(self.k.value(self.operands[f"w{g}"], env | {"i3": first + lane, "r0": r}))
                        for t in range(count):
                            T.buffer_store(sums[t, g], sums[t, g][lane] + x[t] * weight, [lane])
            with T.vectorized(0, width) as lane:
                for (t, g), total in sums.items():
                    self._put(self.inputs, ((time + t) * self.gates + g) * self.hidden + first + lane, total[lane])

    def _products(self, env: Env, gates: tuple[int, ...], state: int) -> None:
        """The gates' sums: what came of the input, and R times the state."""
        from ..tir import T, alloc

        scratch = self.k.scratch
        with_r = [g for g in gates if f"r{g}_" in self.operands]
        for first, width in chunks(self.hidden, self.lanes):
            sums = {g: alloc(width) for g in gates}
            with T.vectorized(0, width) as lane:
                for g in gates:
                    product = scratch[self.inputs + (env["i2"] * self.gates + g) * self.hidden + first + lane]
                    T.buffer_store(sums[g], product, [lane])
            with T.serial(0, self.hidden) as r:
                h = T.Bind(scratch[state + r])
                with T.vectorized(0, width) as lane:
                    for g in with_r:
                        weight = self.k.value(self.operands[f"r{g}_"], env | {"i3": first + lane, "r0": r})
                        T.buffer_store(sums[g], sums[g][lane] + h * weight, [lane])
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
