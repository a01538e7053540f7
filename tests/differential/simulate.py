"""A plan carried out by the interpreter, in an arena of bytes: buffers that overlap while both live show as wrong results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from burnish.compiler.driver import Lowered
from burnish.compiler.lower.registry import Anchor, Output
from burnish.compiler.placement import Region
from burnish.compiler.planner import Choice, plan
from burnish.schedules.device import Device
from burnish.schedules.space import Knobs, Space
from burnish.schedules.task import ITEMSIZE, Buffer, Task
from burnish.schedules.template import Template
from burnish.targets.plan import Place
from lower.interpreter import run_anchor


class AsIs(Template):
    """A template for planning only: constants stay as they are."""

    name, family = "as-is", "any"

    def space(self, task: Task, device: Device) -> Space:
        raise NotImplementedError

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        raise NotImplementedError

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return 1

    def emit(self, task: Task, knobs: Knobs, device: Device) -> None:
        raise NotImplementedError


def run_plan(lowered: Lowered, device: Device, given: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
    """The model's outputs. Memory that nothing has written holds 0xff: NaN, -1, true."""
    choices = {low.task.key: Choice("kernel", low.task, AsIs(), Knobs(())) for low in lowered.groups}
    made, weights = plan("simulated", lowered.model, lowered.groups, choices, device)
    arena = np.full(made.arena, 0xff, np.uint8)
    outputs = [np.full(s.nbytes, 0xff, np.uint8) for s in made.outputs]
    inputs = [np.ascontiguousarray(given[s.name]).reshape(-1).view(np.uint8) for s in made.inputs]

    def memory(place: Place) -> np.ndarray:
        match place.where:
            case "arena": return arena[place.offset + place.start:]
            case "weights": return weights[place.offset:]
            case "input": return inputs[place.offset][place.start:]
            case _: return outputs[place.offset][place.start:]

    def array(place: Place, buffer: Buffer, binding: Region | np.ndarray) -> np.ndarray:
        """A value that is part of something larger: nothing beside it can be read or stored."""
        if isinstance(binding, np.ndarray):
            return memory(place)[:buffer.bytes].view(buffer.dtype).reshape(buffer.shape)
        raw = memory(place)
        raw = raw[:len(raw) // ITEMSIZE[buffer.dtype] * ITEMSIZE[buffer.dtype]].view(buffer.dtype)
        steps = [raw.itemsize * math.prod(buffer.shape[n + 1:]) for n in range(len(buffer.shape))]
        assert sum((n - 1) * s for n, s in zip(binding.shape, steps, strict=True)) < raw.nbytes or 0 in binding.shape
        return np.lib.stride_tricks.as_strided(raw, binding.shape, steps)

    for launch, low in zip(made.launches, lowered.groups, strict=True):
        task = low.task
        arrays = [array(*x) for x in zip(launch.args, task.buffers, low.bindings, strict=True)]
        for s in task.stores:
            anchor = Anchor(task.family, s.space, (Output(s.index, s.value),), task.params, task.operands, task.stages)
            run_anchor(anchor, arrays, [arrays[s.buffer]])
    return [o.view(s.dtype).reshape(s.shape) for o, s in zip(outputs, made.outputs, strict=True)]
