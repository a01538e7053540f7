"""All remaining weights of a compressed model trained together, so that it makes of samples what the original makes of them.

Where layers are much changed, what each of them can make good by itself (recover.py) is not enough: their errors meet in the
layers behind. The original is the teacher, samples need no labels: the loss is the squared error of the outputs and of every
layer on the way to them, each relative to what the original has there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from ...passes.base import constant
from ...passes.compress.layers import layers
from ..driver import Progress, silent
from .autograd import Differentiable, load_torch
from .calibration import Calibration, Feed, probe
from .hessian import not_padding
from .report import LayerReport

STEPS, BATCH = 300, 4
RATE = 0.01         # of a step of Adam, relative to the root mean square of what is trained; it falls as a cosine to nothing
HELD = 8            # each HELD-th sample only judges


def distill(original: ir.Model, compressed: ir.Model, data: Calibration, progress: Progress = silent, *,
            steps: int = STEPS, batch: int = BATCH, rate: float = RATE) -> list[LayerReport]:
    """Trains the float weights and biases of the layers of `compressed` in place; zeros stay zero. If samples that were held back
    are not nearer to the original afterwards, nothing is changed. Raises NoGradient where torch is missing or an op unknown."""
    torch = load_torch()
    net = Differentiable(compressed)
    trained = _trained(compressed)
    masks = {}
    for name in trained:
        net.weights[name].requires_grad_(True)
        masks[name] = net.weights[name].detach() != 0
    pairs = _pairs(original, compressed)
    teach = probe(original, tuple(pairs.values()))
    optimizer = torch.optim.Adam([{"params": [p], "lr": rate * max(1e-4, float(p.detach().square().mean().sqrt()))}
                                  for name in trained for p in [net.weights[name]]])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.5 * (1 + math.cos(math.pi * i / steps)))
    ends = {str(v.name) for v in compressed.graph.outputs}

    def loss(feed: Feed) -> tuple[Any, Any]:
        """Of the outputs, and the mean of the layers."""
        wanted, made = teach(feed), net(feed, frozenset(pairs))
        real = not_padding(feed)
        errors = {name: _relative(y, torch.from_numpy(wanted[pairs[name]]), real) for name, y in made.items()}
        inner = [e for name, e in errors.items() if name not in ends]
        outer = [e for name, e in errors.items() if name in ends]
        return sum(outer) / max(1, len(outer)), sum(inner) / max(1, len(inner))

    def judge() -> float:
        with torch.no_grad():
            held = [float(loss(feed)[0]) for i, feed in enumerate(data) if len(data) < HELD or i % HELD == HELD - 1]
        return sum(held) / len(held)

    before = judge()
    first = {name: net.weights[name].detach().clone() for name in trained}
    taken = 0
    while taken < steps * batch:
        for i, feed in enumerate(data):
            if taken == steps * batch:
                break
            if len(data) >= HELD and i % HELD == HELD - 1:
                continue
            outer, inner = loss(feed)
            ((outer + inner) / batch).backward()
            taken += 1
            if taken % batch == 0:
                for name in trained:
                    net.weights[name].grad *= masks[name]
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                progress("distill", taken // batch, steps)
    after = judge()
    better = after < before
    for name in trained:
        array = (net.weights[name] * masks[name] if better else first[name]).detach().numpy()
        compressed.graph.initializers[name].const_value = ir.tensor(np.ascontiguousarray(array), name=name)
    size = sum(first[name].numel() * 4 for name in trained)
    note = f"error of the outputs on samples held back; it was {math.sqrt(before):.4f}" + ("" if better else "; nothing gained")
    return [LayerReport("all layers", "distillation", math.sqrt(min(before, after)), size, size, note)]


def _trained(model: ir.Model) -> list[str]:
    """The names of the initializers that hold weights and biases of layers."""
    found: dict[str, None] = {}
    for layer in layers(model):
        held = layer.bias
        for value in (layer.node.inputs[1], held[0].inputs[held[1]] if held else None):
            if value is not None and value.name in model.graph.initializers and constant(value) is not None:
                found[str(value.name)] = None
    return list(found)


def _pairs(original: ir.Model, compressed: ir.Model) -> dict[str, str]:
    """{value of the compressed model: what it should be in the original}: outputs, and what layers of the same name make."""
    known = {n.name: n.outputs[0] for n in original.graph if n.outputs}
    found = {str(c.name): str(o.name) for c, o in zip(compressed.graph.outputs, original.graph.outputs, strict=True)}
    for layer in layers(compressed):
        other = known.get(layer.name)
        if other is not None and other.shape == layer.output.shape:
            found.setdefault(str(layer.output.name), str(other.name))
    return found


def _relative(y: Any, wanted: Any, real: np.ndarray | None) -> Any:
    """real: which places of a text are looked at."""
    if real is not None and y.ndim == 3 and y.shape[1] == real.size:
        y, wanted = y[:, real], wanted[:, real]
    return (y - wanted).square().sum() / wanted.square().sum().clamp(min=1e-12)
