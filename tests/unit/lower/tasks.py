"""A whole model by its tasks: partitioned, lowered, and each task interpreted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from burnish.compiler.lower.group import LoweredGroup, lower
from burnish.compiler.lower.registry import Anchor, Output, dtype_of, shape_of
from burnish.compiler.partition import partition

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
                array = values[binding] = np.full(buffer.shape, nothing).astype(buffer.dtype)
            else:
                array = (binding if isinstance(binding, np.ndarray) else values[parts.root(binding)]).reshape(buffer.shape)
            arrays.append(array)
        for s in task.stores:
            anchor = Anchor(task.family, s.space, (Output(s.index, s.value),), task.params, task.operands, task.stages)
            run_anchor(anchor, arrays, [arrays[s.buffer]])
        families.add(task.family)
    return [values[parts.root(v)].reshape(shape_of(v)).astype(dtype_of(v)) for v in model.graph.outputs], families
