"""How sparse each layer may be, so that the whole model loses the least at a given number of multiplications.

A layer's own error at each density follows from the sums of its inputs (hessian.py), as the surgeon removes one unit after
another. What an error of that layer does to the outputs of the model is measured: the layer is pruned by itself, the model run on
a few samples. The product is what passes/compress/prune_allocate.py shares out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice

import numpy as np
import onnx_ir as ir

from ...passes.compress import obs
from ...passes.compress.layers import Layer, layers
from ...passes.compress.prune_allocate import Curve, allocate
from ...passes.compress.prune_units import columns, prune, refusal
from ...passes.compress.treatment import Sparsity
from ..driver import Progress, silent
from ..sample import session
from .calibration import Calibration, Feed
from .hessian import Moments, gather, not_padding, stages

LEAST = 0.5         # of the share that all keep together, is what a layer keeps at least: errors add up only while they are small
GROUPS = 6          # of channels, from each layer, whose errors stand for all
SAMPLES = 8         # on which the effect of a layer on the model's outputs is measured
NUDGE = 0.75        # density of the layer that is measured: an error that is neither noise nor ruin


def spread(model: ir.Model, sparsity: Sparsity, data: Calibration, *, by: str = "macs",
           progress: Progress = silent) -> dict[str, Sparsity]:
    """For each layer that can be pruned, a sparsity of its own, so that all together keep `sparsity.share` of their multiply-adds
    (by "macs") or weights (by "weights"), to within a unit of each group of channels.

    model: as `passes.canonicalize` leaves it; it is not changed. Raises ValueError for N:M, which leaves nothing to share out,
    and OracleError where onnxruntime cannot run the model.
    """
    if sparsity.period:
        raise ValueError(f"{sparsity} is the same everywhere: only a share of blocks can be spread over layers")
    found = curves(model, sparsity, data, by=by, progress=progress)
    return {name: replace(sparsity, share=share) for name, share in allocate(found, sparsity.share).items()}


def curves(model: ir.Model, sparsity: Sparsity, data: Calibration, *, by: str = "macs",
           progress: Progress = silent) -> dict[str, Curve]:
    """What pruning each layer to any density is expected to cost: the squared relative error of the model's outputs."""
    able = [layer for layer in layers(model) if not refusal(layer, sparsity)]
    own: dict[str, tuple[tuple[float, ...], np.ndarray]] = {}
    nudged: dict[str, tuple[np.ndarray, float]] = {}
    for stage in stages(able, 1):
        seen, _ = gather(model, stage, data, None, 0, "observe for allocation", progress)
        for done, layer in enumerate(stage, 1):
            own[layer.name] = _errors(layer, sparsity, seen[layer.name], LEAST * sparsity.share)
            nudged[layer.name] = _nudged(layer, sparsity, seen[layer.name])
            progress("errors of layers", done, len(stage))
    effects = _effects(model, {layer.name: layer.as_weight(nudged[layer.name][0]) for layer in able}, data, progress)
    out = {}
    for layer in able:
        densities, errors = own[layer.name]
        # No layer counts as harmless: of a thousandth of the largest effect, measurement says nothing.
        effect = max(effects[layer.name], 1e-3 * max(effects.values())) / max(nudged[layer.name][1], 1e-12)
        out[layer.name] = Curve(densities, tuple(map(float, errors * effect)), layer.macs if by == "macs" else layer.matrix.size)
    return out


def _errors(layer: Layer, sparsity: Sparsity, seen: Moments, share: float) -> tuple[tuple[float, ...], np.ndarray]:
    """Densities, rising from `share`, and the layer's squared error at each, relative to its output."""
    groups, k, n = layer.matrix.shape
    count = -(-k // sparsity.step)
    least = max(1, round(count * share))
    densities = np.linspace(least / count, 1, 40)
    total, energy = np.zeros(len(densities)), 0.0
    every = [(g, c) for g in range(groups) for c in columns(n, sparsity.group)]
    inverses: dict[int, np.ndarray] = {}
    for g, c in every[::max(1, len(every) // GROUPS)]:
        if g not in inverses:
            inverses = {g: obs.inverse(seen.damped(g)).astype(np.float32)}
        w = layer.matrix[g][:, c]
        steps = [(len(np.unique(s.left // sparsity.step)) / count, s.error)
                 for s in obs.eliminate(w, inverses[g], sparsity.step, count, least)]
        at, errors = zip(*reversed(steps), strict=True)
        total += np.interp(densities, at, errors)
        energy += float(seen.squares[g, c].sum())
    return tuple(map(float, densities)), total / max(energy, 1e-300)


def _nudged(layer: Layer, sparsity: Sparsity, seen: Moments) -> tuple[np.ndarray, float]:
    """The matrix, a little pruned, and the layer's squared error with it."""
    share = replace(sparsity, share=NUDGE)
    matrix = np.stack([prune(w, share, "wanda", seen.damped(g)) for g, w in enumerate(layer.matrix)])
    return matrix, seen.error(matrix) ** 2


def _effects(model: ir.Model, weights: Mapping[str, np.ndarray], data: Calibration, progress: Progress) -> dict[str, float]:
    """The squared relative error of the model's float outputs when one layer has another weight."""
    graph = model.clone()
    names = {layer.name: str(layer.node.inputs[1].name) for layer in layers(graph)      # type: ignore[union-attr]
             if layer.name in weights}
    for name in sorted(set(names.values())):        # an initializer that is an input, too, can be overridden
        graph.graph.inputs.append(graph.graph.initializers[name])
    run = session(graph)
    off, energy = dict.fromkeys(weights, 0.0), 0.0
    for done, feed in enumerate(_spread_out(data, SAMPLES), 1):
        true = _floats(run.run(None, dict(feed)), feed)
        energy += sum(float(np.vdot(y, y)) for y in true)
        for layer, value in names.items():
            made = _floats(run.run(None, {**feed, value: np.asarray(weights[layer], np.float32)}), feed)
            off[layer] += sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in zip(made, true, strict=True))
        progress("effects of layers", done, min(SAMPLES, len(data)))
    return {name: e / max(energy, 1e-300) for name, e in off.items()}


def _floats(outputs: list[np.ndarray], feed: Feed) -> list[np.ndarray]:
    """Those of the outputs that are floats, without padding."""
    real = not_padding(feed)
    return [y if real is None or y.ndim != 3 or y.shape[1] != real.size else y[:, real] for y in outputs if y.dtype.kind == "f"]


def _spread_out(data: Calibration, most: int) -> Iterator[Feed]:
    """Samples from all over the data."""
    return islice(islice(iter(data), 0, None, max(1, len(data) // most)), most)
