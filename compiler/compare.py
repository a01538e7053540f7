"""Where does an artifact first differ from onnxruntime? Pass by pass, then kernel by kernel."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..schedules.device import Device
from ..targets.cpu import artifact, loader
from .driver import Compiled, Progress, compile_model, prepare, silent
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
    made = [(v, tuple(f"{n.op_type} {n.name}" for n in g.nodes)) for g in groups for v in g.outputs]
    outputs = set(model.graph.outputs)
    for v, _ in made:
        if v not in outputs:
            model.graph.outputs.append(v)
    wanted = dict(zip([str(v.name) for v in model.graph.outputs], reference(model, inputs, optimize=False), strict=True))
    got = run(compile_model(model, device, "compare", progress), list(inputs.values()), list(wanted.values()))
    layers = (Layer(nodes, difference(str(v.name), got[str(v.name)], wanted[str(v.name)])) for v, nodes in made)
    return Comparison(passes, tuple(layers))


def run(compiled: Compiled, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The compiled model's outputs by name, through an artifact that is thrown away. outputs: of the right shapes and dtypes."""
    with tempfile.TemporaryDirectory(prefix="burnish-compare-") as folder:
        path = artifact.write(compiled.plan, compiled.kernels, compiled.weights, inputs, outputs, compiled.device, Path(folder) / "out")
        with loader.load(path) as model:
            got = model(*inputs)
    return dict(zip([s.name for s in compiled.plan.outputs], got if isinstance(got, tuple) else (got,), strict=True))
