"""The lowered model as the tuner runs it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ..schedules.scene import Scene, Step
from .driver import Lowered
from .planner import bytes_of, places, up


def scene_of(lowered: Lowered, inputs: Mapping[str, np.ndarray]) -> Scene:
    """Every value where the artifact would have it: the arena first, then the inputs and outputs, which are the caller's there.
    inputs: by name."""
    place_of, size = places(lowered.model, lowered.groups)
    graph = lowered.model.graph
    offsets: dict[ir.Value, int] = {}
    for v in dict.fromkeys((*graph.inputs, *graph.outputs)):
        offsets[v], size = size, size + up(bytes_of(v))
    steps = tuple(Step(g.task, tuple(b if isinstance(b, np.ndarray) else offsets.get(b.root, place_of[b.root].offset) + b.start
                                     for b in g.bindings))
                  for g in lowered.groups)
    return Scene(size, tuple((offsets[v], inputs[str(v.name)]) for v in graph.inputs), steps)
