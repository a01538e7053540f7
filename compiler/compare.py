"""Where does an artifact first differ from onnxruntime? Pass by pass, then kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..schedules.device import Device
from ..targets.cpu import execute
from .driver import Progress, compile_model, prepare, silent
from .lower.registry import LOWERINGS
from .partition import partition
from .sample import reference
from .verify import Difference, difference


@dataclass(frozen=True)
class Layer:
    """One kernel's output against onnxruntime's value of the same name; nodes: the source ONNX nodes."""

    nodes: tuple[str, ...]
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """passes: outputs of the prepared graph against those of the model as imported, both in onnxruntime; layers: in the order in
    which they run."""

    passes: tuple[Difference, ...]
    layers: tuple[Layer, ...]

    @property
    def first(self) -> Layer | None:
        """The first kernel whose output is past its tolerance."""
        return next((x for x in self.layers if not x.difference.ok), None)

    @property
    def guilty_passes(self) -> bool:
        return any(not d.ok for d in self.passes)


def compare(load: Callable[[], ir.Model], inputs: Mapping[str, np.ndarray], device: Device, progress: Progress = silent) -> Comparison:
    """Compiles the model with the output of every kernel exposed, and runs it beside onnxruntime. `load` imports the model anew."""
    expected = reference(load(), inputs)
    model, _ = prepare(load(), progress)
    names = [str(v.name) for v in model.graph.outputs]
    passes = tuple(difference(n, g, e) for n, g, e in zip(names, reference(model, inputs), expected, strict=True))
    groups = partition(model).groups
    outputs = set(model.graph.outputs)
    exposed = [(v, g) for g in groups for v in g.outputs if v not in outputs]
    nodes = {str(v.name): tuple(f"{n.op_type} {n.name}" for n in g.nodes) for g in groups for v in g.outputs}
    for v, _ in exposed:
        model.graph.outputs.append(v)
    values = reference(model, inputs, optimize=False)
    wanted = {str(v.name): a for v, a in zip(model.graph.outputs, values, strict=True)}
    compiled = compile_model(model, device, "compare", progress)
    got = execute(compiled.plan, compiled.kernels, compiled.weights, inputs, device)
    order = [str(v.name) for g in groups for v in g.outputs]
    return Comparison(passes, tuple(Layer(nodes[n], difference(n, got[n], wanted[n])) for n in order if n in got and n in wanted))


def lowered_ops() -> list[str]:
    """Every op that has a lowering, as domain::name."""
    return sorted(f"{domain}::{op}" if domain else op for domain, op in LOWERINGS)
