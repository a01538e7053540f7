"""Where everything lies: liveness-based arena offsets, packed constants in execution order, the list of launches."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ..schedules.device import Device
from ..schedules.space import Knobs
from ..schedules.task import ITEMSIZE, Task
from ..schedules.template import Template
from ..targets.plan import ALIGNMENT, Launch, Place, Plan, Signature, Variant
from .lower.group import LoweredGroup
from .lower.registry import dtype_of, shape_of
from .placement import Region


@dataclass(frozen=True)
class Choice:
    """How a task is made; origin: who chose it, in words; variants: other ways, which take its constants as they are packed for
    this one."""

    symbol: str
    task: Task
    template: Template
    knobs: Knobs
    origin: str = ""
    variants: tuple[Choice, ...] = ()


def up(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def bytes_of(value: ir.Value) -> int:
    return math.prod(shape_of(value)) * ITEMSIZE[dtype_of(value)]


def place_buffers(sizes: Sequence[int], births: Sequence[int], deaths: Sequence[int]) -> tuple[list[int], int]:
    """Offsets such that buffers alive at the same time do not overlap, and the arena's size: largest first, each at the lowest
    free offset (greedy by size, Pisarchyk & Lee 2020, section 5.2). A buffer lives from step births[n] to deaths[n], both
    included."""
    offsets = [0] * len(sizes)
    placed: list[int] = []
    total = 0
    for n in sorted(range(len(sizes)), key=lambda n: (-sizes[n], births[n])):
        rivals = sorted((m for m in placed if births[m] <= deaths[n] and births[n] <= deaths[m]), key=lambda m: offsets[m])
        at = 0
        for m in rivals:
            if at + sizes[n] <= offsets[m]:
                break
            at = max(at, offsets[m] + sizes[m])
        offsets[n] = at
        placed.append(n)
        total = max(total, at + sizes[n])
    return offsets, total


class Prepared:
    """Constants that are made when the model is created; equal ones once."""

    def __init__(self, choices: Mapping[str, Choice], device: Device) -> None:
        self.setup: list[Launch] = []
        self.size = 0
        self._choices, self._device = choices, device
        self._known: dict[tuple[int, str], Place] = {}

    def add(self, source: int, task: Task, nodes: tuple[str, ...]) -> Place:
        """Where the setup puts what `task` makes of the weights at `source`."""
        if (source, task.key) not in self._known:
            (output,) = task.outputs
            place = self._known[source, task.key] = Place("prepared", self.size)
            self.size += up(task.buffers[output].bytes)
            args = tuple(place if n == output else Place("weights", source) for n in range(len(task.buffers)))
            nbytes = sum(b.bytes for b in task.buffers)
            self.setup.append(launch(task, self._choices[task.key], args, nodes, nbytes, self._device))
        return self._known[source, task.key]


class Weights:
    """The packed constants, one after another in order of first use; equal ones once."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.size = 0
        self._known: dict[bytes, int] = {}

    def add(self, array: np.ndarray) -> int:
        """Offset in bytes of the array's content."""
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        key = hashlib.sha256(raw.data).digest()
        if key not in self._known:
            self._known[key] = self.size
            self.parts += [raw, np.zeros(up(len(raw)) - len(raw), np.uint8)]
            self.size += up(len(raw))
        return self._known[key]

    def array(self) -> np.ndarray:
        return np.concatenate(self.parts) if self.parts else np.zeros(0, np.uint8)


def places(model: ir.Model, lowered: Sequence[LoweredGroup]) -> tuple[dict[ir.Value, Place], int]:
    """Where every value lies, and the arena's size. The model's inputs and outputs are used where the caller put them;
    everything else lives in the arena."""
    inputs = {v: n for n, v in enumerate(model.graph.inputs)}
    outputs = {v: n for n, v in enumerate(model.graph.outputs)}
    births: dict[ir.Value, int] = {}
    deaths: dict[ir.Value, int] = {}
    for step, low in enumerate(lowered):
        for b in low.bindings:
            if isinstance(b, Region) and b.root not in inputs and b.root not in outputs:
                births.setdefault(b.root, step)
                deaths[b.root] = step
    live = list(births)
    offsets, arena = place_buffers([up(bytes_of(v)) for v in live], list(births.values()), [deaths[v] for v in live])
    place_of = {v: Place("arena", o) for v, o in zip(live, offsets, strict=True)}
    place_of |= {v: Place("input", n) for v, n in inputs.items()} | {v: Place("output", n) for v, n in outputs.items()}
    return place_of, arena


def plan(name: str, model: ir.Model, lowered: Sequence[LoweredGroup], choices: Mapping[str, Choice],
         device: Device) -> tuple[Plan, np.ndarray]:
    """The plan of the model and the content of its weights file. `choices`: by task key, also of the tasks that prepare
    constants."""
    place_of, arena = places(model, lowered)
    weights, launches, prepared = Weights(), [], Prepared(choices, device)
    for low in lowered:
        c = choices[low.task.key]
        packs, prepare = c.template.pack(low.task, c.knobs, device), c.template.prepare(low.task, c.knobs, device)
        nodes = tuple(f"{n.op_type} {n.name}" for n in low.group.nodes)
        args = []
        for n, b in enumerate(low.bindings):
            if isinstance(b, Region):
                args.append(replace(place_of[b.root], start=b.start))
                continue
            source = weights.add(packs[n](b) if n in packs else b)
            args.append(prepared.add(source, prepare[n], nodes) if n in prepare else Place("weights", source))
        launches.append(launch(low.task, c, tuple(args), nodes, sum(b.nbytes for b in low.bindings), device))
    result = Plan(
        name=name, inputs=tuple(map(signature, model.graph.inputs)), outputs=tuple(map(signature, model.graph.outputs)),
        launches=tuple(launches), arena=arena, scratch=scratch([*prepared.setup, *launches]),
        weights=weights.size, setup=tuple(prepared.setup), prepared=prepared.size)
    return result, weights.array()


def launch(task: Task, choice: Choice, args: tuple[Place, ...], nodes: tuple[str, ...], nbytes: int, device: Device) -> Launch:
    def variant(c: Choice) -> Variant:
        return Variant(c.symbol, c.template.tiles(task, c.knobs, device), c.template.scratch(task, c.knobs, device))

    first = variant(choice)
    return Launch(kernel=first.kernel, args=args, tiles=first.tiles, scratch=first.scratch, nodes=nodes, flops=flops(task),
                  bytes=nbytes, variants=tuple(map(variant, choice.variants)))


def scratch(launches: Sequence[Launch]) -> int:
    """Bytes that serve all of them, one after another."""
    return max((up(way.scratch) for x in launches for way in x.ways), default=0)


def signature(value: ir.Value) -> Signature:
    return Signature(str(value.name), shape_of(value), dtype_of(value))


def flops(task: Task) -> int:
    """Arithmetic that the operation needs: two for each multiply-add of an anchor, one for each element otherwise."""
    p = task.params
    match task.family:
        case "gemm":
            return int(2 * p["batch"] * p["m"] * p["n"] * p["k"])
        case "pair":
            return int(2 * p["batch"] * p["m"] * p["r"] * (p["k"] + p["n"]))
        case "conv":
            return int(2 * p["n"] * p["oh"] * p["ow"] * p["groups"] * p["oc"] * p["kh"] * p["kw"] * p["ic"])
        case "depthwise":
            return int(2 * p["n"] * p["oh"] * p["ow"] * p["c"] * p["kh"] * p["kw"])
        case "attention":
            return int(2 * p["batch"] * p["heads"] * p["nq"] * p["nk"] * (p["d"] + p["dv"]))
        case "rows":
            return math.prod([*p["space"], *p["reduce"]]) * max(1, len(task.stages))
        case _:
            return sum(math.prod(s.space) for s in task.stores)
