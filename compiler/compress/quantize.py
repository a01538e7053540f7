"""Layers on integers: a float model becomes one with rounded weights and, where asked for, rounded activations.

What keeps it accurate, in this order: channels of one value get alike ranges (passes/compress/equalize.py, smooth.py); ranges
are picked on calibration data (calibrators.py); each weight's rounding makes up for that of others (passes/compress/rounding.py);
a layer that rounding hurts more than is tolerated stays in float; what rounding does to the mean of a layer's output is taken
from its bias (Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.2, with
measured means). EfficientNet-Lite0's logits move by 4.2 % so; by 4.5 % without the first and third, by 8.6 % when the weights
alone are rounded to the nearest and nothing else is done. MiniLM's vectors move by 6.6 %, without the first by 14.3 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ...passes.compress import bias, rounding
from ...passes.compress.equalize import Tied, factors, gain, scale, tied
from ...passes.compress.layers import Layer, layers
from ...passes.compress.quantize import Scale, forget_dilations, round_value, round_weight, weight_bytes
from ...passes.compress.rounding import INT4, INT8, Rounded
from ...passes.compress.smooth import WORTH, loose, smooth
from ...passes.compress.stored import Stored, shared, stored
from ...passes.compress.treatment import Precision, Treatment
from ..driver import Progress, silent
from .calibration import Calibration, observe
from .calibrators import Grid, Histogram, Range, method
from .grams import LONGEST, All, Gram, Largest
from .report import LayerReport
from .rounding_effects import Trial, measure

BLOCK = 32          # steps of a reduction that share a scale of 4-bit weights
COARSE = 4.0        # times the scale that a value would have by itself is too coarse for it


@dataclass(frozen=True)
class Way:
    """How to round. top: the largest activation, 255, or 127 for kernels that take 7 bits. calibrator: see calibrators.method.
    symmetric: activations have their zero in the middle. tolerance: the error of a layer's output, as LayerReport has it, that is
    borne: some layers, as one of U2Net-p, sum up large inputs to nearly nothing, of which rounding leaves noise. migration: see
    equalize.factors; None leaves channels as they are."""

    top: int = 255
    calibrator: str = "min-max"
    symmetric: bool = False
    tolerance: float = 0.25
    migration: float | None = 0.5


def quantize(model: ir.Model, treatments: Mapping[str, Treatment], data: Calibration, *, top: int = 255, way: Way | None = None,
             progress: Progress = silent) -> list[LayerReport]:
    """Rounds the layers that are treated so, in place; others, and layers whose weights are no constants, are left alone.

    model: as `passes.canonicalize` leaves it. top: see Way, whose own is not read. Raises ValueError for an unknown calibrator,
    OracleError where onnxruntime cannot run the model.
    """
    chosen = [x for x in layers(model)
              if treatments.get(x.name, Treatment()).precision != "float" and x.input.const_value is None]
    if not chosen:
        return []
    way = replace(way or Way(), top=top)
    pick = method(way.calibrator)
    precisions: dict[str, Precision] = {x.name: treatments[x.name].precision for x in chosen}
    whole = {x.name for x in chosen if treatments[x.name].integer}      # weights and activations

    if way.migration is not None and whole:
        _equalize(model, [x for x in chosen if x.name in whole], data, way.migration, progress)
        chosen = [Layer(x.node) for x in chosen]
    places = stored(model, {x.node for x in chosen if x.name in whole})
    seen = {str(v.name): Histogram() for v in places.values}
    grams = {x.name: Gram.of(x, len(data)) for x in chosen if x.matrix.shape[1] <= LONGEST}
    watched = All.by_name([*seen.items(), *((str(g.layer.input.name), g) for g in grams.values())])
    observe(model, watched, data, "calibrate", progress)
    ranges = {v: pick(seen[str(v.name)], way.top, way.symmetric) for v in places.values}
    grids = _grids(places, ranges, way)

    rounded, notes = dict[str, Rounded](), dict[str, str]()
    for n, x in enumerate(chosen):
        progress("round weights", n, len(chosen))
        precisions[x.name], notes[x.name] = _fitting(x, precisions[x.name])
        rounded[x.name] = _weight(x, precisions[x.name], grams.pop(x.name, None))
    effects = measure(model, [Trial(x, rounded[x.name].matrix, grids.get(x.input) if x.name in whole else None) for x in chosen],
                      data, progress)

    reports = []
    kept = {x.name for x in chosen if effects[x.name].error <= way.tolerance}
    if not kept >= whole:
        places = stored(model, {x.node for x in chosen if x.name in kept & whole})
        grids = _grids(places, ranges, way)
    for x in chosen:
        effect, before = effects[x.name], x.weight.nbytes
        if x.name not in kept:
            note = f"stays in float: integers would change its output by {effect.error:.1%}"
            reports.append(LayerReport(x.name, "float", 0.0, before, before, note))
            continue
        if bias.movable(x):
            bias.write(model, x, bias.read(x) - effect.shift)
        round_weight(model, x, rounded[x.name])
        after = weight_bytes(x.node)
        assert after is not None
        reports.append(LayerReport(x.name, precisions[x.name], effect.error, before, after, notes[x.name]))
    _round_values(model, places, grids)
    return reports


def _equalize(model: ir.Model, chosen: Sequence[Layer], data: Calibration, migration: float, progress: Progress) -> None:
    """Gives the channels of what the layers read alike ranges, and changes nothing else."""
    places = stored(model, {x.node for x in chosen}).values
    groups = [g for g in tied(model, chosen) if any(v in places for v in g.values)]
    others = loose(chosen, groups)
    seen = {str(v.name): Largest(g.axis) for g in (*groups, *others) for v in g.values if v in places}
    if not seen:
        return
    observe(model, seen, data, "equalize", progress)

    def of(group: Tied) -> np.ndarray:
        return factors(group, np.max([seen[str(v.name)].found for v in group.values if v in places], axis=0), migration)
    for group in groups:
        scale(model, group, of(group))
    for group in others:
        s = of(group)
        if gain(group, s) > WORTH:
            smooth(model, group, s)


def _fitting(layer: Layer, precision: Precision) -> tuple[Precision, str]:
    """The precision that its weights get, and why not the one that was asked for."""
    whole_blocks = layer.pointwise or (layer.groups == 1 and layer.weight.shape[1] % BLOCK == 0)
    if precision == "w4" and not whole_blocks:
        return "w8", f"8 bits: its input channels are no multiple of {BLOCK}"
    return precision, ""


def _weight(layer: Layer, precision: Precision, gram: Gram | None) -> Rounded:
    codes, block = (INT4, BLOCK) if precision == "w4" else (INT8, 0)
    importance = None if gram is None else np.einsum("gkk->gk", gram.square)
    scale = rounding.scales(layer.matrix, codes, block, importance=importance)
    if gram is None:
        return rounding.nearest(layer.matrix, scale, codes, block)
    hessians = [gram.hessian(g, bias.movable(layer)) for g in range(layer.groups)]
    return rounding.compensated(layer.matrix, scale, hessians, codes, block)


# ---- Activations ---------------------------------------------------------------------------------------------------------


def _grids(places: Stored, ranges: Mapping[ir.Value, Range], way: Way) -> dict[ir.Value, Grid]:
    """Of each value; values that share one have the range of all of them. The model's inputs always have 8 bits: in 7, a picture
    loses as much as in all layers together, and the first layer takes little of the time."""
    pairs = list(places.same)
    heads = shared(pairs)
    for part, whole in places.alike:
        together = [v for v in places.values if heads.get(v, v) in (heads.get(part, part), heads.get(whole, whole))]
        union = _union(ranges[v] for v in together)
        if all(_width(union) <= COARSE * _width(ranges[v]) for v in together):
            pairs.append((part, whole))
            heads = shared(pairs)
    groups: dict[ir.Value, list[ir.Value]] = {}
    for v in places.values:
        groups.setdefault(heads.get(v, v), []).append(v)
    found = {}
    for group in groups.values():
        top = 255 if any(v.producer() is None for v in group) else way.top
        grid = Grid.of(_union(ranges[v] for v in group), top, way.symmetric)
        found.update(dict.fromkeys(group, grid))
    return found


def _union(ranges: Iterable[Range]) -> Range:
    low, high = zip(*ranges, strict=True)
    return min(low), max(high)


def _width(found: Range) -> float:
    return max(found[1], 0.0) - min(found[0], 0.0)


def _round_values(model: ir.Model, places: Stored, grids: Mapping[ir.Value, Grid]) -> None:
    forget_dilations(model)
    scales: dict[Grid, Scale] = {}
    for value, uses in places.values.items():
        grid = grids[value]
        if grid not in scales:
            scales[grid] = Scale.of(model, str(value.name), grid.scale, grid.zero, grid.top)
        round_value(model, value, uses, scales[grid])
