"""A whole model by its tasks: partitioned, lowered, and each task interpreted."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from burnish.compiler.lower.group import LoweredGroup, lower
from burnish.compiler.lower.registry import Anchor, Output, dtype_of, shape_of
from burnish.compiler.partition import partition
from burnish.compiler.placement import Region

from .interpreter import run_anchor


def run_tasks(model: ir.Model, given: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], set[str]]:
    """The graph's outputs, and the families of its tasks. The model is as passes leave it."""
    parts = partition(model)
    values = {v: given[v.name] for v in model.graph.inputs}
    families: set[str] = set()
    for group in parts.groups:
        lowered = lower(group, parts)
        assert isinstance(lowered, LoweredGroup), lowered
        task, arrays = lowered.task, []
        for buffer, binding in zip(task.buffers, lowered.bindings, strict=True):
            if buffer.role == "output":     # filled with what nothing computes, to show what is never stored
                nothing = np.nan if buffer.dtype.startswith("float") else 77
                values.setdefault(binding.root, np.full(shape_of(binding.root), nothing).astype(buffer.dtype))
            constant = isinstance(binding, np.ndarray)
            arrays.append(binding.reshape(buffer.shape) if constant else view(values[binding.root], binding))
        for s in task.stores:
            anchor = Anchor(task.family, s.space, (Output(s.index, s.value),), task.params, task.operands, task.stages)
            run_anchor(anchor, arrays, [arrays[s.buffer]])
        families.add(task.family)
    return [view(values[p.root], p).astype(dtype_of(p.root)) for p in map(parts.region, model.graph.outputs)], families


def view(array: np.ndarray, place: Region) -> np.ndarray:
    """What lies there, as an array that can be stored into; nothing can be read beside it."""
    steps = [array.itemsize * math.prod(place.memory[n + 1:]) for n in range(len(place.memory))]
    return np.lib.stride_tricks.as_strided(array.reshape(-1)[place.offset:], place.shape, steps)
